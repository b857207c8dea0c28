//! A chat server straight on the reactor layer: no RPC, but lines of text that everybody else gets.
//!
//! `chat -i chat.conf`, then `nc 127.0.0.1 9000` in several terminals.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Instant,
};

use mprpc_runtime::{
    connection::{Command, ConnId, Connection, Intent, Mailbox},
    reactor::{Accept, Acceptor, Pool, ReactorOptions},
    wire::buf::Output,
};

fn main() -> ExitCode {
    mprpc_runtime::main(|app| {
        let settings = app.settings();
        let reactors = Pool::start("chat", settings.io_threads, &ReactorOptions::default())?;
        let acceptor = Acceptor::bind(settings.server_addr(), 128)?;
        println!("chat at {}", acceptor.local_addr());
        let _accepting = acceptor.run(&reactors, Arc::new(Room::default()), settings.max_connections)?;
        loop {
            thread::park(); // Ctrl-C ends it
        }
    })
}

/// Everybody who is connected. Guests live on different reactors, so they are reached by post.
#[derive(Clone, Default)]
struct Room(Arc<Mutex<HashMap<ConnId, Arc<Mailbox>>>>);

impl Accept for Room {
    fn accept(
        &self,
        id: ConnId,
        mailbox: &Arc<Mailbox>,
        peer: SocketAddr,
        _: Instant,
    ) -> Box<dyn Connection> {
        self.with_guests(|guests| guests.insert(id, mailbox.clone()));
        self.tell_others(id, &format!("* {peer} came"));
        let mut output = Output::default();
        output.buffer().extend_from_slice(format!("* welcome, {peer}\n").as_bytes());
        let (line, intent) = (Vec::new(), Intent::Open);
        Box::new(Guest { id, peer, room: self.clone(), line, output, intent })
    }
}

impl Room {
    fn tell_others(&self, from: ConnId, text: &str) {
        self.with_guests(|guests| {
            for (id, mailbox) in guests.iter().filter(|(id, _)| **id != from) {
                let write = |bytes: &mut Vec<u8>| bytes.extend_from_slice(format!("{text}\n").as_bytes());
                mailbox.post(*id, Command::Custom(Box::new(())), write);
            }
        });
    }

    fn with_guests<T>(&self, work: impl FnOnce(&mut HashMap<ConnId, Arc<Mailbox>>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One connection: a state machine that its reactor feeds with bytes and posts, and asks for output.
struct Guest {
    id: ConnId,
    peer: SocketAddr,
    room: Room,
    /// What came of a line that is not complete yet.
    line: Vec<u8>,
    output: Output,
    intent: Intent,
}

impl Connection for Guest {
    fn receive(&mut self, bytes: &[u8], _: Instant) {
        self.line.extend_from_slice(bytes);
        if let Some(end) = self.line.iter().rposition(|byte| *byte == b'\n') {
            let rest = self.line.split_off(end + 1);
            let lines = std::mem::replace(&mut self.line, rest);
            for line in String::from_utf8_lossy(&lines).lines() {
                // So that nobody can paint on other people's terminals.
                let text = line.replace(char::is_control, " ");
                self.room.tell_others(self.id, &format!("{}: {text}", self.peer));
            }
        }
        if self.line.len() > LONGEST_LINE {
            self.output.buffer().extend_from_slice(b"* that line is too long\n");
            self.intent = Intent::Close;
        }
    }

    fn post(&mut self, command: Command, bytes: &[u8], _: Instant) {
        match command {
            Command::Custom(_) if self.output.len() + bytes.len() <= MOST_OUTPUT => {
                self.output.buffer().extend_from_slice(bytes);
            }
            // Who does not read what is said must go, or it would pile up here.
            Command::Custom(_) => self.intent = Intent::Reset,
            Command::Close(_) | Command::Drain => self.intent = Intent::Close,
            other => other.undeliverable(),
        }
    }

    fn eof(&mut self, _: Instant) {
        self.intent = Intent::Close;
    }

    fn lost(&mut self, _: &io::Error, _: Instant) {}

    fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    fn intent(&self) -> Intent {
        self.intent
    }

    fn next_timeout(&self) -> Option<Instant> {
        None
    }

    fn timeout(&mut self, _: Instant) {}
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.room.with_guests(|guests| guests.remove(&self.id));
        self.room.tell_others(self.id, &format!("* {} went", self.peer));
    }
}

const LONGEST_LINE: usize = 4096;
const MOST_OUTPUT: usize = 1 << 20;
