//! A server connection without a socket: 64 logins come in one read, are found, answered inline, and leave in one output.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput};
use mprpc_runtime::{
    connection::{
        ConnId, Connection, Dispatch, Incoming, Mailbox, Quota, ReplyExtras,
        server::{ServerConnection, ServerSettings},
    },
    wire::mux::Hello,
};
use protobuf::well_known_types::wrappers::BytesValue;

use crate::codec::write_request;

/// Answers every call with one small message.
struct Answers(BytesValue);

impl Dispatch for Answers {
    fn dispatch(&self, incoming: Incoming<'_>) {
        incoming.ticket.answer(&self.0, &ReplyExtras::default());
    }
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let now = Instant::now();
    let second = Duration::from_secs(1);
    let settings = ServerSettings {
        instance: 1,
        legacy: true,
        legacy_keep: false,
        max_header: 65_535,
        max_body: 4 << 20,
        max_calls: 1024,
        max_input: 1 << 20,
        max_output: 1 << 20,
        memory: Quota::new(1 << 30),
        request_timeout: 10 * second,
        idle_timeout: 300 * second,
        min_ping_interval: second,
    };
    let answer = BytesValue { value: b"all right".to_vec(), ..Default::default() };
    let mailbox = Arc::new(Mailbox::new(1 << 20, || ()));
    let mut connection =
        ServerConnection::new(ConnId(1), None, Arc::new(settings), Arc::new(Answers(answer)), mailbox, now);

    let mut bytes = Vec::new();
    Hello { version: 1, instance: 2, ..Default::default() }.write(&mut bytes);
    connection.receive(&bytes, now);
    let mut last_id = 0;
    let mut group = criterion.benchmark_group("connection");
    group.throughput(Throughput::Elements(64));
    group.bench_function("64 calls written and served", |b| {
        b.iter(|| {
            bytes.clear();
            for _ in 0..64 {
                last_id += 1;
                write_request(&mut bytes, last_id);
            }
            connection.receive(&bytes, now);
            let written = connection.output().len();
            assert!(written > 64 * 20, "{written} bytes for 64 answers");
            connection.output().advance(written);
            connection.written(now);
        });
    });
    group.finish();
}
