//! More calls than the workers can do, in a memory cgroup if one can be made.

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use mprpc_runtime::wire::mux::Kind;

use super::{
    peer::{Peer, nap, request},
    watch::{Provider, percentile, rss},
};
use crate::{row::Outcome, stage::Stage};

/// A handler that sleeps 2 ms, 8 workers, 20,000 calls a second whatever comes back.
pub(crate) fn open_loop(stage: &Stage) -> Outcome {
    let group = Group::make(MEMORY);
    let by = group.as_ref().map_or(Vec::new(), Group::enter);
    let by: Vec<_> = by.iter().map(String::as_str).collect();
    let provider = Provider::start_by(stage, &by, "provider", &[("worker_threads", "8")]);
    let mut outcome = Outcome::default();
    stage.say("capacity: as many calls at once as workers, twice");
    let before = capacity(provider.addr, stage.seconds(1, 3));
    let time = stage.seconds(4, 20);
    // A debug build on a small machine needs more than half of it to make 20,000 calls.
    let rate = if stage.quick { 8_000 } else { 20_000 };
    stage.say(format!("{rate} calls a second for {time:?}; capacity {before:.0}"));
    let seen = flood(provider.addr, rate, time);
    let capacity = before.max(capacity(provider.addr, stage.seconds(1, 3)));
    let goodput = seen.good as f64 / time.as_secs_f64();
    let share = 100.0 * goodput / capacity;
    outcome.check(share >= 80.0, format!("goodput {goodput:.0}/s of {capacity:.0}/s, {share:.0} %"));
    outcome.check(seen.offered >= 0.75 * rate as f64, format!("offered {:.0}/s", seen.offered));
    let p99 = percentile(&seen.refused, 99.0);
    let most = Duration::from_millis(if stage.quick { 100 } else { 50 });
    outcome.check(
        !seen.refused.is_empty() && p99 <= most,
        format!("{} refused, p99 {:.1} ms", seen.refused.len(), p99.as_secs_f64() * 1e3),
    );
    outcome.failed_if(seen.other > 0, format!("{} calls ended in another way", seen.other));
    let memory = rss(provider.process.id()) / 1024;
    match &group {
        Ok(group) => outcome
            .check(true, format!("cgroup of 512 MiB: {} MiB at most; {memory} MiB resident", group.peak())),
        Err(why) => outcome.check(memory <= 512, format!("no cgroup here ({why}); {memory} MiB resident")),
    }
    outcome.failed_if(!provider.lives(), "the provider died");
    drop(provider); // a group can be removed once it is empty
    outcome
}

struct Seen {
    good: usize,
    /// How long each refusal took, sorted.
    refused: Vec<Duration>,
    other: usize,
    /// Calls a second that were sent.
    offered: f64,
}

/// Calls a second that come back when no more are made than workers can hold.
fn capacity(addr: SocketAddr, time: Duration) -> f64 {
    let done = AtomicUsize::new(0);
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let (mut peer, mut call) = (Peer::mux(addr), 0);
                while began.elapsed() < time {
                    call += 1;
                    peer.send(&request(call, "Hasty", &nap(2)));
                    if peer.answer(time).is_ok_and(|frame| frame.code == 0) {
                        done.fetch_add(1, Relaxed);
                    }
                }
            });
        }
    });
    done.into_inner() as f64 / began.elapsed().as_secs_f64()
}

fn flood(addr: SocketAddr, rate: u64, time: Duration) -> Seen {
    const CONNECTIONS: usize = 8;
    let each = rate as f64 / CONNECTIONS as f64;
    let (good, other, sent) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let (refused, over) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            let peer = Peer::mux(addr);
            let mut out = peer.stream.try_clone().expect("a second descriptor");
            // When each call was sent; its id is its place. A call is noted before its bytes go out.
            let times: &Mutex<Vec<Instant>> = Box::leak(Box::default());
            let (good, other, sent, refused, over) = (&good, &other, &sent, &refused, &over);
            scope.spawn(move || {
                let mut call = 0;
                while began.elapsed() < time {
                    let due = (began.elapsed().as_secs_f64() * each) as u64;
                    let (mut bytes, now) = (Vec::new(), Instant::now());
                    let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
                    while call < due {
                        call += 1;
                        times.push(now);
                        bytes.extend(request(call, "Hasty", &nap(2)));
                    }
                    drop(times);
                    if out.write_all(&bytes).is_err() {
                        break;
                    }
                    thread::sleep(Duration::from_millis(2));
                }
                sent.fetch_add(call as usize, Relaxed);
                thread::sleep(Duration::from_secs(1));
                over.store(true, Relaxed);
            });
            scope.spawn(move || {
                let (mut peer, mut took) = (peer, Vec::new());
                while !over.load(Relaxed) {
                    let Ok(frame) = peer.frame(Duration::from_millis(200)) else { continue };
                    let at = Instant::now();
                    match frame.code {
                        _ if frame.kind != Kind::Response as u8 => {}
                        0 if at < began + time => drop(good.fetch_add(1, Relaxed)),
                        0 => {}
                        8 => {
                            let times = times.lock().unwrap_or_else(PoisonError::into_inner);
                            took.push(at - times[frame.call as usize - 1]);
                        }
                        _ => drop(other.fetch_add(1, Relaxed)),
                    }
                }
                refused.lock().unwrap_or_else(PoisonError::into_inner).extend(took);
            });
        }
    });
    let mut refused = refused.into_inner().unwrap_or_else(PoisonError::into_inner);
    refused.sort_unstable();
    let offered = sent.into_inner() as f64 / time.as_secs_f64();
    Seen { good: good.into_inner(), refused, other: other.into_inner(), offered }
}

/// A memory cgroup (version 1) of its own, removed on drop.
struct Group(PathBuf);

impl Group {
    fn make(bytes: u64) -> Result<Self, String> {
        let dir = PathBuf::from(format!("/sys/fs/cgroup/memory/mprpc-faults-{}", std::process::id()));
        let make = || {
            fs::create_dir(&dir)?;
            fs::write(dir.join("memory.limit_in_bytes"), bytes.to_string())
        };
        make().map(|()| Self(dir.clone())).map_err(|error: std::io::Error| error.to_string())
    }

    /// What starts a program that is in the group from its first page on.
    fn enter(&self) -> Vec<String> {
        let join = format!("echo $$ >{}/cgroup.procs && exec \"$@\"", self.0.display());
        ["sh".into(), "-c".into(), join, "sh".into()].into()
    }

    /// The most that was used, in MiB. Page cache counts.
    fn peak(&self) -> u64 {
        let text = fs::read_to_string(self.0.join("memory.max_usage_in_bytes")).unwrap_or_default();
        text.trim().parse::<u64>().unwrap_or(0) >> 20
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0); // an empty one that stays does no harm
    }
}

const MEMORY: u64 = 512 << 20;
