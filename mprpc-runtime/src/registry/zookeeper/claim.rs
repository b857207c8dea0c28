//! What to do about a node that should be ours, decided from what stands there. Pure.

use std::net::SocketAddr;

use super::nodes;

/// A znode as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The session that it dies with; 0 if it is persistent.
    pub(super) owner: i64,
    /// How often its data was set. A C++ node is created and never set.
    pub(super) version: i32,
    pub(super) data: Vec<u8>,
}

/// What this process claims.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mine<'a> {
    pub(super) session: i64,
    pub(super) addr: SocketAddr,
    pub(super) id: u64,
    pub(super) data: &'a [u8],
}

/// Who answers at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nobody takes the connection.
    Nobody,
    /// The process with this id.
    Process(u64),
    /// Somebody who does not say who, such as a C++ provider.
    Stranger,
}

/// The next thing to do; after anything but the first two, look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All is as it should be.
    Keep,
    /// Another's. It is never touched.
    Leave,
    /// Dial this address and decide again with the answer.
    Ask(SocketAddr),
    /// Nobody has the name.
    Create,
    /// Set the data, if the version is still this one.
    Write(i32),
    /// A ghost or no longer wanted: delete, if the version is still this one.
    Delete(i32),
}

/// What to do for an instance node, given the answer at the address that an earlier `Ask` named.
pub(super) fn instance(found: Option<&Found>, mine: Mine<'_>, answer: Option<Answer>) -> Verdict {
    let Some(found) = found else {
        return Verdict::Create;
    };
    if found.owner == mine.session {
        return keep_or_write(found, mine);
    }
    // Our own id under another session: we were here before this session began.
    if nodes::instance_id(&found.data) == Some(mine.id) {
        return remove(found);
    }
    let whom = nodes::instance_addr(&found.data).unwrap_or(mine.addr);
    match answer {
        None => Verdict::Ask(whom),
        Some(Answer::Process(id)) if id == mine.id => remove(found),
        Some(Answer::Nobody) if whom == mine.addr => remove(found),
        Some(_) => Verdict::Leave,
    }
}

/// What to do for a mirror node.
pub(super) fn mirror(found: Option<&Found>, mine: Mine<'_>) -> Verdict {
    match found {
        None => Verdict::Create,
        Some(found) if found.owner == mine.session => keep_or_write(found, mine),
        // The instance node is ours, so whoever served at this address is gone.
        Some(found) if nodes::legacy_address(&found.data) == Some(mine.addr) => remove(found),
        Some(_) => Verdict::Leave,
    }
}

/// What to do for a node that should be gone.
pub(super) fn removal(found: Option<&Found>, mine: Mine<'_>) -> Verdict {
    match found {
        Some(found)
            if found.owner == mine.session
                || found.data == mine.data
                || nodes::instance_id(&found.data) == Some(mine.id) =>
        {
            remove(found)
        }
        _ => Verdict::Keep,
    }
}

fn keep_or_write(found: &Found, mine: Mine<'_>) -> Verdict {
    if found.data == mine.data && found.version >= 1 {
        Verdict::Keep
    } else {
        Verdict::Write(found.version)
    }
}

/// Deletes never name version 0: a C++ node made this very moment has it. A ghost that was never
/// set is set first, which fails if the node is no longer the one that was read.
fn remove(found: &Found) -> Verdict {
    if found.version >= 1 {
        Verdict::Delete(found.version)
    } else {
        Verdict::Write(found.version)
    }
}
