//! The values of keys: what is accepted for each kind, and the words that say so when it is not.
//!
//! A [`Value`] knows what would be right instead of a refused one: "an IP address such as 127.0.0.1".

use std::{fmt, net::IpAddr, net::SocketAddr, path::PathBuf, time::Duration};

use crate::balance::Policy;

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
        }

        impl Value for $name {
            const WANT: &str = concat!("one of", $(" ", $word),*);
            fn read(text: &str) -> Option<Self> {
                [$(Self::$variant),*].into_iter().find(|value| text.eq_ignore_ascii_case(value.as_str()))
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
        let (hosts, auth) = (self.hosts.join(","), self.auth.is_some());
        write!(f, "{hosts}{} (auth: {auth})", self.chroot)
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

/// A type that is written in a configuration.
pub(super) trait Value: Sized {
    /// What is right, for an error line: "want ..".
    const WANT: &str;
    fn read(text: &str) -> Option<Self>;
}

/// Whether a value lies between two that are given as they are written.
pub(super) fn is_within<T: Value + PartialOrd>(value: &T, min: &str, max: &str) -> bool {
    T::read(min).is_some_and(|min| min <= *value) && T::read(max).is_none_or(|max| *value <= max)
}

/// Empty is `None`.
impl<T: Value> Value for Option<T> {
    const WANT: &str = T::WANT;
    fn read(text: &str) -> Option<Self> {
        if text.is_empty() { Some(None) } else { T::read(text).map(Some) }
    }
}

/// `type: "what is right", text => how it is read;`
macro_rules! values {
    ($($(#[doc = $doc:literal])* $type:ty: $want:literal, $text:ident => $read:expr;)*) => {$(
        $(#[doc = $doc])*
        impl Value for $type {
            const WANT: &str = $want;
            fn read($text: &str) -> Option<Self> { $read }
        }
    )*};
}

values! {
    Policy: "one of p2c round_robin random weighted", text => {
        Self::ALL.into_iter().find(|(name, _)| text.eq_ignore_ascii_case(name)).map(|(_, policy)| policy)
    };

    u16: "a whole number", text => digits(text)?.try_into().ok();

    String: "at most 64 letters, digits, . _ and -", text => {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        (text.len() <= 64 && text.bytes().all(plain)).then(|| text.into())
    };

    /// `4194304`, `64k`, `4M`, `1G`, with or without a `B` behind; k is 1024.
    usize: "a whole number, perhaps with k, M or G behind,", text => {
        let text = text.to_ascii_lowercase();
        let text = text.strip_suffix('b').unwrap_or(&text);
        let (number, unit) = text.split_at(text.find(['k', 'm', 'g']).unwrap_or(text.len()));
        let power = ["", "k", "m", "g"].iter().position(|name| *name == unit)?;
        Self::try_from(digits(number.trim_end())?).ok()?.checked_mul(1 << (10 * power))
    };

    /// `10s`, `200ms`, `1.5h`; a bare number is seconds.
    Duration: "a time such as 10s, 200ms or 5m (a bare number is seconds)", text => {
        let unit = text.find(|c: char| c != '.' && !c.is_ascii_digit());
        let (number, unit) = text.split_at(unit.unwrap_or(text.len()));
        let unit = match unit.trim() {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" | "" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        Self::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()
    };

    bool: "on or off (true or false)", text => match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    };

    PathBuf: "the name of a directory", text => (!text.is_empty()).then(|| text.into());

    IpAddr: "an IP address such as 127.0.0.1", text => {
        let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        inner.unwrap_or(text).parse().ok()
    };

    /// What is published. Port 0 stands for none.
    SocketAddr: "ip or ip:port, as other machines dial it", text => {
        let bare = IpAddr::read(text).map(|ip| Self::new(ip, 0));
        bare.or_else(|| dialable(text)).filter(|addr| !addr.ip().is_unspecified())
    };

    Vec<SocketAddr>: "ip:port, ip:port, addresses instead of names, each with a port from 1 to 65535", text => {
        let each = text.split(',').filter(|_| !text.is_empty());
        each.map(|peer| dialable(peer.trim())).collect()
    };

    /// Names with numbers.
    Vec<(String, usize)>: "package.Service:100, package.Service/Method:10", text => {
        let pair = |text: &str| {
            let (name, number) = text.trim().rsplit_once(':')?;
            let number = usize::read(number.trim()).filter(|number| *number > 0)?;
            Some((name.trim().to_owned(), number))
        };
        text.split(',').filter(|_| !text.is_empty()).map(pair).collect()
    };

    (String, String): "scheme:credentials, such as digest:user:password", text => {
        let (scheme, credentials) = text.split_once(':')?;
        (!scheme.is_empty() && !credentials.is_empty()).then(|| (scheme.into(), credentials.into()))
    };

    /// Hosts without a port are left so: it is another key's.
    ZooKeeperAddress: "host[:port], several with commas between, then perhaps /chroot", text => {
        let (hosts, chroot) = text.split_at(text.find('/').unwrap_or(text.len()));
        let chroot = chroot.trim_end_matches('/').to_owned();
        let hosts: Vec<String> = hosts.split(',').map(|host| host.trim().into()).collect();
        let step = |s: &str| !matches!(s, "" | "." | "..") && !s.contains(char::is_whitespace);
        let right = chroot.split('/').skip(1).all(step) && hosts.iter().all(|host| is_host(host));
        right.then_some(Self { hosts, chroot, auth: None })
    };
}

/// A name, an IPv4 address or an IPv6 address in brackets, with or without a port.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (text, "1"),
    };
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let named = !host.is_empty() && host.chars().all(name);
    (named || host.starts_with('[') && IpAddr::read(host).is_some())
        && u16::read(port).is_some_and(|port| port > 0)
}

fn dialable(text: &str) -> Option<SocketAddr> {
    let addr: SocketAddr = text.parse().ok()?;
    (addr.port() > 0).then_some(addr)
}

/// Digits only: `u64::from_str` would take a sign.
fn digits(text: &str) -> Option<u64> {
    let only = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| only)
}
