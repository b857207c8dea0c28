//! The values of keys: what is accepted for each kind, and the words that say so when it is not.
//!
//! Every parser returns, as its error, what would have been right: "a port from 1 to 65535".

use std::{fmt, net::IpAddr, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

/// Enums whose variants are words of the configuration file.
macro_rules! words {
    ($(#[doc = $doc:literal] $name:ident { $($variant:ident = $word:literal),* })*) => {$(
        #[doc = $doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the table of settings says what each word means")]
        pub enum $name { $($variant),* }

        impl $name {
            /// The word in the configuration file.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            pub(super) fn parse(text: &str) -> Result<Self, String> {
                [$(Self::$variant),*]
                    .into_iter()
                    .find(|value| text.eq_ignore_ascii_case(value.as_str()))
                    .ok_or_else(|| ["one of", $($word),*].join(" "))
            }
        }
    )*};
}

words! {
    /// What the peer at a direct address speaks: ours, or the C++ framework's in one of its dialects.
    Protocol { Mux = "mux", Legacy = "legacy", LegacyBe = "legacy-be", LegacyVarint = "legacy-varint" }
    /// What a provider does after a legacy reply: close, or wait for the next call.
    LegacyClose { Eof = "eof", Keep = "keep" }
    /// Where a legacy reply ends: with the stream, or when nothing follows for a moment.
    LegacyEnd { Eof = "eof", Quiet = "quiet" }
    /// What an empty legacy reply is: a dying callee, or a message of defaults.
    LegacyEmpty { Error = "error", Default = "default" }
    /// Whether to publish for C++ callers: never, after a pause when the name is free, or at once.
    LegacyMirror { Off = "off", Yield = "yield", Hold = "hold" }
    /// The least grave level that is logged.
    LogLevel { Off = "off", Error = "error", Warn = "warn", Info = "info", Debug = "debug", Trace = "trace" }
}

/// A ZooKeeper ensemble and what to do there.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ZooKeeperAddress {
    /// `host:port`, at least one.
    pub hosts: Vec<String>,
    /// The path all of ours lies under, `/a/b`, or empty.
    pub chroot: String,
    /// Scheme and credentials, as `addauth` takes them. `Debug` hides the second.
    pub auth: Option<(String, String)>,
}

impl fmt::Debug for ZooKeeperAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let auth = self.auth.as_ref().map(|(scheme, _)| scheme);
        write!(
            f,
            "{}{} (auth: {auth:?})",
            self.hosts.join(","),
            self.chroot
        )
    }
}

/// A text from outside as an error line shows it: quoted, on one line, not endless.
pub(super) fn visible(text: &str) -> String {
    let plain = |c: char| c.is_ascii_graphic() || (c.is_alphanumeric() && !c.is_ascii());
    let short: String = text.chars().take(100).collect();
    let more = if short.len() < text.len() { ".." } else { "" };
    if short.chars().all(plain) && !short.is_empty() {
        return short + more;
    }
    format!("{short:?}{more}")
}

pub(super) fn number<T: TryFrom<u64>>(text: &str, min: u64, max: u64) -> Result<T, String> {
    digits(text)
        .filter(|n| (min..=max).contains(n))
        .and_then(|n| T::try_from(n).ok())
        .ok_or_else(|| format!("a whole number from {min} to {max}"))
}

/// Bytes: `4194304`, `64k`, `4M`, `1G`, with or without a `B` behind; k is 1024.
pub(super) fn size(text: &str, min: &str, max: &str) -> Result<usize, String> {
    let bytes = |text: &str| {
        let lower = text.to_ascii_lowercase();
        let lower = lower.strip_suffix('b').unwrap_or(&lower);
        let (number, shift) = match lower.as_bytes().last() {
            Some(b'k') => (&lower[..lower.len() - 1], 10),
            Some(b'm') => (&lower[..lower.len() - 1], 20),
            Some(b'g') => (&lower[..lower.len() - 1], 30),
            _ => (lower, 0),
        };
        usize::try_from(digits(number.trim_end())?.checked_mul(1 << shift)?).ok()
    };
    bytes(text)
        .filter(|n| bytes(min) <= Some(*n) && bytes(max).is_none_or(|max| *n <= max))
        .ok_or_else(|| format!("a size from {min} to {max} bytes, such as 65536, 64k or 4M"))
}

/// `10s`, `200ms`, `1.5h`; a bare number is seconds.
pub(super) fn duration(text: &str, min: &str, max: &str) -> Result<Duration, String> {
    let time = |text: &str| {
        let at = text
            .find(|c: char| c != '.' && !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(at);
        let unit = match unit.trim() {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" | "" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()
    };
    time(text)
        .filter(|d| time(min) <= Some(*d) && Some(*d) <= time(max))
        .ok_or_else(|| {
            format!(
                "a time from {min} to {max}, such as 10s, 200ms or 5m; a bare number is seconds"
            )
        })
}

pub(super) fn micros(text: &str) -> Result<Duration, String> {
    number(text, 0, 1_000_000).map(Duration::from_micros)
}

pub(super) fn on_off(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Ok(true),
        "off" | "false" | "no" | "0" => Ok(false),
        _ => Err("on or off (true or false)".into()),
    }
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    Some(PathBuf::from(text))
        .filter(|path| !path.as_os_str().is_empty())
        .ok_or_else(|| "the name of a directory".into())
}

pub(super) fn ip(text: &str) -> Result<IpAddr, String> {
    parsed_ip(text).ok_or_else(|| "an IP address such as 127.0.0.1".into())
}

pub(super) fn peers(text: &str) -> Result<Vec<SocketAddr>, String> {
    let peer = |text: &str| SocketAddr::from_str(text.trim()).ok().filter(dialable);
    optional(text)
        .map_or(Some(Vec::new()), |text| text.split(',').map(peer).collect())
        .ok_or_else(|| "ip:port, ip:port, each with a port from 1 to 65535".into())
}

pub(super) fn advertise(text: &str) -> Result<Option<SocketAddr>, String> {
    let Some(text) = optional(text) else {
        return Ok(None);
    };
    let bare = parsed_ip(text).map(|ip| SocketAddr::new(ip, 0));
    bare.or_else(|| SocketAddr::from_str(text).ok().filter(dialable))
        .filter(|addr| !addr.ip().is_unspecified())
        .map(Some)
        .ok_or_else(|| "ip or ip:port, as other machines dial it".into())
}

pub(super) fn auth(text: &str) -> Result<Option<(String, String)>, String> {
    let Some(text) = optional(text) else {
        return Ok(None);
    };
    text.split_once(':')
        .filter(|(scheme, credentials)| !scheme.is_empty() && !credentials.is_empty())
        .map(|(scheme, credentials)| Some((scheme.to_owned(), credentials.to_owned())))
        .ok_or_else(|| "scheme:credentials, such as digest:user:password".into())
}

/// Hosts without a port are left so: it is another key's.
pub(super) fn zookeeper(text: &str) -> Result<Option<ZooKeeperAddress>, String> {
    let Some(text) = optional(text) else {
        return Ok(None);
    };
    let (hosts, chroot) = text.split_at(text.find('/').unwrap_or(text.len()));
    let chroot = chroot.trim_end_matches('/');
    let step = |step: &str| !matches!(step, "" | "." | "..") && !step.contains(char::is_whitespace);
    let right = chroot.split('/').skip(1).all(step) && hosts.split(',').all(|h| is_host(h.trim()));
    right
        .then(|| ZooKeeperAddress {
            hosts: hosts.split(',').map(|host| host.trim().into()).collect(),
            chroot: chroot.to_owned(),
            auth: None,
        })
        .map(Some)
        .ok_or_else(|| "host[:port], several with commas between, then perhaps /chroot".into())
}

/// A name, an IPv4 address or an IPv6 address in brackets, with or without a port.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let known = match host.strip_prefix('[') {
        Some(_) => parsed_ip(host).is_some(),
        None => !host.is_empty() && host.chars().all(name),
    };
    known && port.is_none_or(|port| number::<u16>(port, 1, 65535).is_ok())
}

fn parsed_ip(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    inner.unwrap_or(text).parse().ok()
}

fn dialable(addr: &SocketAddr) -> bool {
    addr.port() != 0
}

fn optional(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// Digits only: `u64::from_str` would take a sign.
fn digits(text: &str) -> Option<u64> {
    text.parse()
        .ok()
        .filter(|_| text.bytes().all(|b| b.is_ascii_digit()))
}
