//! Deferred answers: the handler returns at once, another thread answers later (`done->Run()` in C++).
//!
//! `deferred -i deferred.conf` starts a provider with one worker thread, and calls it a hundred times at once.

use std::{
    process::ExitCode,
    sync::mpsc::{self, Sender},
    thread,
    time::{Duration, Instant},
};

use mprpc_runtime::{Controller, Error, MprpcChannel, Reply, RpcProvider};
use proto::{
    user::{LoginRequest, LoginResponse},
    user_mprpc::{UserServiceRpc, UserServiceRpc_Stub},
};

/// What `build.rs` made of the files in `proto/`.
mod proto {
    include!(concat!(env!("OUT_DIR"), "/mprpc/mod.rs"));
}

/// What waits for its answer, and until when.
type Waiting = (Instant, Reply<LoginResponse>);

struct UserService {
    clerk: Sender<Waiting>,
}

impl UserServiceRpc for UserService {
    /// In place of `login`: a `Reply` may be kept, sent to other threads, and used whenever the answer is there.
    fn login_deferred(&self, _: Controller, _: LoginRequest, reply: Reply<LoginResponse>) {
        // Were the clerk gone, the reply would be dropped here, which answers with an error.
        let _ = self.clerk.send((Instant::now() + LOOK_UP, reply));
    }
}

/// Stands for a slow system behind the service that tells its results to one thread.
fn start_clerk() -> Sender<Waiting> {
    let (clerk, desk) = mpsc::channel::<Waiting>();
    thread::spawn(move || {
        for (ready, reply) in desk {
            thread::sleep(ready.saturating_duration_since(Instant::now()));
            reply.send(Ok(LoginResponse { sucess: true, ..Default::default() }));
        }
    });
    clerk
}

fn main() -> ExitCode {
    mprpc_runtime::main(|app| {
        let clerk = start_clerk();
        let mut provider = RpcProvider::new(&app);
        provider.notify_service(UserServiceRpc::service(UserService { clerk }))?;
        let provider = provider.start()?;

        let users = UserServiceRpc_Stub::new(MprpcChannel::to(&app, [provider.addr()]));
        let began = Instant::now();
        let results = users.login_batch(&vec![LoginRequest::new(); CALLS]);
        let good = results.into_iter().collect::<Result<Vec<_>, Error>>()?.len();
        println!(
            "{good} calls that take {LOOK_UP:?} each, worker_threads = {}: {:.0?}",
            app.settings().worker_threads,
            began.elapsed()
        );
        provider.stop()
    })
}

const CALLS: usize = 100;
const LOOK_UP: Duration = Duration::from_millis(200);
