//! mprpc: a small, blocking-first protobuf RPC runtime.

pub mod config;
pub mod connection;
pub mod controller;
pub mod descriptor;
pub mod error;
pub mod logger;
pub mod pending;
pub mod reactor;
pub mod registry;
pub mod rpc_channel;
pub mod service;
pub mod status;
pub mod stub;
pub mod table;
pub mod wire;
pub mod worker;

pub use config::{MprpcConfig, Settings};
pub use connection::{CancelToken, Metadata};
pub use controller::{CallOptions, Controller, MprpcController};
pub use descriptor::{MethodDescriptor, ServiceDescriptor};
pub use error::{CallError, Error, Ran};
pub use logger::{Logger, LoggerGuard, LoggerOptions};
pub use pending::Pending;
pub use rpc_channel::{Call, RpcChannel};
pub use service::{Reply, ServerCall, Service};
pub use status::{Code, Status};
pub use stub::Stub;
