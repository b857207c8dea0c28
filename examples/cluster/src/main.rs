//! A cluster in one program: several callees, one caller that uses them in turn, and who answered.
//!
//! `cluster -i cluster.conf`. With `zookeeperip` in the file the caller finds the callees there.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, Instant},
};

use mprpc_runtime::{
    Controller, Error, MprpcApplication, MprpcChannel, RpcProvider, RunningProvider, Status,
};
use proto::{
    who::{WhoRequest, WhoResponse},
    who_mprpc::{WhoRpc, WhoRpc_Stub},
};

/// What `build.rs` made of the files in `proto/`.
mod proto {
    include!(concat!(env!("OUT_DIR"), "/mprpc/mod.rs"));
}

struct Named(String);

impl WhoRpc for Named {
    fn answers(&self, _: &Controller, _: WhoRequest) -> Result<WhoResponse, Status> {
        Ok(WhoResponse { callee: self.0.clone(), ..Default::default() })
    }
}

fn main() -> ExitCode {
    mprpc_runtime::main(|app| {
        let mut callees: Vec<RunningProvider> =
            (1..=CALLEES).map(|number| start_callee(&app, number)).collect::<Result<_, _>>()?;
        let channel = match &app.settings().zookeeper {
            Some(_) => MprpcChannel::new(&app)?,
            None => MprpcChannel::to(&app, callees.iter().map(RunningProvider::addr)),
        };
        let stub = WhoRpc_Stub::new(channel);

        wait_for_all(&stub)?;
        count(&stub)?;
        callees.remove(0).stop()?;
        println!("callee-1 has stopped");
        count(&stub)
    })
}

/// An application of its own is, to everybody else, what a process of its own would be.
fn start_callee(app: &MprpcApplication, number: usize) -> Result<RunningProvider, Error> {
    let own = MprpcApplication::from_config(app.config().clone())?;
    let mut provider = RpcProvider::new(&own);
    provider.notify_service(WhoRpc::service(Named(format!("callee-{number}"))))?;
    provider.start()
}

/// Calls until each callee has answered: it takes a moment before all stand in ZooKeeper.
fn wait_for_all(stub: &WhoRpc_Stub) -> Result<(), Error> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut seen = BTreeMap::new();
    while seen.len() < CALLEES {
        if Instant::now() > deadline {
            return Err(Error::other(format!("only these answer: {:?}", seen.keys())));
        }
        match stub.answers(&WhoRequest::new()) {
            Ok(response) => drop(seen.insert(response.callee, ())),
            Err(error) if error.did_not_run() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn count(stub: &WhoRpc_Stub) -> Result<(), Error> {
    let mut calls = BTreeMap::new();
    for _ in 0..CALLS {
        let response = stub.answers(&WhoRequest::new())?;
        *calls.entry(response.callee).or_insert(0) += 1;
    }
    for (callee, calls) in calls {
        println!("{callee} answered {calls} of {CALLS} calls");
    }
    Ok(())
}

const CALLEES: usize = 3;
const CALLS: usize = 3000;
