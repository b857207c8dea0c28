//! Interceptors: what every call needs, written once and not in every handler and caller.
//!
//! `interceptors -i interceptors.conf` starts a provider that asks for a token, and calls it with and without one.

use std::process::ExitCode;

use mprpc_runtime::{Controller, Error, MprpcApplication, MprpcChannel, RpcProvider, Status};
use proto::{
    user::{LoginRequest, LoginResponse},
    user_mprpc::{UserServiceRpc, UserServiceRpc_Stub},
};

mod counters;
mod request_log;
mod token;

use counters::Counters;
use request_log::RequestLog;
use token::{CheckToken, SendToken};

/// What `build.rs` made of the files in `proto/`.
mod proto {
    include!(concat!(env!("OUT_DIR"), "/mprpc/mod.rs"));
}

struct UserService;

impl UserServiceRpc for UserService {
    fn login(&self, _: &Controller, _: LoginRequest) -> Result<LoginResponse, Status> {
        Ok(LoginResponse { sucess: true, ..Default::default() })
    }
}

fn main() -> ExitCode {
    mprpc_runtime::main(|app| {
        let token = token_of(&app)?;
        let served = Counters::default();
        let mut provider = RpcProvider::new(&app);
        provider.notify_service(UserServiceRpc::service(UserService))?;
        // In the order in which they are asked: who refuses comes last, so that the others hear of it.
        provider.intercept(RequestLog);
        provider.intercept(served.clone());
        provider.intercept(CheckToken(token.clone()));
        let provider = provider.start()?;

        let made = Counters::default();
        let channel = MprpcChannel::to(&app, [provider.addr()]).intercept(made.clone());
        let stranger = UserServiceRpc_Stub::new(channel);
        let known = stranger.intercept(SendToken(token));

        known.login(&LoginRequest::new())?; // every form of a call passes the interceptors
        known.login_start(&LoginRequest::new()).wait()?;
        for answer in known.login_batch(&vec![LoginRequest::new(); 8]) {
            answer?;
        }
        if let Err(error) = stranger.login(&LoginRequest::new()) {
            println!("{error}");
        }
        made.print("made");
        provider.stop()?;
        served.print("served");
        Ok(())
    })
}

fn token_of(app: &MprpcApplication) -> Result<String, Error> {
    let token = app.config().get("token").ok_or_else(|| Error::other("the configuration lacks `token`"))?;
    Ok(token.to_owned())
}
