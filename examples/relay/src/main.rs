//! A service that calls another service: it greets the friends that the callee's friend service knows.
//!
//! `relay -i relay.conf`, beside `callee -i callee.conf`; then `relay-ask -i ask.conf`.

use std::process::ExitCode;

use mprpc_runtime::{CallOptions, Controller, MprpcChannel, RpcProvider, Status};
use proto::{
    friend::GetFriendsListRequest,
    friend_mprpc::FriendServiceRpc_Stub,
    greeting::{GreetFriendsRequest, GreetFriendsResponse},
    greeting_mprpc::GreetingServiceRpc,
};

/// What `build.rs` made of the files in `proto/`.
mod proto {
    include!(concat!(env!("OUT_DIR"), "/mprpc/mod.rs"));
}

/// A stub may be used by all worker threads at once.
struct GreetingService {
    friends: FriendServiceRpc_Stub,
}

impl GreetingServiceRpc for GreetingService {
    /// Runs on a worker thread, so it may wait for the other service.
    fn greet_friends(
        &self,
        controller: &Controller,
        request: GreetFriendsRequest,
    ) -> Result<GreetFriendsResponse, Status> {
        // What is left of our caller's time, so that nobody works for a caller who is gone.
        let options = match controller.remaining() {
            Some(left) => CallOptions::new().timeout(left),
            None => CallOptions::new(),
        };
        // `?` makes a failed call our answer: same code, same text.
        let response = self
            .friends
            .with(options)
            .get_friends_list(&GetFriendsListRequest { userid: request.userid, ..Default::default() })?;
        let greet = |name| format!("{}, {}!", request.greeting, String::from_utf8_lossy(name));
        Ok(GreetFriendsResponse {
            greetings: response.friends.iter().map(|name| greet(name)).collect(),
            ..Default::default()
        })
    }
}

fn main() -> ExitCode {
    mprpc_runtime::main(|app| {
        let friends = FriendServiceRpc_Stub::new(MprpcChannel::new(&app)?);
        let mut provider = RpcProvider::new(&app);
        provider.notify_service(GreetingServiceRpc::service(GreetingService { friends }))?;
        provider.run()
    })
}
