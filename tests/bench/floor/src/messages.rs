//! The messages, built, encoded, decoded and looked at as a user of a framework would.

#[allow(
    clippy::all,
    clippy::nursery,
    clippy::pedantic,
    clippy::restriction,
    elided_lifetimes_in_paths,
    unreachable_pub,
    unused_qualifications,
    missing_docs,
    reason = "generated code"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/messages/mod.rs"));
}

use bench_load::{Job, NAME, OK, PWD, login_is_right};
use protobuf::{CodedOutputStream, Message, MessageField};

use generated::bench::{EchoRequest, EchoResponse, LoginRequest, LoginResponse, ResultCode};

/// The number of the method that a job calls.
pub(crate) fn method(job: Job) -> u32 {
    u32::from(job != Job::Login)
}

/// Appends a request.
#[inline]
pub(crate) fn request(job: Job, payload: &[u8], out: &mut Vec<u8>) {
    match job {
        Job::Login => {
            put(&LoginRequest { name: NAME.to_vec(), pwd: PWD.to_vec(), ..Default::default() }, out)
        }
        Job::Echo(_) => put(&EchoRequest { payload: payload.to_vec(), ..Default::default() }, out),
    }
}

/// Decodes a request and appends its answer. Bad bytes get an empty one, which the caller will not take for right.
#[inline]
pub(crate) fn serve(method: u32, message: &[u8], out: &mut Vec<u8>) {
    if method == 0 {
        let Ok(request) = LoginRequest::parse_from_bytes(message) else {
            return;
        };
        let result = ResultCode { errmsg: OK.to_vec(), ..Default::default() };
        let response = LoginResponse {
            result: MessageField::some(result),
            success: !request.name.is_empty() && !request.pwd.is_empty(),
            ..Default::default()
        };
        put(&response, out);
    } else if let Ok(request) = EchoRequest::parse_from_bytes(message) {
        put(&EchoResponse { payload: request.payload, ..Default::default() }, out);
    }
}

/// Whether an answer is right.
#[inline]
pub(crate) fn is_right(job: Job, payload: &[u8], message: &[u8]) -> bool {
    match job {
        Job::Login => LoginResponse::parse_from_bytes(message).is_ok_and(|response| {
            login_is_right(response.result.errcode, &response.result.errmsg, response.success)
        }),
        Job::Echo(_) => {
            EchoResponse::parse_from_bytes(message).is_ok_and(|response| response.payload == payload)
        }
    }
}

#[inline]
fn put(message: &impl Message, out: &mut Vec<u8>) {
    out.reserve(message.compute_size() as usize);
    let mut stream = CodedOutputStream::vec(out);
    let written = message.write_to_with_cached_sizes(&mut stream).and_then(|()| stream.flush());
    written.expect("a vector takes every byte");
}
