//! Listens to the bytes of one direction of a connection and checks the rules that can be heard there.

use mprpc_runtime::wire::mux::{EVERY_CALL, HEADER_LEN, Header, Kind};

/// Hears one direction.
#[derive(Default)]
pub(crate) struct Wiretap {
    head: Vec<u8>,
    skip: usize,
    frames: u64,
    /// The highest id of a Request, or the ids that were answered already.
    last: u64,
    answered: Vec<u64>,
}

impl Wiretap {
    /// The highest call id heard.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Hears `bytes` from the caller.
    pub(crate) fn hear_caller(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.hear(bytes, |this, header, kind| {
            match kind {
                Kind::Request if header.call_id <= this.last => {
                    return Err(format!("ids do not rise: {} after {}", header.call_id, this.last));
                }
                Kind::Request => this.last = header.call_id,
                Kind::Cancel if header.call_id > this.last => {
                    return Err(format!("Cancel of call {}, which was never made", header.call_id));
                }
                Kind::Response => return Err("a caller sends a Response".into()),
                _ => {}
            }
            Ok(())
        })
    }

    /// Hears `bytes` from the callee, whose caller got as far as the call `last`.
    pub(crate) fn hear_callee(&mut self, bytes: &[u8], last: u64) -> Result<(), String> {
        self.hear(bytes, |this, header, kind| {
            let id = header.call_id;
            match kind {
                Kind::Response if id == 0 || id > last => {
                    return Err(format!("an answer to call {id}, which was never made"));
                }
                Kind::Response if this.answered.contains(&id) => {
                    return Err(format!("two answers to call {id}"));
                }
                Kind::Response => this.answered.push(id),
                Kind::GoAway if id != EVERY_CALL && id > last => {
                    return Err(format!("GoAway {id} names a call that was never made"));
                }
                Kind::Request => return Err("a callee sends a Request".into()),
                _ => {}
            }
            Ok(())
        })
    }

    fn hear(
        &mut self,
        mut bytes: &[u8],
        mut check: impl FnMut(&mut Self, Header, Kind) -> Result<(), String>,
    ) -> Result<(), String> {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEADER_LEN - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.head.len() == HEADER_LEN {
                let header = Header::decode(&self.head).map_err(|error| error.0.to_string())?;
                let header = header.ok_or("20 bytes are a header")?;
                self.head.clear();
                self.skip = header.meta_len as usize + header.body_len as usize;
                self.frames += 1;
                let kind = Kind::from_wire(header.kind).ok_or("a frame of no known kind")?;
                if (kind == Kind::Hello) != (self.frames == 1) {
                    return Err(format!("frame {} is a {kind:?}", self.frames));
                }
                check(self, header, kind)?;
            }
        }
        Ok(())
    }
}
