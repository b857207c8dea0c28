//! The metas of mux frames: what Hello, Request and Response say besides the body.
//!
//! Messages of `proto/mux.proto`, read and written by hand: texts are borrowed from the frame.

use super::{WireError, proto};
use proto::{Reader, Sink, Value};

/// What a side says of itself first. Every zero but the version's means "not stated".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The highest version the side speaks; both speak the lower of the two.
    pub version: u32,
    /// A number that tells this process from the others and from its own earlier lives.
    pub instance: u64,
    /// The longest meta the side takes, in bytes.
    pub max_header: u32,
    /// The longest body the side takes, in bytes.
    pub max_body: u32,
    /// The least time between two Pings that the side does not mind, in milliseconds.
    pub min_ping_interval_ms: u32,
    /// How many calls may be open at a time.
    pub max_calls: u32,
}

impl Hello {
    /// Reads a Hello's meta.
    ///
    /// # Errors
    ///
    /// If it is not protobuf, or states no version.
    pub fn decode(meta: &[u8]) -> Result<Self, WireError> {
        let mut hello = Self::default();
        let mut fields = Reader::new(meta);
        while let Some(field) = fields.next_field()? {
            match field {
                (1, Value::Varint(v)) => hello.version = v as u32,
                (2, Value::Varint(v)) => hello.instance = v,
                (3, Value::Varint(v)) => hello.max_header = v as u32,
                (4, Value::Varint(v)) => hello.max_body = v as u32,
                (5, Value::Varint(v)) => hello.min_ping_interval_ms = v as u32,
                (6, Value::Varint(v)) => hello.max_calls = v as u32,
                _ => {}
            }
        }
        if hello.version == 0 {
            return Err(WireError::new("a Hello without a version"));
        }
        Ok(hello)
    }

    /// Writes the meta; `write` appends the whole frame.
    pub fn encode(&self, out: &mut impl Sink) {
        proto::put_uint(out, 1, self.version.into());
        proto::put_uint(out, 2, self.instance);
        proto::put_uint(out, 3, self.max_header.into());
        proto::put_uint(out, 4, self.max_body.into());
        proto::put_uint(out, 5, self.min_ping_interval_ms.into());
        proto::put_uint(out, 6, self.max_calls.into());
    }
}

/// What stands before a Request's body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestMeta<'a> {
    /// The service's full name, package included.
    pub service: &'a str,
    /// The method's name.
    pub method: &'a str,
    /// What remains of the call's time, in microseconds; `None`: no limit, 0: none remains.
    pub timeout_us: Option<u64>,
    /// The caller's own keys. Decoded: sorted, each once.
    pub metadata: Vec<(&'a str, &'a [u8])>,
    /// How the body is compressed; 0: not at all.
    pub compression: u32,
    /// How many bytes at the end of the body are not part of the message.
    pub attachment_size: u32,
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
        let mut fields = Reader::new(meta);
        while let Some(field) = fields.next_field()? {
            match field {
                (1, Value::Bytes(name)) => request.service = proto::text(name)?,
                (2, Value::Bytes(name)) => request.method = proto::text(name)?,
                (3, Value::Varint(v)) => request.timeout_us = Some(v),
                (4, Value::Bytes(entry)) => request.metadata.push(decode_entry(entry)?),
                (5, Value::Varint(v)) => request.compression = v as u32,
                (6, Value::Varint(v)) => request.attachment_size = v as u32,
                _ => {}
            }
        }
        keep_last_of_each_key(&mut request.metadata);
        Ok(request)
    }

    /// How many bytes `encode` appends; above `MAX_META` no frame can carry them.
    #[inline]
    pub fn encoded_len(&self) -> usize {
        let mut len = 0;
        self.encode(&mut len);
        len
    }

    /// Writes the meta.
    #[inline]
    pub fn encode(&self, out: &mut impl Sink) {
        proto::put_bytes(out, 1, self.service.as_bytes());
        proto::put_bytes(out, 2, self.method.as_bytes());
        if let Some(timeout_us) = self.timeout_us {
            proto::put_uint_always(out, 3, timeout_us);
        }
        put_metadata(out, 4, &self.metadata);
        proto::put_uint(out, 5, self.compression.into());
        proto::put_uint(out, 6, self.attachment_size.into());
    }
}

/// What stands before a Response's body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseMeta<'a> {
    /// The status code, numbered as gRPC's; 0 is OK.
    pub code: u32,
    /// What went wrong, for people.
    pub message: &'a str,
    /// What went wrong, for programs.
    pub details: &'a [u8],
    /// True if the call did not run and may be repeated.
    pub retryable: bool,
    /// The callee's own keys. Decoded: sorted, each once.
    pub metadata: Vec<(&'a str, &'a [u8])>,
    /// How the body is compressed; 0: not at all.
    pub compression: u32,
    /// How many bytes at the end of the body are not part of the message.
    pub attachment_size: u32,
    /// How long each stage of the call took on the callee's side, in microseconds.
    pub stages_us: Vec<u32>,
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
        let mut fields = Reader::new(meta);
        while let Some(field) = fields.next_field()? {
            match field {
                (1, Value::Varint(v)) => response.code = v as u32,
                (2, Value::Bytes(text)) => response.message = proto::text(text)?,
                (3, Value::Bytes(details)) => response.details = details,
                (4, Value::Varint(v)) => response.retryable = v != 0,
                (5, Value::Bytes(entry)) => response.metadata.push(decode_entry(entry)?),
                (6, Value::Varint(v)) => response.compression = v as u32,
                (7, Value::Varint(v)) => response.attachment_size = v as u32,
                (8, Value::Varint(v)) => response.stages_us.push(v as u32),
                (8, Value::Bytes(packed)) => {
                    let mut stages = Reader::new(packed);
                    while let Some(v) = stages.next_packed()? {
                        response.stages_us.push(v as u32);
                    }
                }
                _ => {}
            }
        }
        keep_last_of_each_key(&mut response.metadata);
        Ok(response)
    }

    /// How many bytes `encode` appends; above `MAX_META` no frame can carry them.
    #[inline]
    pub fn encoded_len(&self) -> usize {
        let mut len = 0;
        self.encode(&mut len);
        len
    }

    /// Writes the meta.
    #[inline]
    pub fn encode(&self, out: &mut impl Sink) {
        proto::put_uint(out, 1, self.code.into());
        proto::put_bytes(out, 2, self.message.as_bytes());
        proto::put_bytes(out, 3, self.details);
        proto::put_uint(out, 4, self.retryable.into());
        put_metadata(out, 5, &self.metadata);
        proto::put_uint(out, 6, self.compression.into());
        proto::put_uint(out, 7, self.attachment_size.into());
        if !self.stages_us.is_empty() {
            let mut len = 0_usize;
            put_packed(&mut len, &self.stages_us);
            proto::put_len(out, 8, len);
            put_packed(out, &self.stages_us);
        }
    }
}

fn decode_entry(entry: &[u8]) -> Result<(&str, &[u8]), WireError> {
    let (mut key, mut value) = ("", [].as_slice());
    let mut fields = Reader::new(entry);
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Value::Bytes(bytes)) => key = proto::text(bytes)?,
            (2, Value::Bytes(bytes)) => value = bytes,
            _ => {}
        }
    }
    Ok((key, value))
}

/// Sorting first: comparing each with each would let 64 KiB of keys cost a reactor seconds.
fn keep_last_of_each_key(metadata: &mut Vec<(&str, &[u8])>) {
    if metadata.len() > 1 {
        metadata.reverse();
        metadata.sort_by_key(|&(key, _)| key);
        metadata.dedup_by_key(|&mut (key, _)| key);
    }
}

fn put_metadata(out: &mut impl Sink, field: u32, metadata: &[(&str, &[u8])]) {
    for &(key, value) in metadata {
        let mut len = 0_usize;
        put_entry(&mut len, key, value);
        proto::put_len(out, field, len);
        put_entry(out, key, value);
    }
}

/// As protobuf's own writers do, an entry states both of its fields even if they are empty.
fn put_entry(out: &mut impl Sink, key: &str, value: &[u8]) {
    proto::put_bytes_always(out, 1, key.as_bytes());
    proto::put_bytes_always(out, 2, value);
}

fn put_packed(out: &mut impl Sink, values: &[u32]) {
    values.iter().for_each(|&v| proto::put_varint(out, v.into()));
}
