//! mprpc: a small, blocking-first protobuf RPC runtime.

pub mod config;
pub mod connection;
pub mod error;
pub mod registry;
pub mod status;
pub mod wire;

pub use config::{MprpcConfig, Settings};
pub use error::{CallError, Error, Ran};
pub use status::{Code, Status};
