//! The address of a peer in little memory: half of a `SocketAddr` for IPv4, which is what most peers have.

use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

pub(crate) enum SmallAddr {
    V4(SocketAddrV4),
    V6(Box<SocketAddrV6>),
}

impl SmallAddr {
    pub(crate) fn get(&self) -> SocketAddr {
        match self {
            Self::V4(addr) => (*addr).into(),
            Self::V6(addr) => (**addr).into(),
        }
    }
}

impl From<SocketAddr> for SmallAddr {
    fn from(addr: SocketAddr) -> Self {
        match addr {
            SocketAddr::V4(addr) => Self::V4(addr),
            SocketAddr::V6(addr) => Self::V6(Box::new(addr)),
        }
    }
}
