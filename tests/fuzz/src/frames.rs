//! Frames by the million, for both sides of a connection.

use crate::{inputs, random::Random, targets};

/// Feeds `count` random frames, a few to a connection, to servers and clients in turn. Panics if
/// one of them is harmed. `tick` hears of the progress.
pub fn feed(seed: u64, count: usize, mut tick: impl FnMut(usize)) {
    let mut random = Random::new(seed);
    let (mut fed, mut bytes) = (0, Vec::new());
    while fed < count {
        let server = random.one_in(2);
        bytes.clear();
        bytes.extend(random.next().to_le_bytes());
        // A whole Hello opens most connections, or nothing behind it would be looked at.
        if !random.one_in(8) {
            bytes.extend(HELLO);
        }
        let frames = 1 + random.below(30);
        for _ in 0..frames {
            inputs::frame(&mut random, &mut bytes);
        }
        if server {
            targets::server::run(&bytes)
        } else {
            targets::client::run(&bytes)
        }
        fed += frames;
        tick(fed);
    }
}

/// Version 1, and nothing else stated.
const HELLO: &[u8] = b"MRPC\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\x08\x01";
