//! mprpc: a small, blocking-first protobuf RPC runtime.

pub mod application;
pub mod channel;
pub mod config;
pub mod connection;
pub mod controller;
pub mod descriptor;
pub mod error;
pub mod inprocess;
pub mod logger;
pub mod pending;
pub mod provider;
pub mod reactor;
pub mod registry;
pub mod rpc_channel;
pub mod service;
pub mod status;
pub mod stub;
pub mod table;
pub mod wire;
pub mod worker;

pub use application::{MprpcApplication, main};
pub use channel::MprpcChannel;
pub use config::{MprpcConfig, Settings};
pub use connection::{CancelToken, Metadata};
pub use controller::{CallOptions, Controller, MprpcController};
pub use descriptor::{MethodDescriptor, ServiceDescriptor};
pub use error::{CallError, Error, Ran};
pub use inprocess::InProcessChannel;
pub use logger::{Logger, LoggerGuard, LoggerOptions};
pub use pending::Pending;
pub use provider::{RpcProvider, RunningProvider};
pub use rpc_channel::{Call, RpcChannel};
pub use service::{Reply, ServerCall, Service};
pub use status::{Code, Status};
pub use stub::Stub;
