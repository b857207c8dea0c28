//! The hostile client: tables of behaviours, each against a real provider, and what should come of it.

use std::{net::SocketAddr, time::Duration};

use mprpc_runtime::wire::mux::Kind;

use super::{
    hostile_legacy, hostile_mux,
    peer::{End, LIMIT, Peer, request, text},
    watch::{Provider, Watch},
};
use crate::{row::Outcome, stage::Stage};

/// Something that an honest client does not do.
pub(crate) struct Behaviour {
    pub(crate) name: &'static str,
    /// Does it. Gives what went wrong, if the provider did not answer as it should.
    pub(crate) run: fn(SocketAddr) -> Result<(), String>,
}

pub(crate) fn mux(stage: &Stage) -> Outcome {
    all(stage, hostile_mux::BEHAVIOURS)
}

pub(crate) fn legacy(stage: &Stage) -> Outcome {
    all(stage, hostile_legacy::BEHAVIOURS)
}

/// What every behaviour on both wires, once and in turn, meets that it should not.
pub(crate) fn complaints(addr: SocketAddr) -> Vec<String> {
    let behaviours = hostile_mux::BEHAVIOURS.iter().chain(hostile_legacy::BEHAVIOURS);
    let complaint = |one: &Behaviour| (one.run)(addr).err().map(|why| format!("{}: {why}", one.name));
    behaviours.filter_map(complaint).collect()
}

/// Every behaviour in turn, several times, beside an honest client.
fn all(stage: &Stage, behaviours: &[Behaviour]) -> Outcome {
    let provider = Provider::start(stage, "provider", &[("request_timeout", "5s")]);
    let watch = Watch::start(stage, &provider);
    let mut outcome = Outcome::default();
    let rounds = if stage.quick { 5 } else { 20 };
    for behaviour in behaviours {
        stage.say(behaviour.name);
        for _ in 0..rounds {
            if let Err(why) = (behaviour.run)(provider.addr) {
                outcome.check(false, format!("{}: {why}", behaviour.name));
                break;
            }
        }
    }
    outcome.check(behaviours.len() >= 14, format!("{} behaviours x {rounds}", behaviours.len()));
    watch.end(&mut outcome, &provider);
    secrets(&mut outcome, stage);
    outcome
}

/// No log file has a part of a payload: behaviours that send one put [`SECRET`] in it.
fn secrets(outcome: &mut Outcome, stage: &Stage) {
    let logs = std::fs::read_dir(stage.dir().join("provider")).expect("the provider's logs");
    let (mut told, mut lines) = (0, 0);
    for file in logs.flatten() {
        let bytes = std::fs::read(file.path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        told += text.matches(SECRET).count();
        lines += text.lines().count();
        let bad = |c: char| c.is_control() && c != '\n';
        outcome.failed_if(text.contains(bad), "a control character in the log");
    }
    outcome.check(told == 0 && lines < 1000, format!("{lines} log lines without a payload"));
}

/// In the payloads, and nowhere else.
pub(crate) const SECRET: &str = "pwd-7f3a91";

/// The next answer is a Response to `call` with this code.
pub(crate) fn answers(peer: &mut Peer, call: u64, code: u32) -> Result<(), String> {
    match peer.answer(LIMIT) {
        Ok(frame) if (frame.kind, frame.call, frame.code) == (Kind::Response as u8, call, code) => Ok(()),
        other => Err(format!("code {code} expected, not {other:?}")),
    }
}

/// The connection still serves.
pub(crate) fn lives(peer: &mut Peer, call: u64) -> Result<(), String> {
    peer.send(&request(call, "Echo", &text(b"alive")));
    answers(peer, call, 0)
}

/// The connection is ended: GoAway with `reason` in its text, then FIN.
pub(crate) fn ends(peer: &mut Peer, reason: &str) -> Result<(), String> {
    loop {
        match peer.answer(LIMIT) {
            Ok(frame) if frame.kind == Kind::Response as u8 => {}
            Ok(frame) if frame.text.contains(reason) => break,
            other => return Err(format!("GoAway {reason:?} expected, not {other:?}")),
        }
    }
    match peer.rest(LIMIT).1 {
        End::Fin | End::Reset => Ok(()),
        End::Silence => Err("no FIN behind the GoAway".into()),
    }
}

/// The connection is gone in time, in whatever way.
pub(crate) fn gone(peer: &mut Peer, limit: Duration) -> Result<(), String> {
    match peer.rest(limit).1 {
        End::Fin | End::Reset => Ok(()),
        End::Silence => Err(format!("still open after {limit:?}")),
    }
}
