//! The command line of a peer, and the load side's handle.

use std::{collections::HashMap, net::SocketAddr, process::exit, thread, time::Duration};

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::{Scenario, clock, usage::Resident, window};

/// The `key=value` words of the command line.
#[derive(Clone, Debug, Default)]
pub struct Options(HashMap<String, String>);

impl Options {
    /// Whether `key` was given with this value.
    pub fn is(&self, key: &str, value: &str) -> bool {
        self.get(key) == Some(value)
    }

    /// The value of `key`, if it was given.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The options whose key starts with `prefix`, without it.
    pub fn starting_with(&self, prefix: &str) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.0.iter();
        pairs.filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, value.as_str())))
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.get(key)?.parse().ok()
    }
}

/// Which side of a peer this process is.
#[derive(Debug)]
pub enum Role {
    /// Serve on this address.
    Serve(SocketAddr, Options),
    /// Call it.
    Load(Load),
}

/// The load side: the scenario, and where measurements go.
#[derive(Clone, Debug)]
pub struct Load {
    /// The server.
    pub addr: SocketAddr,
    /// What to do.
    pub scenario: Scenario,
    /// What the peer itself is told.
    pub options: Options,
    server: u32,
    warmup: Duration,
    window: Duration,
}

/// Reads the command line, and raises the limit of open files as far as it goes. A command line that is none ends the process
/// with status 2.
pub fn role() -> Role {
    raise_file_limit();
    match parse(std::env::args().skip(1)) {
        Ok(role) => role,
        Err(what) => {
            eprintln!("{what}: PEER serve|load IP:PORT [key=value ...]");
            exit(2)
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Role, &'static str> {
    let side = words.next().ok_or("serve or load is missing")?;
    let addr = words.next().and_then(|word| word.parse().ok()).ok_or("the second word must be ip:port")?;
    let pair = |word: String| word.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    let options = Options(words.map(pair).collect::<Option<_>>().ok_or("an option must be key=value")?);
    match side.as_str() {
        "serve" => Ok(Role::Serve(addr, options)),
        "load" => {
            let mut scenario =
                options.get("scenario").and_then(Scenario::named).ok_or("scenario= must name one")?;
            if let Some(idle) = options.number("idle") {
                scenario.idle = idle as usize;
            }
            let seconds = |key, default| {
                Duration::from_secs_f64(options.number(key).unwrap_or(default).clamp(0.0, 3600.0))
            };
            Ok(Role::Load(Load {
                addr,
                scenario,
                server: options.number("pid").ok_or("pid= must be the server's process id")? as u32,
                warmup: seconds("warmup", 1.0),
                window: seconds("secs", 3.0),
                options,
            }))
        }
        _ => Err("the first word must be serve or load"),
    }
}

impl Load {
    /// Opens the scenario's idle connections with `open`, which also makes a call on each, and notes what memory they take. The
    /// caller keeps them.
    pub fn open_idle<C>(&self, mut open: impl FnMut() -> C) -> Vec<C> {
        if self.scenario.idle == 0 {
            return Vec::new();
        }
        self.note_idle(false);
        let connections = (0..self.scenario.idle).map(|_| open()).collect();
        self.note_idle(true);
        connections
    }

    /// For a peer that cannot use [`open_idle`](Self::open_idle): called before (`opened` false) and after all idle connections
    /// are opened.
    pub fn note_idle(&self, opened: bool) {
        if opened {
            thread::sleep(SETTLE); // the server may still be answering the last call
        }
        window::note_idle(Resident::of(self.server), opened);
    }

    /// Starts the warm-up, after which the window opens. The process ends with it.
    pub fn begin(&self) {
        clock::now();
        let (server, scenario, warmup, window) = (self.server, self.scenario, self.warmup, self.window);
        thread::spawn(move || window::run(server, scenario, warmup, window));
    }

    /// Whether the window is over. Calls that end later count for nothing.
    pub fn stopped(&self) -> bool {
        window::stopped()
    }

    /// Notes a call that began at `start`, by [`clock::now`], and ended now.
    #[inline]
    pub fn record(&self, start: u64) {
        window::record(start, clock::now());
    }

    /// Notes a call that began at `start` and ended at `end`.
    #[inline]
    pub fn record_at(&self, start: u64, end: u64) {
        window::record(start, end);
    }

    /// Ends the process because a call failed or was answered wrongly, which voids the measurement. Waits for the end of the
    /// process instead if the window is over.
    pub fn fail(&self, why: impl std::fmt::Display) -> ! {
        window::fail(why)
    }

    /// Makes blocking calls from the scenario's threads, or from one for each of its connections. `open` runs once a thread, before the first call, and
    /// gives what makes a call and says why one was wrong.
    pub fn run_threads<C>(&self, mut open: impl FnMut() -> C) -> !
    where
        C: FnMut() -> Result<(), String> + Send + 'static,
    {
        let callers: Vec<C> =
            (0..self.scenario.threads.max(self.scenario.connections)).map(|_| open()).collect();
        self.begin();
        for mut caller in callers {
            let load = self.clone();
            let calls = move || {
                while !load.stopped() {
                    let start = clock::now();
                    match caller() {
                        Ok(()) => load.record(start),
                        Err(why) => load.fail(why),
                    }
                }
            };
            if let Err(error) = thread::Builder::new().stack_size(STACK).spawn(calls) {
                self.fail(format_args!("cannot start a thread: {error}"));
            }
        }
        crate::park()
    }
}

fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Refused only where the hard limit is above what the kernel allows; then the soft one stays.
    let _ = setrlimit(Resource::Nofile, limit);
}

const SETTLE: Duration = Duration::from_millis(300);
const STACK: usize = 256 << 10;
