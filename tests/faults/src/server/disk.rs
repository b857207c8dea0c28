//! The disk of the log is full: nobody waits for it, and nothing is lost uncounted.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use mprpc_runtime::{MprpcApplication, MprpcChannel};
use mprpc_tests::proto::{echo::Text, echo_mprpc::EchoServiceRpc_Stub};
use rustix::process::Signal;

use super::watch::{Provider, client, percentile};
use crate::{
    row::Outcome,
    stage::{Stage, until},
};

/// Two providers that log each call, one onto a full disk: their throughput in turns, then its account.
pub(crate) fn full(stage: &Stage) -> Outcome {
    let mut outcome = Outcome::default();
    let disk = match Disk::mount(stage.dir().join("disk")) {
        Ok(disk) => disk,
        Err(why) => {
            outcome.check(false, format!("no tmpfs can be mounted here: {why}"));
            return outcome;
        }
    };
    let logs = disk.0.to_str().expect("a plain name").to_owned();
    let free = Provider::start(stage, "free", &[("faults_log", "on")]);
    let full = Provider::start(stage, "full", &[("faults_log", "on"), ("log_dir", &logs)]);
    let app = client(&[("timeout", "5s")]);
    let mut calls = 0;
    stage.say("fill the disk");
    let turn = stage.seconds(1, 4) / 40;
    let ballast = disk.fill();
    while disk.room() > 0 {
        calls += throughput(full.addr, &app, Duration::from_millis(50)).1; // up to the last byte
    }
    let mut ratios = Vec::new();
    for round in 1..=11 {
        stage.say(format!("round {round} of 11"));
        let mut done = [0.0; 2];
        // In small turns: whatever else this machine does meets both.
        for _ in 0..10 {
            let (with, n) = throughput(full.addr, &app, turn);
            let (without, _) = throughput(free.addr, &app, turn);
            calls += n;
            done = [done[0] + with, done[1] + without];
        }
        ratios.push(Duration::from_secs_f64(done[0] / done[1])); // only to be sorted
    }
    ratios.sort_unstable();
    let median = percentile(&ratios, 50.0).as_secs_f64();
    let least = if stage.quick { 0.8 } else { 0.95 };
    outcome.check(median >= least, format!("throughput {:.2} of that with room (median of 11)", median));

    stage.say("make room");
    let before = lines(&disk.0).len();
    fs::remove_file(ballast).expect("the ballast");
    let again = until(Duration::from_secs(10), || lines(&disk.0).len() > before);
    outcome.within("writing again after", again, Duration::from_secs(2));
    let (_, n) = throughput(full.addr, &app, turn);
    calls += n;
    full.process.signal(Signal::TERM);
    let (status, said) = full.process.finish(Duration::from_secs(20));
    outcome.check(status.success(), format!("{status}"));
    outcome.failed_if(
        !said.iter().any(|line| line.contains("log records are lost")),
        "stderr says nothing of it",
    );
    account(&mut outcome, &lines(&disk.0), calls);
    outcome
}

/// Each call logged one record: it stands there, in order, or is counted.
fn account(outcome: &mut Outcome, lines: &[String], calls: usize) {
    let number = |line: &String| line.strip_suffix('.')?.rsplit_once("seq ")?.1.parse::<usize>().ok();
    let written: Vec<usize> = lines.iter().filter_map(number).collect();
    let told = |line: &String| line.strip_suffix(" records lost")?.rsplit(' ').next()?.parse::<usize>().ok();
    let lost: usize = lines.iter().filter_map(told).sum();
    let sum = written.len() + lost;
    outcome.check(sum == calls && lost > 0, format!("{} written + {lost} lost of {calls}", written.len()));
    // Four handlers number and log at once: a record may overtake its neighbours, no more.
    let disorder = written.windows(2).filter(|pair| pair[0] > pair[1] + 64).count();
    outcome.check(disorder == 0, format!("{disorder} out of order"));
}

/// Calls a second of 4 callers, and how many calls that were.
fn throughput(addr: SocketAddr, app: &MprpcApplication, time: Duration) -> (f64, usize) {
    let channel = MprpcChannel::to(app, [addr]);
    let (done, began) = (AtomicUsize::new(0), Instant::now());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let stub = EchoServiceRpc_Stub::new(channel.clone());
                while began.elapsed() < time {
                    stub.echo(&Text { text: "log".into(), ..Default::default() }).expect("an answer");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let done = done.into_inner();
    (done as f64 / began.elapsed().as_secs_f64(), done)
}

/// Whole lines of all log files.
fn lines(dir: &Path) -> Vec<String> {
    let files = fs::read_dir(dir).expect("the disk").flatten();
    let mut paths: Vec<_> =
        files.map(|f| f.path()).filter(|p| p.extension().is_some_and(|e| e == "txt")).collect();
    paths.sort();
    let texts = paths.into_iter().map(|path| fs::read_to_string(path).unwrap_or_default());
    texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// A file system of 16 MiB of its own, unmounted on drop.
struct Disk(PathBuf);

impl Disk {
    fn mount(dir: PathBuf) -> Result<Self, String> {
        fs::create_dir(&dir).map_err(|error| error.to_string())?;
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "none"]).arg(&dir).output();
        match output {
            Ok(output) if output.status.success() => Ok(Self(dir)),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Takes all room but a little, which the log itself shall use up.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("ballast");
        let size = self.room().saturating_sub(64 << 10);
        fs::write(&path, vec![0; size as usize]).expect("there is room");
        path
    }

    /// Bytes that are free.
    fn room(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.0).expect("a file system");
        stat.f_bavail * stat.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
