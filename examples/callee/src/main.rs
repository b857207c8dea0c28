//! A callee: serves `fixbug.UserServiceRpc` and `fixbug.FriendServiceRpc` until SIGTERM or Ctrl-C.
//!
//! `callee -i callee.conf`

mod friend;
mod user;

use std::process::ExitCode;

use friend::FriendService;
use mprpc_runtime::RpcProvider;
use proto::{friend_mprpc::FriendServiceRpc, user_mprpc::UserServiceRpc};
use user::UserService;

/// What `build.rs` made of the files in `proto/`.
mod proto {
    include!(concat!(env!("OUT_DIR"), "/mprpc/mod.rs"));
}

fn main() -> ExitCode {
    mprpc_runtime::main(|app| {
        let mut provider = RpcProvider::new(&app);
        provider.notify_service(UserServiceRpc::service(UserService))?;
        provider.notify_service(FriendServiceRpc::service(FriendService))?;
        provider.run()
    })
}
