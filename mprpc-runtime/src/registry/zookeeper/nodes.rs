//! The znodes: their paths, their text, and what of a stranger's writing is believed.

use std::{
    collections::BTreeSet,
    fmt::Write,
    net::{IpAddr, SocketAddr, SocketAddrV4},
};

use crate::registry::{Endpoint, Publication, ServiceName};
use crate::wire::{Dialect, Wire};

/// What a directory's entry says: an endpoint, nothing for us, or rubbish and why it is rubbish.
pub(super) type Reading = Result<Option<Endpoint>, &'static str>;

/// C++ callers read this many bytes of a node and no more.
pub(super) const MAX_MIRROR: usize = 64;
const MAX_INSTANCE: usize = 1024;
const MAX_WEIGHT: u32 = 10_000;
const MARK: &[u8] = b"\0mprpc";

/// The directory of a service's instances.
pub(super) fn instances_dir(full: &str) -> String {
    format!("/mprpc/services/{full}/instances")
}

/// The directory where C++ nodes register a service's methods.
pub(super) fn legacy_dir(short: &str) -> String {
    format!("/{short}")
}

/// Whether every name of the service is `[A-Za-z_][A-Za-z0-9_.]*`, so that it is safe in a path.
pub(super) fn named_well(service: &ServiceName) -> bool {
    let well = |name: &String| {
        let letter = |b: u8| b.is_ascii_alphabetic() || b == b'_';
        name.bytes().next().is_some_and(letter)
            && name
                .bytes()
                .all(|b| letter(b) || b.is_ascii_digit() || b == b'.')
    };
    well(&service.full) && well(&service.short) && service.methods.iter().all(well)
}

/// What a process writes into its instance node. `start` is in milliseconds since 1970.
pub(super) fn instance_text(
    of: &Publication,
    draining: bool,
    app: &str,
    zone: &str,
    start: u128,
) -> String {
    let proto = if of.legacy { "mux,legacy" } else { "mux" };
    let state = if draining { "draining" } else { "up" };
    let (id, addr, weight) = (of.instance, of.addr, of.weight);
    let mut text = format!("v=1\nid={id:016x}\naddr={addr}\nproto={proto}\nweight={weight}\n");
    let clean = |s: &str| {
        s.replace(|c: char| c.is_control(), " ")
            .chars()
            .take(128)
            .collect::<String>()
    };
    let (app, zone) = (clean(app), clean(zone));
    write!(
        text,
        "state={state}\nzone={zone}\nstart={start}\napp={app}\n"
    )
    .expect("a String takes it");
    text
}

/// What a C++ caller finds at a method; `None` if it could not read it (IPv6).
pub(super) fn mirror_text(addr: SocketAddr) -> Option<Vec<u8>> {
    let text = [addr.to_string().as_bytes(), MARK].concat();
    (addr.is_ipv4() && text.len() < MAX_MIRROR).then_some(text)
}

/// The process that an instance node speaks for.
pub(super) fn instance_id(data: &[u8]) -> Option<u64> {
    u64::from_str_radix(field(instance_utf8(data).ok()?, "id")?, 16).ok()
}

/// The address that an instance node speaks for.
pub(super) fn instance_addr(data: &[u8]) -> Option<SocketAddr> {
    address(field(instance_utf8(data).ok()?, "addr")?)
}

/// Reads the instance node called `name`.
pub(super) fn read_instance(name: &str, data: &[u8]) -> Reading {
    let text = instance_utf8(data)?;
    let field = |key| field(text, key);
    if !field("v").is_some_and(|v| v.parse::<u32>().is_ok_and(|v| v > 0)) {
        return Err("no version");
    }
    let addr = field("addr")
        .and_then(address)
        .ok_or("no address to dial")?;
    if address(name) != Some(addr) {
        return Err("name and address differ");
    }
    let weight = field("weight")
        .unwrap_or("100")
        .parse()
        .ok()
        .filter(|w| *w <= MAX_WEIGHT);
    let mut proto = field("proto").unwrap_or("mux").split(',').map(str::trim);
    let wire = match proto.clone().any(|p| p == "mux") {
        true => Wire::Mux,
        false if proto.any(|p| p == "legacy") => Wire::Legacy(Dialect::LittleEndian),
        false => return Err("no wire that is known here"),
    };
    let draining = match field("state") {
        None | Some("up") => false,
        Some("draining") => true,
        Some(_) => return Err("neither up nor draining"),
    };
    Ok(Some(Endpoint {
        addr,
        wire,
        weight: weight.ok_or("the weight is no number up to 10000")?,
        draining,
        methods: None,
    }))
}

/// Reads what stands at a method: a C++ provider's address. A mirror of ours says nothing new.
pub(super) fn read_legacy(method: &str, data: &[u8]) -> Reading {
    let addr = legacy_address(data).ok_or("no IPv4:port of at most 64 bytes")?;
    if data
        .get(addr.to_string().len()..)
        .is_some_and(|rest| rest.starts_with(MARK))
    {
        return Ok(None);
    }
    Ok(Some(Endpoint {
        addr,
        wire: Wire::Legacy(Dialect::LittleEndian),
        weight: 100,
        draining: false,
        methods: Some(BTreeSet::from([method.to_owned()])),
    }))
}

/// The address at a method: the text up to NUL or `;`, as C++ callers read it.
pub(super) fn legacy_address(data: &[u8]) -> Option<SocketAddr> {
    let text = data.split(|b| matches!(b, 0 | b';')).next()?;
    let addr: SocketAddrV4 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (data.len() <= MAX_MIRROR && dialable(addr.into())).then_some(addr.into())
}

fn instance_utf8(data: &[u8]) -> Result<&str, &'static str> {
    let data = (data.len() <= MAX_INSTANCE).then_some(data);
    std::str::from_utf8(data.ok_or("over 1024 bytes")?).map_err(|_| "not text")
}

/// A key that comes twice counts as it came first, as in the configuration file.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.find(|(k, _)| *k == key).map(|(_, value)| value)
}

/// Whether anybody can serve at this address at all.
pub(super) fn dialable(addr: SocketAddr) -> bool {
    let ip = addr.ip();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast() || ip.octets()[0] == 0);
    addr.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

/// An address in the one spelling that counts: two spellings would be two providers.
pub(super) fn address(text: &str) -> Option<SocketAddr> {
    let addr: SocketAddr = text.parse().ok()?;
    (dialable(addr) && addr.to_string() == text).then_some(addr)
}
