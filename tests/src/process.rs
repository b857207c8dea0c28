//! A child process whose output is read as it comes, and which ends with its value.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Process {
    /// Starts `command` without input and with both outputs read, line by line.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start(mut command: Command) -> Self {
        let name = format!("{command:?}");
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let (lines, received) = channel();
        pass_on(child.stdout.take(), lines.clone());
        pass_on(child.stderr.take(), lines);
        Self { name, child, lines: received, seen: Vec::new() }
    }

    /// The first line that contains `text`, of those that came or will come within `limit`.
    ///
    /// # Panics
    /// There is none in time, or the program ended without it; the message has all its output.
    pub fn wait_line(&mut self, text: &str, limit: Duration) -> String {
        let end = Instant::now() + limit;
        let mut at = 0;
        loop {
            if let Some(line) = self.seen[at..].iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            at = self.seen.len();
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Timeout) => self.fail(&format!("no line with {text:?} in {limit:?}")),
                Err(RecvTimeoutError::Disconnected) => {
                    self.fail(&format!("ended without a line with {text:?}"))
                }
            }
        }
    }

    /// Waits for its end. Gives the exit status and every line of both outputs.
    ///
    /// # Panics
    /// It still runs after `limit`.
    pub fn finish(mut self, limit: Duration) -> (ExitStatus, Vec<String>) {
        let end = Instant::now() + limit;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Timeout) => self.fail(&format!("still runs after {limit:?}")),
                Err(RecvTimeoutError::Disconnected) => break, // both outputs are closed
            }
        }
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                return (status, std::mem::take(&mut self.seen));
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.fail(&format!("still runs after {limit:?}"))
    }

    /// Waits for its end, which must be a success. Gives every line of both outputs.
    ///
    /// # Panics
    /// It fails, or still runs after `limit`.
    pub fn succeed(self, limit: Duration) -> Vec<String> {
        let name = self.name.clone();
        let (status, lines) = self.finish(limit);
        assert!(status.success(), "{name}: {status}\n{}", lines.join("\n"));
        lines
    }

    /// Asks it to end, as an operator does.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends a signal. A process that has ended is left alone: its id is not free before its value is gone.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn fail(&self, what: &str) -> ! {
        panic!("{}: {what}; its output:\n{}", self.name, self.seen.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pass_on(output: Option<impl Read + Send + 'static>, lines: Sender<String>) {
    let output = output.expect("the output is piped");
    thread::spawn(move || {
        let mut reader = BufReader::new(output);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(n) if n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if lines.send(text).is_err() {
                return;
            }
        }
    });
}
