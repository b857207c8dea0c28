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
    account(&mut outcome, &[lines(&disk.0)], calls, 1);
    outcome
}

/// Each call logged one record: it stands in one of the files, in order there, or is counted. At least `least` are lost,
/// and none if that is 0.
pub(super) fn account(outcome: &mut Outcome, files: &[Vec<String>], calls: usize, least: usize) {
    let told = |line: &String| line.strip_suffix(" records lost")?.rsplit(' ').next()?.parse::<usize>().ok();
    let lost: usize = files.iter().flatten().filter_map(told).sum();
    let (mut all, mut disorder) = (Vec::new(), 0);
    for file in files {
        let written = numbers(file);
        // Four handlers number and log at once: a record may overtake its neighbours, no more.
        disorder += written.windows(2).filter(|pair| pair[0] > pair[1] + 64).count();
        all.extend(written);
    }
    let written = all.len();
    all.sort_unstable();
    all.dedup();
    let good =
        all.len() == written && written + lost == calls && lost >= least && (lost == 0) == (least == 0);
    outcome.check(good, format!("{written} written + {lost} lost of {calls}"));
    outcome.failed_if(all.len() < written, format!("{} written twice", written - all.len()));
    outcome.check(disorder == 0, format!("{disorder} out of order"));
}

/// Of the records that calls logged.
pub(super) fn numbers(lines: &[String]) -> Vec<usize> {
    let number = |line: &String| line.strip_suffix('.')?.rsplit_once("seq ")?.1.parse().ok();
    lines.iter().filter_map(number).collect()
}

/// Calls a second of 4 callers, and how many calls that were.
pub(super) fn throughput(addr: SocketAddr, app: &MprpcApplication, time: Duration) -> (f64, usize) {
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
    paths.iter().flat_map(|path| lines_of(path)).collect()
}

/// The lines of one file, none if it cannot be read.
pub(super) fn lines_of(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
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
