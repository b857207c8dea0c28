//! The two calls, what they send, and what a right answer is.

/// The call that a scenario makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// [`NAME`] and [`PWD`] there, result code 0, [`OK`] and true back.
    Login,
    /// This many bytes there and the same back.
    Echo(usize),
}

impl Job {
    /// What an echo sends: bytes that do not repeat at any power of two. Empty for a login.
    pub fn payload(self) -> Vec<u8> {
        match self {
            Self::Login => Vec::new(),
            Self::Echo(size) => (0..size).map(|at| (at % 251) as u8).collect(),
        }
    }

    /// The bytes of payload that an answer carries.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::Login => 0,
            Self::Echo(size) => size,
        }
    }
}

/// Whether a login was answered as [`Job::Login`] says.
#[inline]
pub fn login_is_right(errcode: i32, errmsg: &[u8], success: bool) -> bool {
    errcode == 0 && errmsg == OK && success
}

/// The name in a login.
pub const NAME: &[u8] = b"user-0001";
/// The password in a login.
pub const PWD: &[u8] = b"correct-horse-16";
/// The message in its answer.
pub const OK: &[u8] = b"ok";
