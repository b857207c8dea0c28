//! The wire codec: one login's frame on both wires, written and read, and what kind of a connection its first bytes say.

use std::hint::black_box;

use criterion::Criterion;
use mprpc_runtime::wire::{
    Dialect, decoder, legacy,
    mux::{self, Header, Kind, RequestMeta, ResponseMeta},
};

const SERVICE: &str = "bench.Bench";
const METHOD: &str = "Login";
/// A name of 9 and a password of 16 bytes.
pub(crate) const BODY: &[u8] = b"\x0a\x09user-0001\x12\x10correct-horse-16";

/// Appends a login's frame.
pub(crate) fn write_request(out: &mut Vec<u8>, call_id: u64) {
    let meta =
        RequestMeta { service: SERVICE, method: METHOD, timeout_us: Some(4_999_000), ..Default::default() };
    let start = mux::start_frame(out, Kind::Request, mux::END, call_id, |out| meta.encode(out));
    out.extend_from_slice(BODY);
    mux::finish_frame(out, start);
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    let mut out = Vec::with_capacity(256);
    group.bench_function("mux request, written", |b| {
        b.iter(|| {
            out.clear();
            write_request(&mut out, black_box(77));
        });
    });
    group.bench_function("mux request, read", |b| {
        b.iter(|| {
            let header = Header::decode(black_box(&out)).expect("a frame").expect("a whole header");
            let meta = &out[mux::HEADER_LEN..][..usize::from(header.meta_len)];
            black_box(RequestMeta::decode(meta).expect("a meta").timeout_us);
        });
    });
    group.bench_function("mux first bytes, judged", |b| b.iter(|| decoder::sniff(black_box(&out))));

    let mut empty = Vec::new();
    ResponseMeta::default().encode(&mut empty);
    group.bench_function("mux response meta, read", |b| {
        b.iter(|| ResponseMeta::decode(black_box(&empty)).expect("a meta").code);
    });

    let little = Dialect::LittleEndian;
    group.bench_function("legacy request, written", |b| {
        b.iter(|| {
            out.clear();
            legacy::write_request_head(&mut out, little, black_box("Bench"), METHOD, BODY.len() as u32);
            out.extend_from_slice(BODY);
        });
    });
    group.bench_function("legacy request, read", |b| {
        b.iter(|| black_box(legacy::decode_head(little, black_box(&out), 65_535).is_ok()));
    });
    group.bench_function("legacy first bytes, judged", |b| b.iter(|| decoder::sniff(black_box(&out))));
    group.finish();
}
