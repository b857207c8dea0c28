//! Status: what one side of a call tells the other about how the call ended.

use std::fmt;

use crate::stages::ServerStages;

/// `Variant = number, "NAME";` for each code.
macro_rules! codes {
    ($($variant:ident = $number:literal, $name:literal;)*) => {
        /// Why a call ended. Numbers and names are gRPC's, so people and tools know them already.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "the names are gRPC's and say what they mean")]
        pub enum Code { $($variant = $number),* }

        /// Every code with its name; a code's number is its index.
        const CODES: &[(Code, &str)] = &[$((Code::$variant, $name)),*];
    };
}

codes! {
    Ok = 0, "OK";
    Cancelled = 1, "CANCELLED";
    Unknown = 2, "UNKNOWN";
    InvalidArgument = 3, "INVALID_ARGUMENT";
    DeadlineExceeded = 4, "DEADLINE_EXCEEDED";
    NotFound = 5, "NOT_FOUND";
    AlreadyExists = 6, "ALREADY_EXISTS";
    PermissionDenied = 7, "PERMISSION_DENIED";
    ResourceExhausted = 8, "RESOURCE_EXHAUSTED";
    FailedPrecondition = 9, "FAILED_PRECONDITION";
    Aborted = 10, "ABORTED";
    OutOfRange = 11, "OUT_OF_RANGE";
    Unimplemented = 12, "UNIMPLEMENTED";
    Internal = 13, "INTERNAL";
    Unavailable = 14, "UNAVAILABLE";
    DataLoss = 15, "DATA_LOSS";
    Unauthenticated = 16, "UNAUTHENTICATED";
}

impl Code {
    /// The code with this number on the wire. A number from a newer peer reads as `Unknown`.
    pub fn from_wire(number: u32) -> Self {
        CODES.get(number as usize).map_or(Self::Unknown, |(code, _)| *code)
    }

    /// The number on the wire.
    pub fn to_wire(self) -> u32 {
        self as u32
    }

    /// The name as people write it, such as `DEADLINE_EXCEEDED`.
    pub fn name(self) -> &'static str {
        CODES[self as usize].1
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A code with a text for people, as a handler returns it and a caller receives it.
///
/// ```
/// use mprpc_runtime::{Code, Status};
/// let status = Status::new(Code::NotFound, "no user 7");
/// assert_eq!(status.to_string(), "NOT_FOUND: no user 7");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    code: Code,
    retryable: bool,
    message: String,
    details: Vec<u8>,
    stages: Option<Box<ServerStages>>,
}

impl Status {
    /// A status with a text that the caller's user may read. Keep secrets out of it.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, retryable: false, message: message.into(), details: Vec::new(), stages: None }
    }

    /// The caller gave something that no state of the server would accept.
    pub fn invalid_argument(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// What the caller asks for is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    /// What the caller wants to make is there already.
    pub fn already_exists(message: impl Into<String>) -> Self {
        Self::new(Code::AlreadyExists, message)
    }

    /// The caller is known, and may not do this.
    pub fn permission_denied(message: impl Into<String>) -> Self {
        Self::new(Code::PermissionDenied, message)
    }

    /// Not in the state that the server is in; trying again does not change it.
    pub fn failed_precondition(message: impl Into<String>) -> Self {
        Self::new(Code::FailedPrecondition, message)
    }

    /// The server broke a promise of its own.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
    }

    /// No such service or method here.
    pub fn unimplemented(message: impl Into<String>) -> Self {
        Self::new(Code::Unimplemented, message)
    }

    /// Nobody to serve the call now; later or elsewhere it may work.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, message)
    }

    /// A limit was reached.
    pub fn resource_exhausted(message: impl Into<String>) -> Self {
        Self::new(Code::ResourceExhausted, message)
    }

    /// The time allowed for the call passed.
    pub fn deadline_exceeded(message: impl Into<String>) -> Self {
        Self::new(Code::DeadlineExceeded, message)
    }

    /// The caller no longer wants the answer.
    pub fn cancelled(message: impl Into<String>) -> Self {
        Self::new(Code::Cancelled, message)
    }

    /// The same status, with what the server said of where the time went.
    pub(crate) fn with_stages(mut self, stages: Option<ServerStages>) -> Self {
        self.stages = stages.map(Box::new);
        self
    }

    /// What the server said of where the time went.
    pub(crate) fn stages(&self) -> Option<&ServerStages> {
        self.stages.as_deref()
    }

    /// The same status, saying that the call did not run and may be sent again elsewhere.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }

    /// The same status with bytes for programs, commonly a serialized message.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<Vec<u8>>) -> Self {
        self.details = details.into();
        self
    }

    /// Why the call ended.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The text for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The bytes for programs; empty if there are none.
    pub fn details(&self) -> &[u8] {
        &self.details
    }

    /// Whether the server says that the call did not run.
    pub fn retryable(&self) -> bool {
        self.retryable
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_wire() {
        for &(code, name) in CODES {
            assert_eq!((Code::from_wire(code.to_wire()), code.name()), (code, name));
        }
        assert_eq!(Code::from_wire(99), Code::Unknown);
    }
}
