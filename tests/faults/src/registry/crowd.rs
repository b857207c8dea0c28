//! Two more programs: many providers that come and go, and one that looks at what the registry knows.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use mprpc_runtime::{Error, MprpcApplication, RpcProvider, RunningProvider, registry::ServiceName};
use mprpc_tests::proto::echo_mprpc::EchoServiceRpc;

use crate::{
    ledger::now,
    role::{Echo, ledger, own, write},
};

/// Starts `faults_count` providers one after the other, waits for a moment, and ends them in the same order.
/// Writes `up ADDRESS MICROSECONDS` when one is published and `down ...` when one begins to end.
/// Each is an application of its own: to everybody else, what a process of its own would be.
pub(crate) fn crowd(app: MprpcApplication) -> Result<(), Error> {
    let count: usize = own(&app, "faults_count").parse().map_err(Error::other)?;
    let events = ledger(&app, "events")?;
    let start = |n| -> Result<RunningProvider, Error> {
        let own = MprpcApplication::from_config(app.config().clone())?;
        let mut provider = RpcProvider::new(&own);
        let (name, work) = (format!("crowd-{n}"), Duration::ZERO);
        let echo = Echo { name, work, runs: ledger(&app, "runs")? };
        provider.notify_service(EchoServiceRpc::service(echo))?;
        let running = provider.start()?;
        write(&events, format_args!("up {} {}", running.addr(), now()));
        thread::sleep(GAP);
        Ok(running)
    };
    let running: Vec<RunningProvider> = (0..count).map(start).collect::<Result<_, _>>()?;
    println!("all are up");
    thread::sleep(Duration::from_secs(3));
    for provider in running {
        write(&events, format_args!("down {} {}", provider.addr(), now()));
        provider.stop()?;
        thread::sleep(GAP);
    }
    println!("all are down");
    Ok(())
}

/// Looks the matrix's service up without end. Writes `up ADDRESS MICROSECONDS` and `down ...` when an address is
/// first there and no longer there. With `faults_fresh` it looks instead for services that nobody serves, a new
/// one each time, and writes how long each look-up took, as calls.
pub(crate) fn looker(app: MprpcApplication) -> Result<(), Error> {
    let registry = app.registry()?;
    let service = |full: &str| ServiceName {
        full: full.into(),
        short: full.rsplit('.').next().unwrap_or(full).into(),
        methods: Vec::new(),
    };
    let limit = Duration::from_secs(30);
    if !own(&app, "faults_fresh").is_empty() {
        let file = ledger(&app, "calls")?;
        for n in 1_u64.. {
            write(&file, format_args!("b {n} {}", now()));
            let found = registry.lookup(&service(&format!("mprpc.tests.Nobody{n}")), Instant::now() + limit);
            let text = found.map_or_else(|error| error.to_string(), |_| "nobody".into());
            write(&file, format_args!("e {n} {} failed {}", now(), text.replace('\n', " ")));
            thread::sleep(Duration::from_millis(300));
        }
    }
    let (events, mut known) = (ledger(&app, "events")?, BTreeSet::<SocketAddr>::new());
    println!("looking");
    loop {
        let snapshot = registry.lookup(&service("mprpc.tests.EchoService"), Instant::now() + limit)?;
        let endpoints = snapshot.endpoints.iter().filter(|endpoint| !endpoint.draining);
        let there: BTreeSet<SocketAddr> = endpoints.map(|endpoint| endpoint.addr).collect();
        there.difference(&known).for_each(|addr| write(&events, format_args!("up {addr} {}", now())));
        known.difference(&there).for_each(|addr| write(&events, format_args!("down {addr} {}", now())));
        known = there;
        thread::sleep(Duration::from_millis(2));
    }
}

/// Changes that come closer than that are read together.
const GAP: Duration = Duration::from_millis(250);
