//! Bytes and orders of events that no honest peer produces: nothing panics, memory stays bounded.

use super::*;

/// A small generator of numbers, so that a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.next() as u8).collect()
    }

    /// A frame that may be right, or nearly.
    fn frame(&mut self) -> Vec<u8> {
        let id = self.next() % 12;
        let text = self.bytes(200);
        let mut bytes = match self.below(12) {
            0..3 => request(id, ["Echo", "Later", "Drop", "Nope"][self.below(4)], &text),
            3..5 => response(id, &text),
            5 => hello(),
            6 => control([Kind::Cancel, Kind::Ping, Kind::Pong, Kind::GoAway][self.below(4)], id, &text),
            7 => raw(self.next() as u8, self.next() as u8, id, &self.bytes(40), &text),
            8 => raw(self.below(8) as u8, END, id, &self.bytes(40), &vec![0; self.below(20_000)]),
            9 => legacy_request(DIALECTS[self.below(3)], "Echo", &text),
            10 => self.bytes(60),
            _ => request_of(
                id,
                &RequestMeta {
                    timeout_us: Some(self.next() % 2),
                    attachment_size: self.below(300) as u32,
                    ..request_meta("Echo")
                },
                &text,
            ),
        };
        for _ in 0..self.below(12).saturating_sub(9) {
            let at = self.below(bytes.len().max(1));
            if let Some(byte) = bytes.get_mut(at) {
                *byte = self.next() as u8;
            }
        }
        if self.below(8) == 0 {
            bytes.truncate(self.below(bytes.len() + 1));
        }
        bytes
    }

    /// What a peer sends: perhaps an honest beginning, then anything.
    fn stream(&mut self) -> Vec<u8> {
        let mut bytes = if self.below(4) > 0 { hello() } else { Vec::new() };
        for _ in 0..self.below(20) {
            bytes.extend(self.frame());
        }
        bytes
    }
}

/// Lets a server and a test's hand act on each other at random.
fn abuse_server(random: &mut Random, bytes: &[u8]) {
    let mut server = Server::with(|s| {
        s.legacy_keep = random.below(2) == 0;
        s.max_output = 1 + random.below(2000);
        s.max_calls = 1 + random.below(4) as u32;
    });
    let (mut rest, mut out) = (bytes, Vec::new());
    for _ in 0..10_000 {
        match server.conn.intent() {
            Intent::Reset | Intent::Close => break,
            Intent::Open | Intent::ShutDown => {}
        }
        match random.below(12) {
            0..6 if server.conn.wants_read() && !rest.is_empty() => {
                let n = 1 + random.below(rest.len().min(700));
                server.feed(&rest[..n]);
                rest = &rest[n..];
            }
            6..8 => out.extend(server.take(1 + random.below(500))),
            8 if server.handlers.held() > 0 => {
                let n = random.below(server.handlers.held());
                server.answer(n, &[5; 30]);
            }
            9 => server.advance(Duration::from_millis(random.next() % 100)),
            10 if random.below(100) == 0 => server.post(Command::Drain),
            11 if rest.is_empty() && random.below(4) == 0 => server.eof(),
            11 if random.below(300) == 0 => server.post(Command::Close("test")),
            _ => {}
        }
        assert!(server.conn.output().len() < 100_000);
    }
    out.extend(server.output());
    server.conn.lost(&io::ErrorKind::ConnectionReset.into(), server.now);
    if out.starts_with(b"MRPC") {
        let mut ids: Vec<_> = replies(&parse(&out))
            .into_iter()
            .filter(|(_, reply)| !reply.text.contains("streaming"))
            .map(|(id, _)| id)
            .collect();
        let answers = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), answers, "no call is answered twice");
    }
}

fn abuse_client(random: &mut Random, bytes: &[u8]) {
    let wire = if random.below(4) == 0 { Wire::Legacy(DIALECTS[random.below(3)]) } else { Wire::Mux };
    let mut client = Client::with(wire, |s| {
        s.legacy_quiet = random.below(2) == 0;
        s.legacy_empty = random.below(2) == 0;
        s.max_output = 1 + random.below(2000);
    });
    let (mut rest, mut started, mut ended) = (bytes, 0, Vec::new());
    for _ in 0..10_000 {
        match client.conn.intent() {
            Intent::Reset | Intent::Close => break,
            Intent::Open | Intent::ShutDown => {}
        }
        match random.below(16) {
            0 => client.conn.connected(),
            1..7 if !rest.is_empty() => {
                let n = 1 + random.below(rest.len().min(700));
                client.feed(&rest[..n]);
                rest = &rest[n..];
            }
            7..9 => drop(client.take(1 + random.below(500))),
            9..12 if started < 12 => {
                started += 1;
                client.start_for(started, Duration::from_millis(random.next() % 3000), b"x");
            }
            12 => client.advance(Duration::from_millis(random.next() % 100)),
            13 => client.cancel(random.next() % 12),
            14 if random.below(100) == 0 => client.conn.leave(),
            15 if rest.is_empty() && random.below(4) == 0 => client.eof(),
            15 if random.below(300) == 0 => client.close("test"),
            _ => {}
        }
        ended.extend(client.ended().into_iter().map(|(tag, _)| tag));
        assert!(client.conn.output().len() < 100_000);
    }
    client.lost();
    ended.extend(client.ended().into_iter().map(|(tag, _)| tag));
    ended.sort_unstable();
    assert_eq!(ended, (1..=started).collect::<Vec<_>>(), "every call ends exactly once");
}

#[test]
fn random_streams_in_random_pieces_do_no_harm_to_a_server() {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for _ in 0..3000 {
        let bytes = random.stream();
        abuse_server(&mut random, &bytes);
    }
}

#[test]
fn random_streams_in_random_pieces_end_every_call_of_a_client_once() {
    let mut random = Random(0x2545_F491_4F6C_DD1D);
    for _ in 0..3000 {
        let bytes = random.stream();
        abuse_client(&mut random, &bytes);
    }
}

#[test]
fn pure_noise_does_no_harm() {
    let mut random = Random(7);
    for _ in 0..3000 {
        let mut bytes = random.bytes(300);
        abuse_server(&mut random, &bytes);
        abuse_client(&mut random, &bytes);
        bytes.splice(..0, hello());
        abuse_server(&mut random, &bytes);
        abuse_client(&mut random, &bytes);
    }
}

#[test]
fn every_way_to_cut_a_stream_gives_the_same_answers() {
    let mut random = Random(99);
    for round in 0..300 {
        let mut bytes = hello();
        for _ in 0..6 {
            bytes.extend(random.frame());
        }
        let told = |cuts: &mut dyn FnMut() -> usize| {
            let mut server = Server::with(|s| s.max_calls = 100);
            let (mut rest, mut out) = (&bytes[..], Vec::new());
            while !rest.is_empty() && server.conn.intent() == Intent::Open {
                let n = cuts().min(rest.len());
                server.feed(&rest[..n]);
                rest = &rest[n..];
                out.extend(server.output());
            }
            // Answers of handlers may be behind what the connection answers itself.
            let mut frames = parse(&out);
            frames.sort_by_key(|frame| (frame.kind, frame.call, frame.body.clone()));
            let open = server.conn.intent() == Intent::Open;
            (frames, server.handlers.methods(), open)
        };
        let whole = told(&mut || usize::MAX);
        assert_eq!(told(&mut || 1), whole, "round {round}, byte by byte");
        assert_eq!(told(&mut || 1 + random.below(100)), whole, "round {round}, random pieces");
    }
}

#[test]
fn a_truncated_stream_never_makes_a_call_of_its_last_frame() {
    let bytes = [hello(), request(1, "Echo", b"abc")].concat();
    for cut in 0..bytes.len() {
        let mut server = Server::new();
        server.feed(&bytes[..cut]);
        server.eof();
        assert!(server.handlers.methods().is_empty());
    }
}

#[test]
fn no_size_in_a_header_takes_memory_that_was_not_sent() {
    let mut server = Server::with(|s| {
        s.max_body = u32::MAX;
        s.max_header = u32::MAX;
    });
    server.feed(&hello());
    server.feed(&raw(Kind::Request as u8, END, 1, b"", b"")[..8]);
    server.feed(&[0xFF; 4]);
    server.feed(&[1, 0, 0, 0, 0, 0, 0, 0]);
    server.feed(&[0; 1000]);
    assert!(server.conn.buffered() < 10_000);
    let mut legacy = Server::with(|s| s.max_header = u32::MAX);
    legacy.feed(b"\xff\xff\0\0\x0a");
    assert!(legacy.conn.buffered() < 1_000);
}

#[test]
fn an_idle_connection_holds_little_memory() {
    assert!(size_of::<ServerConnection>() <= 264, "{}", size_of::<ServerConnection>());
    let mut server = Server::mux();
    server.lives(1);
    assert_eq!(server.conn.buffered(), 0);
}
