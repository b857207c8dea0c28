//! What to do about a node that should be ours, or no longer, from what stands there. Pure.

use std::net::SocketAddr;

use super::nodes::{instance_addr, instance_id, legacy_address};

/// A znode as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The session that it dies with; 0 if it is persistent.
    pub(super) owner: i64,
    /// How often its data was set. A C++ node is created and never set.
    pub(super) version: i32,
    pub(super) data: Vec<u8>,
}

impl Found {
    pub(super) fn new(owner: i64, version: i32, data: Vec<u8>) -> Self {
        Self { owner, version, data }
    }
}

/// What a node is for. The order is that of work: old callers are sent away first and here last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    OldKept,
    OldMirror,
    OldInstance,
    Instance,
    Mirror,
    /// Any ephemeral node that its maker wants to last: only that there is one matters.
    Kept,
}

impl Role {
    /// The role of a claim that is given up.
    pub(super) fn old(self) -> Self {
        match self {
            Self::Kept | Self::OldKept => Self::OldKept,
            Self::Mirror | Self::OldMirror => Self::OldMirror,
            Self::Instance | Self::OldInstance => Self::OldInstance,
        }
    }
}

/// What this process claims, or claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) role: Role,
    pub(super) addr: SocketAddr,
    pub(super) id: u64,
    pub(super) data: Vec<u8>,
}

/// Who answers at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Nobody,
    Process(u64),
    /// Somebody who does not say who, such as a C++ provider.
    Stranger,
}

/// The next thing to do. After anything but `Keep` and `Leave`, look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All is as it should be.
    Keep,
    /// Another's. It is never touched.
    Leave,
    /// Dial this address and decide again with the answer.
    Ask(SocketAddr),
    Create,
    /// Set the data, if the version is still this one.
    Write(i32),
    /// Delete the node, if the version is still this one, which is at least 1.
    Delete(i32),
}

impl Claim {
    /// What to do, given the answer at the address that an earlier `Ask` named, and how many nodes of
    /// others were evicted from this place before: a ghost does not come back, but two machines with
    /// one address each reach themselves there and take the other for a ghost.
    pub(super) fn judge(
        &self,
        found: Option<&Found>,
        me: i64,
        answer: Option<Answer>,
        evicted: u32,
    ) -> Verdict {
        let old = self.role <= Role::OldInstance;
        let Some(found) = found else {
            return if old { Verdict::Keep } else { Verdict::Create };
        };
        // Our own id under another session: we were here before this session began.
        let was_mine = instance_id(&found.data) == Some(self.id);
        match self.role {
            Role::OldKept if found.owner == me => remove(found),
            Role::OldKept | Role::Kept => Verdict::Keep,
            _ if old && (found.owner == me || was_mine || found.data == self.data) => remove(found),
            _ if old => Verdict::Keep,
            _ if found.owner == me && found.data == self.data && found.version >= 1 => Verdict::Keep,
            _ if found.owner == me => Verdict::Write(found.version),
            // The instance node is ours, so whoever served at this address is gone.
            Role::Mirror if legacy_address(&found.data) == Some(self.addr) => remove(found),
            Role::Mirror => Verdict::Leave,
            _ if was_mine => remove(found),
            _ => {
                let whom = instance_addr(&found.data).unwrap_or(self.addr);
                match answer {
                    None => Verdict::Ask(whom),
                    Some(_) if evicted >= MAX_EVICTED && found.owner != 0 => Verdict::Leave,
                    Some(Answer::Process(id)) if id == self.id => remove(found),
                    Some(Answer::Nobody) if whom == self.addr => remove(found),
                    Some(_) => Verdict::Leave,
                }
            }
        }
    }
}

/// Deletes never name version 0: a C++ node made this very moment has it. A ghost that was never
/// set is set first, which fails if the node is no longer the one that was read.
fn remove(found: &Found) -> Verdict {
    match found.version {
        0 => Verdict::Write(0),
        version => Verdict::Delete(version),
    }
}

/// The one that was there first evicts once less than the one that came, and stays.
pub(super) const MAX_EVICTED: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Publication, zookeeper::nodes};

    const ME: i64 = 7;
    const OTHER: i64 = 8;

    fn addr(port: u16) -> SocketAddr {
        ([10, 0, 0, 5], port).into()
    }

    fn text(addr: SocketAddr, instance: u64) -> Vec<u8> {
        let (services, weight, zone, legacy) = (Vec::new(), 100, String::new(), true);
        let of = Publication { addr, instance, services, weight, zone, legacy };
        nodes::instance_text(&of, false, "", 0).into_bytes()
    }

    fn claim(role: Role) -> Claim {
        let data = match role {
            Role::Instance | Role::OldInstance => text(addr(1), 0xa),
            Role::Mirror | Role::OldMirror => nodes::mirror_text(addr(1)).expect("IPv4"),
            Role::Kept | Role::OldKept => b"any".to_vec(),
        };
        Claim { role, addr: addr(1), id: 0xa, data }
    }

    fn found(owner: i64, version: i32, data: impl Into<Vec<u8>>) -> Option<Found> {
        let data = data.into();
        Some(Found { owner, version, data })
    }

    #[test]
    fn a_free_name_is_taken_and_our_own_node_kept_or_repaired() {
        for role in [Role::Instance, Role::Mirror] {
            let claim = claim(role);
            let judge = |found: Option<Found>| claim.judge(found.as_ref(), ME, None, 0);
            assert_eq!(judge(None), Verdict::Create);
            assert_eq!(judge(found(ME, 1, claim.data.clone())), Verdict::Keep);
            assert_eq!(judge(found(ME, 0, claim.data.clone())), Verdict::Write(0), "never set");
            assert_eq!(judge(found(ME, 3, "overwritten")), Verdict::Write(3));
        }
    }

    #[test]
    fn an_instance_of_an_earlier_session_of_ours_is_replaced_without_asking() {
        let claim = claim(Role::Instance);
        let ghost = found(OTHER, 2, text(addr(1), 0xa));
        assert_eq!(claim.judge(ghost.as_ref(), ME, None, 0), Verdict::Delete(2));
    }

    #[test]
    fn a_strange_instance_is_replaced_only_if_its_address_is_ours_or_dead_and_ours() {
        let claim = claim(Role::Instance);
        let judge = |port, answer| {
            let other = found(OTHER, 1, text(addr(port), 0xb));
            claim.judge(other.as_ref(), ME, answer, 0)
        };
        assert_eq!(judge(1, None), Verdict::Ask(addr(1)));
        assert_eq!(judge(2, None), Verdict::Ask(addr(2)));
        assert_eq!(judge(1, Some(Answer::Process(0xa))), Verdict::Delete(1));
        assert_eq!(judge(2, Some(Answer::Process(0xa))), Verdict::Delete(1));
        assert_eq!(judge(1, Some(Answer::Nobody)), Verdict::Delete(1));
        assert_eq!(judge(2, Some(Answer::Nobody)), Verdict::Leave, "it may come back");
        for port in [1, 2] {
            assert_eq!(judge(port, Some(Answer::Process(0xb))), Verdict::Leave);
            assert_eq!(judge(port, Some(Answer::Stranger)), Verdict::Leave);
        }
        let rubbish = found(OTHER, 0, "rubbish");
        assert_eq!(claim.judge(rubbish.as_ref(), ME, None, 0), Verdict::Ask(addr(1)));
        let dead = claim.judge(rubbish.as_ref(), ME, Some(Answer::Nobody), 0);
        assert_eq!(dead, Verdict::Write(0), "version 0 is never deleted");
    }

    #[test]
    fn of_two_machines_with_one_address_one_gives_way_and_the_first_stays() {
        // Each finds itself at the address, so each takes the other's node for a ghost.
        let mut evicted = [0, 0];
        let mut holder = 0;
        for turn in 1..10 {
            let other = turn % 2;
            if holder == other {
                continue;
            }
            let (id, theirs) = ([0xa, 0xb][other], [0xa, 0xb][holder]);
            let claim = Claim { role: Role::Instance, addr: addr(1), id, data: text(addr(1), id) };
            let node = found([ME, OTHER][holder], 1, text(addr(1), theirs));
            let answer = Some(Answer::Process(id));
            match claim.judge(node.as_ref(), [ME, OTHER][other], answer, evicted[other]) {
                Verdict::Delete(1) => (evicted[other], holder) = (evicted[other] + 1, other),
                Verdict::Leave => break,
                verdict => panic!("{verdict:?}"),
            }
        }
        assert_eq!((holder, evicted), (0, [2, 2]));
        let claim = claim(Role::Instance);
        let lasting = found(0, 1, text(addr(1), 0xb));
        let verdict = claim.judge(lasting.as_ref(), ME, Some(Answer::Process(0xa)), 9);
        assert_eq!(verdict, Verdict::Delete(1), "no living process makes a lasting node");
    }

    #[test]
    fn a_legacy_name_is_left_to_any_other_address() {
        let claim = claim(Role::Mirror);
        let judge = |version, data: &str| claim.judge(found(OTHER, version, data).as_ref(), ME, None, 0);
        assert_eq!(judge(0, "10.0.0.6:1"), Verdict::Leave);
        assert_eq!(judge(1, "10.0.0.5:2\0mprpc"), Verdict::Leave);
        assert_eq!(judge(0, "rubbish"), Verdict::Leave);
        assert_eq!(judge(0, "10.0.0.5:1"), Verdict::Write(0), "a C++ ghost on our address");
        assert_eq!(judge(0, "10.0.0.5:1;w=1"), Verdict::Write(0));
        assert_eq!(judge(1, "10.0.0.5:1\0mprpc"), Verdict::Delete(1));
    }

    #[test]
    fn a_kept_node_is_made_again_and_anothers_left_alone() {
        let judge = |role, found: Option<Found>| claim(role).judge(found.as_ref(), ME, None, 0);
        assert_eq!(judge(Role::Kept, None), Verdict::Create);
        for (owner, data) in [(ME, "any"), (ME, "other"), (OTHER, "any"), (0, "other")] {
            assert_eq!(judge(Role::Kept, found(owner, 0, data)), Verdict::Keep);
        }
        assert_eq!(judge(Role::OldKept, None), Verdict::Keep);
        assert_eq!(judge(Role::OldKept, found(OTHER, 0, "any")), Verdict::Keep);
        assert_eq!(judge(Role::OldKept, found(ME, 1, "other")), Verdict::Delete(1));
    }

    #[test]
    fn only_our_own_nodes_are_taken_away() {
        for role in [Role::OldInstance, Role::OldMirror] {
            let claim = claim(role);
            let judge = |found: Option<Found>| claim.judge(found.as_ref(), ME, None, 0);
            assert_eq!(judge(None), Verdict::Keep);
            assert_eq!(judge(found(ME, 2, "anything")), Verdict::Delete(2));
            assert_eq!(judge(found(OTHER, 1, claim.data.clone())), Verdict::Delete(1));
            assert_eq!(judge(found(OTHER, 1, text(addr(1), 0xb))), Verdict::Keep);
            assert_eq!(judge(found(OTHER, 0, "10.0.0.6:1")), Verdict::Keep);
        }
    }
}
