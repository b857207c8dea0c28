//! Error: what an application sees when something of mprpc fails.

use std::{error, fmt, io, net::SocketAddr, time::Duration};

use crate::{
    stages::Stages,
    status::{Code, Status},
};

/// Everything that can fail in front of an application. `Debug` prints what `Display` prints, so
/// that an error returned from `main` reads well.
#[non_exhaustive]
pub enum Error {
    /// The configuration is wrong; the text names file, line, key and what would be right.
    Config(String),
    /// Something of the operating system failed at start or in a registry; the text says what was
    /// tried and which setting to change.
    Io(String, io::Error),
    /// The program used the API wrongly, such as notifying one service twice.
    Usage(String),
    /// The registry refused or cannot be reached.
    Registry(String),
    /// A call ended without a response.
    Call(Box<CallError>),
    /// What the application itself has to say, see [`Error::other`].
    Other(Box<dyn error::Error + Send + Sync>),
}

/// Whether the handler may have run although the call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ran {
    /// It did not: the call may be repeated safely.
    No,
    /// It may have: repeat only what is idempotent.
    Maybe,
}

/// One failed call, with what a person needs to find out why.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CallError {
    /// What went wrong.
    pub status: Status,
    /// Whether the handler may have run.
    pub ran: Ran,
    /// `package.Service/Method`.
    pub method: String,
    /// The peer of the last attempt, if one was chosen.
    pub peer: Option<SocketAddr>,
    /// Which attempt this was, counted from 1.
    pub attempt: u32,
    /// How many attempts the call was allowed.
    pub max_attempts: u32,
    /// Where the time of the last attempt went; `None` if there was none.
    pub stages: Option<Box<Stages>>,
    /// From the call to its end.
    pub elapsed: Duration,
    /// The time that the call was allowed; zero if neither is known.
    pub allowed: Duration,
}

impl Error {
    /// An error of the application, so that it can leave [`main`](crate::main) by `?` as ours do.
    pub fn other(error: impl Into<Box<dyn error::Error + Send + Sync>>) -> Self {
        Self::Other(error.into())
    }

    /// The status code: the call's own, or the nearest one for other errors.
    pub fn code(&self) -> Code {
        match self {
            Self::Call(call) => call.status.code(),
            Self::Config(_) | Self::Usage(_) => Code::FailedPrecondition,
            Self::Io(..) | Self::Registry(_) => Code::Unavailable,
            Self::Other(_) => Code::Unknown,
        }
    }

    /// The status of a failed call.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Call(call) => Some(&call.status),
            _ => None,
        }
    }

    /// True if the handler certainly did not run, so that repeating the call is safe.
    pub fn did_not_run(&self) -> bool {
        match self {
            Self::Call(call) => call.ran == Ran::No,
            Self::Config(_) | Self::Usage(_) | Self::Io(..) | Self::Registry(_) => true,
            Self::Other(_) => false,
        }
    }

    /// The exit status that a program should end with: 2 for its configuration, else 1.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Config(_)) { 2 } else { 1 }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(text) | Self::Usage(text) | Self::Registry(text) => f.write_str(text),
            Self::Io(text, source) => write!(f, "{text}: {source}"),
            Self::Call(call) => call.fmt(f),
            Self::Other(error) => error.fmt(f),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Io(_, source) => Some(source),
            Self::Call(call) => Some(&call.status),
            // It prints that error itself, so what is behind it comes next.
            Self::Other(error) => error.source(),
            Self::Config(_) | Self::Usage(_) | Self::Registry(_) => None,
        }
    }
}

/// A handler that calls another service may pass the failure on with `?`.
impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            // The caller's call did run: it is this handler. So the hint is not passed on.
            Error::Call(call) => {
                let text = format!("{}: {}", call.method, call.status.message());
                Self::new(call.status.code(), text).with_details(call.status.details())
            }
            other => Self::new(other.code(), other.to_string()),
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status.code(), self.method)?;
        if let Some(peer) = self.peer {
            write!(f, " at {peer}")?;
        }
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        write!(f, ", attempt {}/{}", self.attempt, self.max_attempts)?;
        if !self.allowed.is_zero() {
            write!(f, ", {:.1} of {:.0} ms", ms(self.elapsed), ms(self.allowed))?;
        }
        if let Some(stages) = &self.stages {
            write!(f, " ({stages})")?;
        }
        if self.ran == Ran::No {
            f.write_str(", did not run")?;
        }
        write!(f, ": {}", self.status.message())
    }
}
