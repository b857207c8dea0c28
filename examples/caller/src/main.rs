//! A caller: login, register and the friends list, then login again in every form a call can have.
//!
//! `caller -i caller.conf`

mod forms;

use std::{process::ExitCode, thread, time::Duration};

use mprpc_runtime::{Error, MprpcApplication, MprpcChannel};
use proto::{
    friend::GetFriendsListRequest,
    friend_mprpc::FriendServiceRpc_Stub,
    user::{LoginRequest, RegisterRequest},
    user_mprpc::UserServiceRpc_Stub,
};

/// What `build.rs` made of the files in `proto/`.
mod proto {
    include!(concat!(env!("OUT_DIR"), "/mprpc/mod.rs"));
}

fn main() -> ExitCode {
    mprpc_runtime::main(|app| {
        let repeat = own_setting(&app, "caller_repeat", 1)?;
        let pause = Duration::from_millis(own_setting(&app, "caller_pause_ms", 0)?);
        // A channel is for the whole program: it finds the callees and keeps connections to them.
        let channel = MprpcChannel::new(&app)?;
        let users = UserServiceRpc_Stub::new(channel.clone());
        let friends = FriendServiceRpc_Stub::new(channel);
        for round in 0..repeat {
            if round > 0 {
                thread::sleep(pause);
            }
            login(&users)?;
            register(&users)?;
            list_friends(&friends)?;
        }
        forms::callback(&users)?;
        forms::future(&users)?;
        forms::batch(&users)?;
        forms::controller(&users)
    })
}

/// `?` passes on that the call failed. What the callee has to say is in the response.
fn login(users: &UserServiceRpc_Stub) -> Result<(), Error> {
    let response = users.login(&login_request())?;
    answered("login", response.result.errcode, &response.result.errmsg)
}

fn register(users: &UserServiceRpc_Stub) -> Result<(), Error> {
    let response = users.register(&RegisterRequest {
        id: 2000,
        name: "li si".into(),
        pwd: "666666".into(),
        ..Default::default()
    })?;
    answered("register", response.result.errcode, &response.result.errmsg)
}

fn list_friends(friends: &FriendServiceRpc_Stub) -> Result<(), Error> {
    let response = friends.get_friends_list(&GetFriendsListRequest { userid: 1000, ..Default::default() })?;
    let result = &response.result;
    answered("GetFriendsList", result.errcode, &result.errmsg)?;
    for (index, name) in (1..).zip(&response.friends) {
        println!("index:{index} name:{}", String::from_utf8_lossy(name));
    }
    Ok(())
}

fn login_request() -> LoginRequest {
    LoginRequest { name: "zhang san".into(), pwd: "123456".into(), ..Default::default() }
}

fn answered(call: &str, errcode: i32, errmsg: &[u8]) -> Result<(), Error> {
    if errcode != 0 {
        let errmsg = String::from_utf8_lossy(errmsg);
        return Err(Error::other(format!("rpc {call} response error: {errmsg}")));
    }
    println!("rpc {call} response success");
    Ok(())
}

/// The configuration file has room for an application's own keys.
fn own_setting(app: &MprpcApplication, key: &str, default: u64) -> Result<u64, Error> {
    let Some(text) = app.config().get(key) else {
        return Ok(default);
    };
    text.parse().map_err(|_| Error::Config(format!("{key} = {text}: want a whole number")))
}
