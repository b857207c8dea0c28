//! The programs that rows start: a provider and a caller that keep the ledger.

use std::{
    fs::{File, OpenOptions},
    hash::{BuildHasher, RandomState},
    io::Write,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use mprpc_runtime::{Controller, Error, MprpcApplication, MprpcChannel, RpcProvider, Status};
use mprpc_tests::proto::{
    echo::Text,
    echo_mprpc::{EchoServiceRpc, EchoServiceRpc_Stub},
};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use crate::ledger::now;

/// Runs a role: with the configuration of the command line, and not longer than whoever started it.
pub(crate) fn run(role: fn(MprpcApplication) -> Result<(), Error>) -> ExitCode {
    mprpc_runtime::main(|app| {
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(Error::other)?;
        let parent = getppid().map(|pid| pid.as_raw_nonzero().to_string());
        match parent.as_deref() == Some(own(&app, "faults_parent")) {
            true => role(app),
            false => Err(Error::other("whoever started this has ended")),
        }
    })
}

/// Serves until it is told to end.
pub(crate) fn provider(app: MprpcApplication) -> Result<(), Error> {
    let mut provider = RpcProvider::new(&app);
    let work = Duration::from_millis(own(&app, "faults_work_ms").parse().unwrap_or(0));
    let echo = Echo { name: own(&app, "faults_name").into(), work, runs: ledger(&app, "runs")? };
    provider.notify_service(EchoServiceRpc::service(echo))?;
    provider.run()
}

/// Calls at a steady rate until it is told to end.
pub(crate) fn caller(app: MprpcApplication) -> Result<(), Error> {
    let end = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, end.clone()).map_err(Error::other)?;
    }
    let number = |key| own(&app, key).parse().ok().filter(|n| *n > 0);
    let threads = number("faults_threads").unwrap_or(4);
    let gap = Duration::from_secs(1) * threads / number("faults_rate").unwrap_or(200);
    let (stub, file) = (EchoServiceRpc_Stub::new(MprpcChannel::new(&app)?), ledger(&app, "calls")?);
    let next = AtomicU64::new(RandomState::new().hash_one(0) >> 1);
    let said = AtomicBool::new(false);
    let mixed = own(&app, "faults_mixed") == "true";
    thread::scope(|scope| {
        for thread in 0..threads {
            let waits = !(mixed && thread % 2 == 1);
            let (stub, file, next, said, end) = (&stub, &file, &next, &said, &end);
            scope.spawn(move || {
                let mut due = Instant::now() + gap * thread / threads;
                while !end.load(Ordering::Relaxed) {
                    let answered = call(stub, file, next.fetch_add(1, Ordering::Relaxed), waits);
                    if answered && !said.swap(true, Ordering::Relaxed) {
                        println!("answered");
                    }
                    // After a slow call it does not catch up: the rate is a limit.
                    due = (due + gap).max(Instant::now());
                    thread::sleep(due - Instant::now());
                }
            });
        }
    });
    Ok(())
}

/// One call, blocking or asynchronous, and its lines in the ledger. Whether it was answered.
fn call(stub: &EchoServiceRpc_Stub, file: &File, id: u64, blocking: bool) -> bool {
    write(file, format_args!("b {id} {}", now()));
    // The sum makes a reply of a few damaged or mixed bytes unlikely to pass.
    let text = format!("{id} {:x}", id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let request = Text { text: text.clone(), ..Default::default() };
    let reply = if blocking { stub.echo(&request) } else { stub.echo_start(&request).wait() };
    let at = now();
    match reply.as_ref().map(|reply| reply.text.strip_prefix(&text).and_then(|rest| rest.strip_prefix('@'))) {
        Ok(Some(who)) => write(file, format_args!("e {id} {at} ok {who}")),
        Ok(None) => write(file, format_args!("e {id} {at} wrong reply to another call")),
        Err(error) => {
            write(file, format_args!("e {id} {at} failed {}", error.to_string().replace('\n', " ")))
        }
    }
    reply.is_ok()
}

/// The service of the matrix: says who answers, and keeps the ledger of what ran.
pub(crate) struct Echo {
    pub(crate) name: String,
    /// How long the handler takes.
    pub(crate) work: Duration,
    pub(crate) runs: File,
}

impl EchoServiceRpc for Echo {
    fn echo(&self, _: &Controller, request: Text) -> Result<Text, Status> {
        let id = request.text.split(' ').next().unwrap_or_default();
        write(&self.runs, format_args!("r {id} {}", now()));
        if !self.work.is_zero() {
            thread::sleep(self.work);
        }
        Ok(Text { text: format!("{}@{}", request.text, self.name), ..Default::default() })
    }
}

/// A key of the application's own.
pub(crate) fn own<'a>(app: &'a MprpcApplication, key: &str) -> &'a str {
    app.config().get(key).unwrap_or_default()
}

pub(crate) fn ledger(app: &MprpcApplication, kind: &str) -> Result<File, Error> {
    let path = PathBuf::from(own(app, "faults_ledger")).join(format!("{}.{kind}", own(app, "faults_name")));
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map_err(|error| Error::Io("cannot open the ledger".into(), error))
}

/// One line, in one `write`.
pub(crate) fn write(mut file: &File, line: std::fmt::Arguments<'_>) {
    file.write_all(format!("{line}\n").as_bytes()).expect("the ledger can be written");
}
