//! The znodes: their paths, their text, and what of a stranger's writing is believed.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, SocketAddrV4},
    str,
};

use crate::{
    error::Error,
    registry::{Endpoint, MAX_WEIGHT, Publication, ServiceName, is_zone},
    wire::{Dialect, Wire},
};

/// What a directory's entry says: an endpoint, nothing for us, or rubbish and why it is rubbish.
pub(super) type Reading = Result<Option<Endpoint>, &'static str>;

/// The directory of a service's instances.
pub(super) fn instances_dir(service: &ServiceName) -> String {
    format!("/mprpc/services/{}/instances", service.full)
}

/// The directory where C++ nodes register a service's methods.
pub(super) fn legacy_dir(service: &ServiceName) -> String {
    format!("/{}", service.short)
}

/// Lets a service pass whose every name is `[A-Za-z_][A-Za-z0-9_.]*`, so that it is safe in a path.
pub(super) fn check_names(service: &ServiceName) -> Result<(), Error> {
    let letter = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    let rest = |b: u8| letter(b) || b.is_ascii_digit() || b == b'.';
    let mut names = [&service.full, &service.short].into_iter().chain(&service.methods);
    if names.all(|name| name.bytes().next().is_some_and(letter) && name.bytes().all(rest)) {
        return Ok(());
    }
    let text = format!("{service:?}: only letters, digits, _ and . may stand in a name");
    Err(Error::Usage(text))
}

/// What a process writes into its instance node. `start` is in milliseconds since 1970.
pub(super) fn instance_text(of: &Publication, draining: bool, app: &str, start: u128) -> String {
    let Publication { instance: id, addr, weight, zone, .. } = of;
    let proto = if of.legacy { "mux,legacy" } else { "mux" };
    let state = if draining { "draining" } else { "up" };
    let app = app.replace(char::is_control, " ");
    let app: String = app.chars().take(64).collect();
    format!(
        "v=1\nid={id:016x}\naddr={addr}\nproto={proto}\nweight={weight}\nstate={state}\nzone={zone}\nstart={start}\napp={app}\n"
    )
}

/// What a C++ caller finds at a method; `None` if it could not read it (IPv6).
pub(super) fn mirror_text(addr: SocketAddr) -> Option<Vec<u8>> {
    let text = [addr.to_string().as_bytes(), MARK].concat();
    (addr.is_ipv4() && text.len() < MAX_LEGACY).then_some(text)
}

/// The process that an instance node speaks for.
pub(super) fn instance_id(data: &[u8]) -> Option<u64> {
    u64::from_str_radix(field(instance(data).ok()?, "id")?, 16).ok()
}

/// The address that an instance node speaks for.
pub(super) fn instance_addr(data: &[u8]) -> Option<SocketAddr> {
    address(field(instance(data).ok()?, "addr")?)
}

/// Reads the instance node called `name`.
pub(super) fn read_instance(name: &str, data: &[u8]) -> Reading {
    let text = instance(data)?;
    let field = |key| field(text, key);
    if !matches!(field("v").map(str::parse::<u32>), Some(Ok(1..))) {
        return Err("no version");
    }
    let addr = field("addr").and_then(address).ok_or("no address")?;
    if address(name) != Some(addr) {
        return Err("another address than its name");
    }
    let mut endpoint = Endpoint {
        weight: field("weight").unwrap_or("100").parse().unwrap_or(u32::MAX),
        draining: field("state") == Some("draining"),
        // A zone that makes no sense is no reason to lose a provider.
        zone: field("zone").filter(|zone| is_zone(zone)).unwrap_or_default().to_owned(),
        ..Endpoint::new(addr, Wire::Mux)
    };
    let speaks = |wire| field("proto").unwrap_or("mux").split(',').any(|p| p.trim() == wire);
    if !speaks("mux") {
        endpoint.wire = Wire::Legacy(Dialect::LittleEndian);
    }
    match field("state") {
        _ if !speaks("mux") && !speaks("legacy") => Err("no wire that is known here"),
        _ if endpoint.weight > MAX_WEIGHT => Err("no weight up to 10000"),
        None | Some("up" | "draining") => Ok(Some(endpoint)),
        Some(_) => Err("neither up nor draining"),
    }
}

/// Reads what stands at a method: a C++ provider's address. A mirror of ours says nothing new.
pub(super) fn read_legacy(method: &str, data: &[u8]) -> Reading {
    let addr = legacy_address(data).ok_or("no IPv4:port")?;
    if data[addr.to_string().len()..].starts_with(MARK) {
        return Ok(None);
    }
    let methods = Some(BTreeSet::from([method.to_owned()]));
    Ok(Some(Endpoint { methods, ..Endpoint::new(addr, Wire::Legacy(Dialect::LittleEndian)) }))
}

/// The address at a method: the text up to NUL or `;`, as C++ callers read it.
pub(super) fn legacy_address(data: &[u8]) -> Option<SocketAddr> {
    let text = data.split(|b| matches!(b, 0 | b';')).next()?;
    let addr: SocketAddrV4 = str::from_utf8(text).ok()?.parse().ok()?;
    let sound = data.len() <= MAX_LEGACY && addr.to_string().len() == text.len();
    (sound && dialable(addr.into())).then_some(addr.into())
}

/// An address in the one spelling that counts: two spellings would be two providers.
pub(super) fn address(text: &str) -> Option<SocketAddr> {
    let addr: SocketAddr = text.parse().ok()?;
    (dialable(addr) && addr.to_string() == text).then_some(addr)
}

/// Whether anybody can serve at this address at all.
pub(super) fn dialable(addr: SocketAddr) -> bool {
    let IpAddr::V4(ip) = addr.ip().to_canonical() else {
        return addr.port() != 0 && !addr.ip().is_unspecified() && !addr.ip().is_multicast();
    };
    addr.port() != 0 && !matches!(ip.octets()[0], 0 | 224..)
}

fn instance(data: &[u8]) -> Result<&str, &'static str> {
    if data.len() > MAX_INSTANCE {
        return Err("over 1024 bytes");
    }
    str::from_utf8(data).map_err(|_| "not text")
}

/// A key that comes twice counts as it came first, as in the configuration file.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.find(|(k, _)| *k == key).map(|(_, value)| value)
}

const MAX_INSTANCE: usize = 1024;
/// C++ callers read this many bytes of a node and no more.
const MAX_LEGACY: usize = 64;
const MARK: &[u8] = b"\0mprpc";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, data: impl AsRef<[u8]>) -> Reading {
        read_instance(name, data.as_ref())
    }

    #[test]
    fn an_instance_reads_as_it_was_written() {
        for (legacy, draining) in [(false, false), (true, true)] {
            let of = Publication {
                addr: "10.0.0.5:8000".parse().unwrap(),
                instance: 0xfeed,
                services: Vec::new(),
                weight: 70,
                zone: "eu-1.a".into(),
                legacy,
            };
            let text = instance_text(&of, draining, "a\nstate=up", 5);
            let endpoint = read("10.0.0.5:8000", &text).unwrap().unwrap();
            assert_eq!((endpoint.addr, endpoint.wire), (of.addr, Wire::Mux));
            assert_eq!((endpoint.weight, endpoint.draining), (70, draining));
            assert_eq!(endpoint.zone, "eu-1.a");
            assert_eq!(endpoint.methods, None);
            assert_eq!(instance_id(text.as_bytes()), Some(0xfeed));
            assert_eq!(instance_addr(text.as_bytes()), Some(of.addr));
        }
    }

    #[test]
    fn what_is_missing_has_a_default_and_what_is_unknown_is_ignored() {
        let text = "v=9\naddr=[2001:db8::1]:80\nproto=morse, legacy\nzone=a b\ncolour=red\nnonsense\nv=0\n";
        let endpoint = read("[2001:db8::1]:80", text).unwrap().unwrap();
        assert_eq!(endpoint.wire, Wire::Legacy(Dialect::LittleEndian));
        assert_eq!((endpoint.weight, endpoint.draining, &*endpoint.zone), (100, false, ""));
    }

    #[test]
    fn rubbish_in_an_instance_is_refused() {
        let name = "1.2.3.4:80";
        let good = format!("v=1\naddr={name}\nproto=mux\n");
        assert!(read(name, &good).is_ok());
        for bad in [
            "",
            "\n\n\n",
            "=",
            "v=",
            "v=0",
            "v=-1",
            "v=one",
            "{\"addr\":\"1.2.3.4:80\"}",
            "v=1",
            "addr=1.2.3.4:80",
            "v=1\naddr=",
            "v=1\naddr=:",
            "v=1\naddr=1.2.3.4",
            "v=1\naddr=1.2.3.4:",
            "v=1\naddr=1.2.3.4:0",
            "v=1\naddr=1.2.3.4:99999",
            "v=1\naddr=1.2.3.4:81",
            "v=1\naddr=1.2.3.4:080",
            "v=1\naddr=01.2.3.4:80",
            "v=1\naddr= 1.2.3.4:80",
            "v=1\naddr=1.2.3.4:80 ",
            "v=1\naddr=host:80",
            "v=1\naddr=1.2.3.4:80\nproto=",
            "v=1\naddr=1.2.3.4:80\nproto=morse",
            "v=1\naddr=1.2.3.4:80\nweight=-1",
            "v=1\naddr=1.2.3.4:80\nweight=10001",
            "v=1\naddr=1.2.3.4:80\nweight=heavy",
            "v=1\naddr=1.2.3.4:80\nstate=dead",
        ] {
            assert!(read(name, bad).is_err(), "{bad:?}");
        }
        assert!(read(name, [0xff; 20]).is_err(), "not UTF-8");
        assert!(read(name, good.clone() + &"x".repeat(1024)).is_err(), "too long");
        for nowhere in [
            "0.0.0.0:80",
            "0.1.2.3:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "[::]:80",
            "[ff02::1]:80",
            "[::ffff:0.0.0.0]:80",
        ] {
            let text = format!("v=1\naddr={nowhere}\n");
            assert!(read(nowhere, text).is_err(), "{nowhere}");
        }
    }

    #[test]
    fn a_cpp_provider_is_read_as_cpp_callers_read_it() {
        for data in ["10.0.0.5:8000", "10.0.0.5:8000\0", "10.0.0.5:8000;w=1;zone=a", "10.0.0.5:8000\0other"] {
            let endpoint = read_legacy("Login", data.as_bytes()).unwrap().expect(data);
            assert_eq!(endpoint.addr.to_string(), "10.0.0.5:8000");
            assert!(endpoint.methods.unwrap().iter().eq(["Login"]));
        }
        let ours = mirror_text("10.0.0.5:8000".parse().unwrap()).unwrap();
        assert_eq!(ours, b"10.0.0.5:8000\0mprpc");
        assert_eq!(read_legacy("Login", &ours), Ok(None), "a mirror");
        assert_eq!(mirror_text("[::1]:8000".parse().unwrap()), None);
    }

    #[test]
    fn rubbish_at_a_method_is_refused() {
        for bad in [
            "",
            "\0",
            ";",
            ":",
            "\x001.2.3.4:80",
            "1.2.3.4",
            "1.2.3.4:",
            ":80",
            "1.2.3.4:0",
            "1.2.3.4:99999",
            "1.2.3.4:080",
            "1.2.3.4:+80",
            "01.2.3.4:80",
            "1.2.3:80",
            "1.2.3.4.5:80",
            " 1.2.3.4:80",
            "1.2.3.4:80\n",
            "1.2.3.4:80 ",
            "1.2.3.4:80,1.2.3.5:80",
            "example.org:80",
            "[::1]:80",
            "0.0.0.0:80",
            "224.0.0.1:80",
            "239.255.255.255:80",
            "255.255.255.255:80",
            "-1.2.3.4:80",
            "0x1.2.3.4:80",
            "1.2.3.4:8 0",
            "http://1.2.3.4:80",
            "v=1\naddr=1.2.3.4:80",
        ] {
            assert!(read_legacy("Login", bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(read_legacy("Login", &[0xff; 13]).is_err());
        let long = format!("1.2.3.4:80;{}", "x".repeat(64));
        assert!(read_legacy("Login", long.as_bytes()).is_err());
    }

    #[test]
    fn only_plain_names_go_into_a_path() {
        let service = |full: &str, method: &str| ServiceName {
            full: full.into(),
            short: "S".into(),
            methods: vec![method.into()],
        };
        assert!(check_names(&service("a.b_1.UserServiceRpc", "Login")).is_ok());
        for bad in ["", ".a", "1a", "a/b", "a..b/", "ä", "a b", "a\0", "../x"] {
            assert!(check_names(&service(bad, "Login")).is_err(), "{bad:?}");
            assert!(check_names(&service("S", bad)).is_err(), "{bad:?}");
        }
    }
}
