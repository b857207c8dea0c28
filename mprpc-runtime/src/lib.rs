//! mprpc: a small, blocking-first protobuf RPC runtime.
//!
//! ```text
//!  7  generated code            trait XxxRpc, struct XxxRpc_Stub (protoc-gen-mprpc)
//!  6  provider  channel         what an application holds; inprocess: both without a network; fault_plan: made to fail
//!  5  application               configuration, logger, registry and client reactors, made once
//!  4  service  worker           handlers and their threads; stub, pending, controller: the caller's side
//!  3  reactor | registry | logger | config      all that touches the outside world
//!  2  connection                state machines: no socket, no thread, no clock
//!  1  wire  balance             bytes <-> frames, legacy and mux; which endpoint gets a call
//!  0  status  error             the words that every layer shares
//! ```
//!
//! A module knows only those below it. Programs begin with [`main`], serve with [`RpcProvider`], call with a
//! generated stub on an [`MprpcChannel`], and are configured by the file that `-i` names: [`Settings`] lists its keys.
//!
//! # Threads
//! The reactors `mprpc-io-n` accept connections and share them out, with `mprpc-accept` for when all are busy; handlers run
//! on `mprpc-worker-n`, or on the reactor if they are declared inline. A blocking call is driven by the calling thread;
//! callbacks run on `mprpc-client-n`, which also drives blocking calls if very many are under way (`share_above`).
//! `mprpc-registry` talks to ZooKeeper, `mprpc-log` writes files. What queues between them is bounded.
//!
//! # Examples
//! Without generated code, to show what it does:
//! ```
//! use mprpc_runtime::*;
//! use protobuf::well_known_types::wrappers::StringValue;
//!
//! // service EchoRpc { rpc Echo(StringValue) returns (StringValue); } in package demo
//! static ECHO: ServiceDescriptor = ServiceDescriptor::new("demo.EchoRpc", "EchoRpc", &[MethodDescriptor::new(
//!     "demo.EchoRpc", "Echo", "google.protobuf.StringValue", "google.protobuf.StringValue",
//! )]);
//!
//! struct Echo;
//!
//! impl Service for Echo {
//!     fn descriptor(&self) -> &'static ServiceDescriptor { &ECHO }
//!     fn call_method(&self, _method: usize, call: ServerCall<'_>) {
//!         call.run(|_: Controller, request: StringValue, reply: Reply<StringValue>| reply.send(Ok(request)));
//!     }
//! }
//!
//! let app = MprpcApplication::from_config(MprpcConfig::default().with("log_level", "off")?)?;
//! let mut provider = RpcProvider::new(&app); // on 127.0.0.1, any port
//! provider.notify_service(Echo)?;
//! let running = provider.start()?;
//!
//! let stub = Stub::new(MprpcChannel::to(&app, [running.addr()]));
//! let mut request = StringValue::new();
//! request.value = "hello".into();
//! let response: StringValue = stub.call(&ECHO.methods[0], &request)?;
//! assert_eq!(response.value, "hello");
//! running.stop()?;
//! # Ok::<(), Error>(())
//! ```

pub mod application;
mod awaited;
pub mod balance;
pub mod channel;
pub mod config;
pub mod connection;
pub mod controller;
pub mod descriptor;
pub mod error;
pub mod fault_plan;
pub mod inprocess;
pub mod interceptor;
mod lanes;
pub mod logger;
pub mod pending;
pub mod provider;
pub mod reactor;
pub mod registry;
pub mod rpc_channel;
pub mod service;
pub mod stages;
pub mod status;
pub mod stub;
pub mod table;
mod wakes;
pub mod wire;
pub mod worker;

pub use application::{MprpcApplication, main};
pub use channel::MprpcChannel;
pub use config::{MprpcConfig, Settings};
pub use connection::{CancelToken, Metadata, ReplyExtras};
pub use controller::{CallOptions, Controller, MprpcController};
pub use descriptor::{MethodDescriptor, ServiceDescriptor};
pub use error::{CallError, Error, Ran};
pub use fault_plan::{Fault, FaultPlan, FaultyChannel};
pub use inprocess::InProcessChannel;
pub use interceptor::{
    Answered, Arrived, ClientInterceptor, Ended, Intercepted, Outgoing, ServerInterceptor,
};
pub use logger::{Logger, LoggerGuard, LoggerOptions};
pub use pending::Pending;
pub use provider::{RpcProvider, RunningProvider};
pub use rpc_channel::{Call, RpcChannel};
pub use service::{Reply, ServerCall, Service};
pub use stages::{ServerStages, Stages};
pub use status::{Code, Status};
pub use stub::Stub;
