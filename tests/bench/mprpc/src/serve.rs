//! The server, and the configuration of both sides.
//!
//! Options: `dispatch=inline` runs the handlers on the reactors instead of on the worker pool; `set.KEY=VALUE` is a setting of
//! mprpc's own configuration.

use std::net::SocketAddr;

use bench_load::{OK, Options, Role};
use mprpc_runtime::{Controller, Error, MprpcApplication, MprpcConfig, RpcProvider, Status};
use protobuf::MessageField;

use crate::{
    field, load,
    proto::{
        bench::{EchoRequest, EchoResponse, LoginRequest, LoginResponse, ResultCode},
        bench_mprpc::BenchRpc,
    },
};

pub(crate) fn main() -> Result<(), Error> {
    match bench_load::role() {
        Role::Serve(addr, options) => {
            serve(&application(addr, &options, "mux")?, options.is("dispatch", "inline"))
        }
        Role::Load(load) => {
            // What G measures is the wire that has a connection per call.
            let wire = if load.scenario.per_call { "legacy" } else { "mux" };
            load::run(&application(load.addr, &load.options, wire)?, load)
        }
    }
}

fn serve(app: &MprpcApplication, inline: bool) -> Result<(), Error> {
    let mut provider = RpcProvider::new(app);
    if inline {
        provider.notify_inline(BenchRpc::service(Bench))?;
    } else {
        provider.notify_service(BenchRpc::service(Bench))?;
    }
    let _serving = provider.start()?;
    bench_load::ready();
    bench_load::park()
}

fn application(addr: SocketAddr, options: &Options, wire: &str) -> Result<MprpcApplication, Error> {
    let mut config = MprpcConfig::default();
    config.set("rpcserverip", addr.ip().to_string())?;
    config.set("rpcserverport", addr.port().to_string())?;
    config.set("protocol", wire)?;
    // Room for the answers and requests of E, four times a megabyte; by default a connection takes one megabyte ahead.
    config.set("max_output", "16M")?;
    for (key, value) in options.starting_with("set.") {
        config.set(key, value)?;
    }
    MprpcApplication::from_config(config)
}

struct Bench;

impl BenchRpc for Bench {
    fn login(&self, _: &Controller, request: LoginRequest) -> Result<LoginResponse, Status> {
        let result = ResultCode { errmsg: field(OK), ..Default::default() };
        Ok(LoginResponse {
            result: MessageField::some(result),
            success: !request.name.is_empty() && !request.pwd.is_empty(),
            ..Default::default()
        })
    }

    fn echo(&self, _: &Controller, request: EchoRequest) -> Result<EchoResponse, Status> {
        Ok(EchoResponse { payload: request.payload, ..Default::default() })
    }
}
