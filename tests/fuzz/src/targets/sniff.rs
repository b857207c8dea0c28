//! The first bytes of a connection: a verdict never changes, however many bytes came with it.

use mprpc_runtime::wire::decoder::{Sniff, sniff};

pub(crate) fn run(input: &[u8]) {
    let mut verdict = Sniff::NeedMore;
    for n in 0..=input.len().min(64) {
        let next = sniff(&input[..n]);
        assert!(verdict == Sniff::NeedMore || verdict == next, "{verdict:?} became {next:?} at {n}");
        verdict = next;
    }
    assert!(input.len() < 5 || verdict != Sniff::NeedMore, "five bytes decide");
}
