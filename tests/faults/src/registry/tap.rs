//! What a client asked of ZooKeeper, counted from the bytes it sent.

use std::ops::Sub;

/// Requests by kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Requests {
    pub(super) get_data: usize,
    pub(super) get_children: usize,
}

impl Requests {
    /// Of all connections.
    pub(super) fn of(connections: &[Vec<u8>]) -> Self {
        let mut requests = Self::default();
        for bytes in connections {
            // Frames: length, then xid and type, all big-endian. The first one opens the session and has neither.
            let mut rest = skip(bytes).unwrap_or_default();
            while let Some(next) = skip(rest) {
                match rest.get(8..12).map(|kind| u32::from_be_bytes([kind[0], kind[1], kind[2], kind[3]])) {
                    Some(4) => requests.get_data += 1,
                    Some(8 | 12) => requests.get_children += 1,
                    _ => {}
                }
                rest = next;
            }
        }
        requests
    }
}

impl Sub for Requests {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            get_data: self.get_data - other.get_data,
            get_children: self.get_children - other.get_children,
        }
    }
}

/// What follows the first frame, if that is whole.
fn skip(bytes: &[u8]) -> Option<&[u8]> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    rest.get(u32::from_be_bytes(*len) as usize..)
}
