//! The two wires: how calls become bytes. Nothing here knows a socket, a thread or a clock.
//!
//! `decoder` tells from the first bytes of a connection which wire it speaks; `legacy` is the C++
//! framework's format, `mux` is ours; `proto` reads and writes the few protobuf fields of their headers.

use std::{borrow::Cow, fmt};

pub mod buf;
pub mod decoder;
pub mod legacy;
mod meta;
pub mod mux;
mod proto;
pub(crate) mod spare;

/// Bytes that no peer of ours would send: the connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireError(pub Cow<'static, str>);

/// Which format a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wire {
    /// Our multiplexed format.
    Mux,
    /// One of the C++ framework's formats.
    Legacy(Dialect),
}

/// How a legacy peer writes the length of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Four bytes, little endian: nearly every copy of the C++ framework.
    LittleEndian,
    /// Four bytes, big endian.
    BigEndian,
    /// A protobuf varint.
    Varint,
}

impl WireError {
    /// An error with a fixed text.
    pub const fn new(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WireError {}
