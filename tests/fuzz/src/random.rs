//! Numbers that look random and repeat with their seed.

/// A xorshift generator (Marsaglia 2003); anything but cryptography.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator of the numbers that belong to `seed`.
    pub fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        random.next();
        random
    }

    /// A generator from the first eight bytes of an input, and the rest of the input.
    pub fn from_input(input: &[u8]) -> (Self, &[u8]) {
        match input.split_first_chunk::<8>() {
            Some((seed, rest)) => (Self::new(u64::from_le_bytes(*seed)), rest),
            None => (Self::new(0), input),
        }
    }

    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "it has no end, and no use as an iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 11) as usize % n.max(1)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of `these`, which must not be empty.
    pub fn pick<T: Copy>(&mut self, these: &[T]) -> T {
        these[self.below(these.len())]
    }

    /// The size of a piece that TCP might deliver: 1 to 2048 bytes, mostly few.
    pub fn piece(&mut self) -> usize {
        let most = 1 << (1 + self.below(11));
        1 + self.below(most)
    }

    /// Up to `most` bytes.
    pub fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.next() as u8).collect()
    }

    /// Changes `bytes` a little: flips, cuts, repeats, inserts.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(7) {
                0 | 1 => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << self.below(8);
                    }
                }
                2 => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = self.pick(&[0, 1, 0x7f, 0x80, 0xff]);
                    }
                }
                3 => bytes.truncate(at),
                4 => {
                    let part = self.bytes(12);
                    bytes.splice(at..at, part);
                }
                5 => {
                    let end = (at + self.below(40)).min(bytes.len());
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part);
                }
                _ => {
                    let end = (at + self.below(12)).min(bytes.len());
                    bytes.drain(at..end);
                }
            }
        }
    }
}
