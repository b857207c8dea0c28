//! What to do on which event in which state of the session. Pure: time is an argument.

use std::time::{Duration, Instant};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Time passed, or somebody wants something done.
    Tick,
    /// `Open` succeeded, or failed.
    Opened,
    Failed,
    /// The client lost its server and looks for one by itself.
    Cut,
    /// The client found a server; whether its session survived is not known.
    Joined,
    /// The client ended: its session is over, it will never work again.
    Ended,
    /// The work of this turn is done; or a request was lost with the connection, or not answered.
    Done,
    Lost,
    Late,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Wait,
    /// Make a client.
    Open,
    /// Do the work as if nothing were known: nodes may be gone, watches and authentication are.
    Restore,
    /// Check and read everything anew.
    Audit,
    /// Do the work that is due.
    Work,
    /// Give the client away to be closed.
    Abandon,
}

/// The session's supervisor.
#[derive(Debug)]
pub(super) struct Session {
    timeout: Duration,
    state: State,
    /// How often the client found a server again.
    joins: u32,
    dice: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// No client, after so many failures; the next try is at this time.
    Down(u32, Instant),
    /// A client that works, the time of its next audit, and since when it is in doubt.
    Up(Instant, Option<Instant>),
    /// A client without a server, since this time.
    Cut(Instant),
}

impl Session {
    /// A session that wants to be opened at once. `dice` is any number; it decides the jitter.
    pub(super) fn new(timeout: Duration, now: Instant, dice: u64) -> Self {
        let state = State::Down(0, now);
        Self { timeout, state, joins: 0, dice }
    }

    /// Takes an event and says what to do. The outcome of `Open` is to be reported as `Opened` or
    /// `Failed`, that of `Restore`, `Audit` and `Work` as `Done`, `Lost` or `Late`.
    pub(super) fn on(&mut self, event: Event, now: Instant) -> Step {
        let audit = now + self.audit_period();
        let patience = self.timeout + PATIENCE;
        self.joins = match event {
            Event::Opened => 0,
            Event::Joined => self.joins + 1,
            _ => self.joins,
        };
        let (state, step) = match (self.state, event) {
            (State::Down(_, retry), Event::Tick) if now >= retry => return Step::Open,
            (State::Down(n, _), Event::Failed) => (self.down(n + 1, now), Step::Wait),
            (State::Down(..), Event::Opened) => (State::Up(audit, None), Step::Restore),
            // A client that was given away has nothing to say.
            (State::Down(..), _) => return Step::Wait,
            (_, Event::Ended | Event::Late) => (self.down(0, now), Step::Abandon),
            (_, Event::Joined) if self.joins > MAX_JOINS => (self.down(0, now), Step::Abandon),
            (_, Event::Joined) => (State::Up(audit, None), Step::Restore),
            // By then it would have found a server or said that it ended.
            (State::Cut(since), Event::Tick) if now >= since + patience => (self.down(0, now), Step::Abandon),
            (State::Cut(_), _) => return Step::Wait,
            (State::Up(..), Event::Cut) => (State::Cut(now), Step::Wait),
            (State::Up(at, _), Event::Done) => (State::Up(at, None), Step::Wait),
            (State::Up(at, None), Event::Lost) => (State::Up(at, Some(now)), Step::Wait),
            // Its threads died without a word.
            (State::Up(_, Some(since)), Event::Lost) if now > since + self.timeout => {
                (self.down(0, now), Step::Abandon)
            }
            (State::Up(at, doubt), Event::Tick) if now >= at => (State::Up(audit, doubt), Step::Audit),
            (State::Up(..), Event::Tick) => return Step::Work,
            (State::Up(..), Event::Lost | Event::Opened | Event::Failed) => return Step::Wait,
        };
        self.state = state;
        step
    }

    /// When the next `Tick` is needed, if `due` is when the next piece of work is.
    pub(super) fn wake(&self, now: Instant, due: Option<Instant>) -> Instant {
        match self.state {
            State::Down(_, retry) => retry,
            State::Up(audit, None) => due.map_or(audit, |due| due.min(audit)),
            State::Up(audit, Some(_)) => audit.min(now + DOUBT_PAUSE),
            State::Cut(since) => since + self.timeout + PATIENCE,
        }
    }

    /// Above two thirds of the time-out, so that the client pings: it takes a client that did not
    /// ping for expired at the first cut.
    fn audit_period(&self) -> Duration {
        self.timeout * 4 / 5
    }

    fn down(&mut self, failures: u32, now: Instant) -> State {
        // Any walk through the numbers will do, and a multiplication is one (Knuth's MMIX).
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        State::Down(failures, now + backoff(failures, self.dice >> 33))
    }
}

/// How long to wait after this many failures: 100 ms doubling to 3 s, less a random half.
pub(super) fn backoff(failures: u32, dice: u64) -> Duration {
    let most = (100 << failures.min(5)).min(3000);
    Duration::from_millis(most / 2 + dice % (most / 2 + 1))
}

/// The crate keeps the closures of watches that a reconnection made useless, for as long as it lives.
const MAX_JOINS: u32 = 100;
const DOUBT_PAUSE: Duration = Duration::from_secs(1);
/// How long after its session's time a client without a server may take to say that it ended.
const PATIENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn up() -> (Session, Instant) {
        let now = Instant::now();
        let mut session = Session::new(TIMEOUT, now, 7);
        assert_eq!(session.on(Event::Tick, now), Step::Open);
        assert_eq!(session.on(Event::Opened, now), Step::Restore);
        assert_eq!(session.on(Event::Done, now), Step::Wait);
        (session, now)
    }

    #[test]
    fn a_new_session_opens_at_once_and_then_retries_ever_more_slowly() {
        let mut now = Instant::now();
        let mut session = Session::new(TIMEOUT, now, 7);
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            assert_eq!(session.on(Event::Tick, now), Step::Open);
            assert_eq!(session.on(Event::Failed, now), Step::Wait);
            let retry = session.wake(now, None);
            assert_eq!(session.on(Event::Tick, retry - Duration::from_millis(1)), Step::Wait);
            longest = longest.max(retry - now);
            now = retry;
        }
        assert!(longest > Duration::from_millis(1500) && longest <= Duration::from_secs(3));
    }

    #[test]
    fn work_is_done_at_once_and_an_audit_after_four_fifths_of_the_timeout() {
        let (mut session, now) = up();
        assert_eq!(session.on(Event::Tick, now), Step::Work);
        assert_eq!(session.wake(now, None), now + Duration::from_secs(8));
        assert_eq!(session.wake(now, Some(now)), now);
        let later = now + Duration::from_secs(8);
        assert_eq!(session.on(Event::Tick, later), Step::Audit);
        assert_eq!(session.on(Event::Tick, later), Step::Work);
    }

    #[test]
    fn after_a_cut_nothing_is_asked_until_a_server_is_found_and_then_all_is_restored() {
        let (mut session, now) = up();
        assert_eq!(session.on(Event::Cut, now), Step::Wait);
        assert_eq!(session.on(Event::Tick, now), Step::Wait);
        assert_eq!(session.on(Event::Lost, now), Step::Wait);
        assert_eq!(session.on(Event::Joined, now), Step::Restore);
    }

    #[test]
    fn a_session_replaced_behind_our_back_is_restored_too() {
        let (mut session, now) = up();
        assert_eq!(session.on(Event::Joined, now), Step::Restore);
    }

    #[test]
    fn a_client_that_reconnected_a_hundred_times_is_replaced() {
        let (mut session, now) = up();
        for _ in 0..MAX_JOINS {
            session.on(Event::Cut, now);
            assert_eq!(session.on(Event::Joined, now), Step::Restore);
        }
        assert_eq!(session.on(Event::Joined, now), Step::Abandon);
        let retry = session.wake(now, None);
        assert_eq!(session.on(Event::Tick, retry), Step::Open);
        assert_eq!(session.on(Event::Opened, retry), Step::Restore);
        assert_eq!(session.on(Event::Joined, retry), Step::Restore);
    }

    #[test]
    fn a_client_that_ended_or_hangs_is_abandoned_and_replaced() {
        for event in [Event::Ended, Event::Late] {
            let (mut session, now) = up();
            assert_eq!(session.on(event, now), Step::Abandon);
            let retry = session.wake(now, None);
            assert!(retry - now <= Duration::from_millis(100));
            assert_eq!(session.on(Event::Joined, now), Step::Wait, "news of the old client");
            assert_eq!(session.on(Event::Tick, retry), Step::Open);
        }
    }

    #[test]
    fn a_client_that_neither_works_nor_ends_is_abandoned() {
        let (mut session, mut now) = up();
        session.on(Event::Cut, now);
        assert_eq!(session.wake(now, Some(now)), now + Duration::from_secs(13));
        assert_eq!(session.on(Event::Tick, now + Duration::from_secs(13)), Step::Abandon);

        (session, now) = up();
        assert_eq!(session.on(Event::Lost, now), Step::Wait);
        assert_eq!(session.wake(now, Some(now)), now + DOUBT_PAUSE, "not at once");
        assert_eq!(session.on(Event::Tick, now), Step::Work);
        assert_eq!(session.on(Event::Lost, now + TIMEOUT), Step::Wait);
        assert_eq!(session.on(Event::Lost, now + TIMEOUT + DOUBT_PAUSE), Step::Abandon);
    }

    #[test]
    fn one_lost_request_is_forgotten_when_the_next_works() {
        let (mut session, now) = up();
        session.on(Event::Lost, now);
        session.on(Event::Done, now);
        assert_eq!(session.on(Event::Lost, now + 2 * TIMEOUT), Step::Wait);
    }
}
