//! The targets, one a file.

pub(crate) mod client;
pub(crate) mod config;
pub(crate) mod generator;
pub(crate) mod legacy;
pub(crate) mod metas;
pub(crate) mod server;
pub(crate) mod sniff;
pub(crate) mod znode;
