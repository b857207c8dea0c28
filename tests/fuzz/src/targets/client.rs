//! What a client's connection does with a peer's bytes: every call ends, once.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use mprpc_runtime::{
    connection::{
        Intent,
        call::Outcome,
        client::{ClientConnection, ClientSettings, Start},
    },
    wire::{
        Dialect, Wire, legacy,
        mux::{END, Kind, RequestMeta, finish_frame, start_frame},
    },
};

use crate::random::Random;

/// The first eight bytes are the schedule, the others what the peer sends.
pub(crate) fn run(input: &[u8]) {
    let (mut random, stream) = Random::from_input(input);
    let wire = if random.one_in(4) { Wire::Legacy(random.pick(&crate::inputs::DIALECTS)) } else { Wire::Mux };
    let settings = settings(&mut random);
    let mut now = Instant::now();
    let mut conn = ClientConnection::new(wire, Arc::new(settings), now);
    let mut ended: Vec<u64> = Vec::new();
    let mut sink = |tag: u64, outcome: Outcome<'_>| {
        if let Ok(received) = outcome {
            assert!(received.body.as_slice().len() + received.attachment.len() <= 4 * MAX_BODY);
        }
        ended.push(tag);
    };
    let (mut rest, mut started, mut fin) = (stream, 0, false);
    if !random.one_in(8) {
        conn.connected();
    }
    for _ in 0..4 * stream.len() + 64 {
        if matches!(conn.intent(), Intent::Reset | Intent::Close) {
            break;
        }
        match random.below(16) {
            0 => conn.connected(),
            1..7 if !rest.is_empty() => {
                let n = rest.len().min(random.piece());
                conn.receive(&rest[..n], now, &mut sink);
                rest = &rest[n..];
            }
            7..9 => {
                let n = conn.output().len().min(1 + random.below(500));
                conn.output().advance(n);
                conn.written(now);
            }
            9..12 if started < 12 => {
                started += 1;
                let deadline = now + Duration::from_millis(random.next() % 3000);
                let start = Start { tag: started, deadline, empty_ok: random.one_in(2), done: started };
                conn.start(start, |_, id, out| request(wire, id, out), &mut sink);
            }
            12 => now = advance(&mut conn, now, Duration::from_millis(random.next() % 100), &mut sink),
            13 => conn.cancel(random.next() % 12, &mut sink),
            14 if rest.is_empty() && !fin => {
                fin = true;
                conn.eof(&mut sink);
            }
            15 if random.one_in(50) => conn.leave(),
            15 if random.one_in(200) => conn.close("a test", &mut sink),
            _ => {}
        }
        assert!(conn.output().len() < 100_000, "what waits to be written is bounded");
    }
    conn.lost(&io::ErrorKind::ConnectionReset.into(), &mut sink);
    ended.sort_unstable();
    assert!(
        ended.iter().copied().eq(1..=started),
        "{started} calls, ended {ended:?}: each ends exactly once"
    );
}

fn settings(random: &mut Random) -> ClientSettings {
    ClientSettings {
        instance: 9,
        max_header: 1000,
        max_body: MAX_BODY as u32,
        max_output: 1 + random.below(3000),
        connect_timeout: Duration::from_secs(1),
        request_timeout: Duration::from_secs(10),
        ping_interval: Duration::from_secs(30),
        legacy_quiet: random.one_in(2),
        legacy_empty: random.one_in(2),
    }
}

fn request(wire: Wire, id: u64, out: &mut Vec<u8>) {
    match wire {
        Wire::Mux => {
            let meta = RequestMeta { service: "pkg.Svc", method: "Echo", ..Default::default() };
            let start = start_frame(out, Kind::Request, END, id, |out| meta.encode(out));
            out.extend_from_slice(b"abc");
            finish_frame(out, start);
        }
        Wire::Legacy(_) => {
            legacy::write_request_head(out, Dialect::LittleEndian, "Svc", "Echo", 3);
            out.extend_from_slice(b"abc");
        }
    }
}

fn advance(
    conn: &mut ClientConnection<u64>,
    mut now: Instant,
    by: Duration,
    sink: &mut dyn FnMut(u64, Outcome<'_>),
) -> Instant {
    let until = now + by;
    for _ in 0..1000 {
        match conn.next_timeout().filter(|at| *at <= until) {
            Some(at) => {
                now = now.max(at);
                conn.timeout(now, sink);
            }
            None => return until,
        }
    }
    panic!("the timers spin");
}

const MAX_BODY: usize = 4000;
