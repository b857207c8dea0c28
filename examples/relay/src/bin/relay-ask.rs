//! Asks the relay to greet somebody's friends.

use std::process::ExitCode;

use mprpc_runtime::MprpcChannel;
use proto::{greeting::GreetFriendsRequest, greeting_mprpc::GreetingServiceRpc_Stub};

/// What `build.rs` made of the files in `proto/`.
mod proto {
    include!(concat!(env!("OUT_DIR"), "/mprpc/mod.rs"));
}

fn main() -> ExitCode {
    mprpc_runtime::main(|app| {
        let stub = GreetingServiceRpc_Stub::new(MprpcChannel::new(&app)?);
        let response = stub.greet_friends(&GreetFriendsRequest {
            userid: 1000,
            greeting: "ni hao".into(),
            ..Default::default()
        })?;
        for greeting in &response.greetings {
            println!("{greeting}");
        }
        Ok(())
    })
}
