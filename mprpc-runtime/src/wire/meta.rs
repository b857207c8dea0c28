//! The metas of mux frames: what Hello, Request and Response say besides the body.
//!
//! Messages of `proto/mux.proto`, read and written by hand: texts are borrowed from the frame.

use super::{
    WireError,
    proto::{self, message},
};

message! {
    /// What a side says of itself first. Every zero but the version's means "not stated".
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    Hello {
        /// The highest version the side speaks; both speak the lower of the two.
        1 version: u32,
        /// A number that tells this process from the others and from its own earlier lives.
        2 instance: u64,
        /// The longest meta the side takes, in bytes.
        3 max_header: u32,
        /// The longest body the side takes, in bytes.
        4 max_body: u32,
        /// The least time between two Pings that the side does not mind, in milliseconds.
        5 min_ping_interval_ms: u32,
        /// How many calls may be open at a time.
        6 max_calls: u32,
    }
}

message! {
    /// What stands before a Request's body.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    RequestMeta<'a> {
        /// The service's full name, package included.
        1 service: &'a str,
        /// The method's name.
        2 method: &'a str,
        /// What remains of the call's time, in microseconds; `None`: no limit, 0: none remains.
        3 timeout_us: Option<u64>,
        /// The caller's own keys. Decoded: sorted, each once.
        4 metadata: Vec<(&'a str, &'a [u8])>,
        /// How the body is compressed; 0: not at all.
        5 compression: u32,
        /// How many bytes at the end of the body are not part of the message.
        6 attachment_size: u32,
    }
}

message! {
    /// What stands before a Response's body.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    ResponseMeta<'a> {
        /// The status code, numbered as gRPC's; 0 is OK.
        1 code: u32,
        /// What went wrong, for people.
        2 message: &'a str,
        /// What went wrong, for programs.
        3 details: &'a [u8],
        /// True if the call did not run and may be repeated.
        4 retryable: bool,
        /// The callee's own keys. Decoded: sorted, each once.
        5 metadata: Vec<(&'a str, &'a [u8])>,
        /// How the body is compressed; 0: not at all.
        6 compression: u32,
        /// How many bytes at the end of the body are not part of the message.
        7 attachment_size: u32,
        /// How long each stage of the call took on the callee's side, in microseconds.
        8 stages_us: Vec<u32>,
    }
}

impl Hello {
    /// Reads a Hello's meta.
    ///
    /// # Errors
    ///
    /// If it is not protobuf, or states no version.
    pub fn decode(meta: &[u8]) -> Result<Self, WireError> {
        let mut hello = Self::default();
        hello.read(meta)?;
        if hello.version == 0 {
            return Err(WireError::new("a Hello without a version"));
        }
        Ok(hello)
    }
}

impl<'a> RequestMeta<'a> {
    /// Reads a Request's meta. It allocates only for metadata.
    ///
    /// # Errors
    ///
    /// If it is not protobuf, or a text in it is not UTF-8.
    #[inline]
    pub fn decode(meta: &'a [u8]) -> Result<Self, WireError> {
        let mut request = Self::default();
        request.decode_rest(meta)?;
        Ok(request)
    }

    /// Reads what follows in a meta whose front was recognized without reading it.
    ///
    /// # Errors
    ///
    /// As for `decode`.
    #[inline]
    pub fn decode_rest(&mut self, rest: &'a [u8]) -> Result<(), WireError> {
        self.read(rest)?;
        keep_last_of_each_key(&mut self.metadata);
        Ok(())
    }
}

impl<'a> ResponseMeta<'a> {
    /// Reads a Response's meta. It allocates only for metadata and stages.
    ///
    /// # Errors
    ///
    /// If it is not protobuf, or a text in it is not UTF-8.
    #[inline]
    pub fn decode(meta: &'a [u8]) -> Result<Self, WireError> {
        let mut response = Self::default();
        response.read(meta)?;
        keep_last_of_each_key(&mut response.metadata);
        Ok(response)
    }
}

/// Sorting first: comparing each with each would let 64 KiB of keys cost a reactor seconds.
#[inline]
fn keep_last_of_each_key(metadata: &mut Vec<(&str, &[u8])>) {
    if metadata.len() > 1 {
        metadata.reverse();
        metadata.sort_by_key(|&(key, _)| key);
        metadata.dedup_by_key(|&mut (key, _)| key);
    }
}
