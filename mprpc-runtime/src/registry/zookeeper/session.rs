//! What to do on which event in which state of the session. Pure: time is an argument.

use std::time::{Duration, Instant};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Time passed, or somebody wants something done.
    Tick,
    /// A client was made and answers.
    Opened,
    /// No client could be made.
    Failed,
    /// The client lost its server and looks for one by itself.
    Cut,
    /// The client found a server; whether its session survived is not known.
    Joined,
    /// The client ended: its session is over, it will never work again.
    Ended,
    /// The work of this turn is done.
    Done,
    /// A request was lost with the connection, or the client gives no answer any more.
    Lost,
    /// A request was not answered in time.
    Late,
    /// The registry is to end.
    Stop,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Wait,
    /// Make a client.
    Open,
    /// Forget what was known of the session, then do the work: the nodes may be gone, the watches are.
    Restore,
    /// Check and read everything anew, then do the work.
    Audit,
    /// Do the work that is due.
    Work,
    /// Give the client away to be closed; its session ends when that succeeds or times out.
    Abandon,
}

/// The session's supervisor.
#[derive(Debug)]
pub(super) struct Session {
    timeout: Duration,
    state: State,
    dice: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No client.
    Down {
        failures: u32,
        retry: Instant,
    },
    /// A client that works as far as is known; `doubt` is when it first did not.
    Up {
        audit: Instant,
        doubt: Option<Instant>,
    },
    /// A client without a server.
    Cut {
        since: Instant,
    },
    Stopped,
}

impl Session {
    /// A session that wants to be opened at once. `dice` is any number; it decides the jitter.
    pub(super) fn new(timeout: Duration, now: Instant, dice: u64) -> Self {
        let state = State::Down {
            failures: 0,
            retry: now,
        };
        Self {
            timeout,
            state,
            dice: dice | 1,
        }
    }

    /// Takes an event and says what to do. The outcome of `Open` is to be reported as `Opened` or
    /// `Failed`, that of `Restore`, `Audit` and `Work` as `Done`, `Lost` or `Late`.
    pub(super) fn on(&mut self, event: Event, now: Instant) -> Step {
        match (self.state, event) {
            (State::Stopped, _) => Step::Wait,
            (_, Event::Stop) => self.to(State::Stopped, Step::Abandon),
            (State::Down { retry, .. }, Event::Tick) if now >= retry => Step::Open,
            (State::Down { .. }, Event::Opened)
            | (State::Up { .. } | State::Cut { .. }, Event::Joined) => {
                let audit = now + self.audit_period();
                self.to(State::Up { audit, doubt: None }, Step::Restore)
            }
            (State::Down { failures, .. }, Event::Failed) => {
                self.down(failures + 1, now, Step::Wait)
            }
            // A client that is gone has nothing to say.
            (State::Down { .. }, _) => Step::Wait,
            (_, Event::Ended | Event::Late) => self.down(0, now, Step::Abandon),
            (State::Up { audit, doubt: None }, Event::Lost) => self.to(
                State::Up {
                    audit,
                    doubt: Some(now),
                },
                Step::Wait,
            ),
            (
                State::Up {
                    doubt: Some(since), ..
                },
                Event::Lost,
            ) if now > since + self.timeout => {
                self.down(0, now, Step::Abandon) // its threads died without a word
            }
            (State::Up { .. }, Event::Cut) => self.to(State::Cut { since: now }, Step::Wait),
            (State::Up { audit, doubt }, Event::Tick) if now >= audit => {
                let audit = now + self.audit_period();
                self.to(State::Up { audit, doubt }, Step::Audit)
            }
            (State::Up { .. }, Event::Tick) => Step::Work,
            (State::Up { audit, .. }, Event::Done) => {
                self.to(State::Up { audit, doubt: None }, Step::Wait)
            }
            (State::Up { .. }, Event::Lost | Event::Opened | Event::Failed) => Step::Wait,
            // By then the client would have said that it ended.
            (State::Cut { since }, Event::Tick) if now >= since + self.patience() => {
                self.down(0, now, Step::Abandon)
            }
            (State::Cut { .. }, _) => Step::Wait,
        }
    }

    /// When the next `Tick` is needed, if nothing happens before.
    pub(super) fn wake(&self, now: Instant) -> Option<Instant> {
        match self.state {
            State::Down { retry, .. } => Some(retry),
            State::Up { audit, doubt } => {
                Some(doubt.map_or(audit, |_| audit.min(now + DOUBT_PAUSE)))
            }
            State::Cut { since } => Some(since + self.patience()),
            State::Stopped => None,
        }
    }

    /// Whether work that is due can be done now, and not only with the next `wake`.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, State::Up { doubt: None, .. })
    }

    /// Above two thirds of the time-out, so that the client pings: it takes a client that did not
    /// ping for expired at the first cut.
    fn audit_period(&self) -> Duration {
        self.timeout * 4 / 5
    }

    fn patience(&self) -> Duration {
        self.timeout + Duration::from_secs(3)
    }

    fn down(&mut self, failures: u32, now: Instant, step: Step) -> Step {
        let retry = now + backoff(failures, self.roll());
        self.to(State::Down { failures, retry }, step)
    }

    fn to(&mut self, state: State, step: Step) -> Step {
        self.state = state;
        step
    }

    /// A xorshift step: enough to keep clients from knocking together.
    fn roll(&mut self) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice
    }
}

/// How long to wait after this many failures: 100 ms doubling to 3 s, less a random half.
pub(super) fn backoff(failures: u32, dice: u64) -> Duration {
    let most = (100 << failures.min(5)).min(3000);
    Duration::from_millis(most / 2 + dice % (most / 2 + 1))
}

const DOUBT_PAUSE: Duration = Duration::from_secs(1);

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
            let retry = session.wake(now).expect("it retries");
            assert_eq!(
                session.on(Event::Tick, retry - Duration::from_millis(1)),
                Step::Wait
            );
            longest = longest.max(retry - now);
            now = retry;
        }
        assert!(longest > Duration::from_millis(1500) && longest <= Duration::from_secs(3));
    }

    #[test]
    fn work_is_done_at_once_and_an_audit_after_four_fifths_of_the_timeout() {
        let (mut session, now) = up();
        assert_eq!(session.on(Event::Tick, now), Step::Work);
        assert_eq!(session.wake(now), Some(now + Duration::from_secs(8)));
        let later = now + Duration::from_secs(8);
        assert_eq!(session.on(Event::Tick, later), Step::Audit);
        assert_eq!(session.on(Event::Tick, later), Step::Work);
    }

    #[test]
    fn after_a_cut_nothing_is_asked_until_a_server_is_found_and_then_all_is_restored() {
        let (mut session, now) = up();
        assert_eq!(session.on(Event::Cut, now), Step::Wait);
        assert!(!session.is_up());
        assert_eq!(session.on(Event::Tick, now), Step::Wait);
        assert_eq!(session.on(Event::Lost, now), Step::Wait);
        assert_eq!(session.on(Event::Joined, now), Step::Restore);
        assert!(session.is_up());
    }

    #[test]
    fn a_session_replaced_behind_our_back_is_restored_too() {
        let (mut session, now) = up();
        assert_eq!(session.on(Event::Joined, now), Step::Restore);
    }

    #[test]
    fn a_client_that_ended_or_hangs_is_abandoned_and_replaced() {
        for event in [Event::Ended, Event::Late] {
            let (mut session, now) = up();
            assert_eq!(session.on(event, now), Step::Abandon);
            let retry = session.wake(now).expect("it retries");
            assert!(retry - now <= Duration::from_millis(100));
            assert_eq!(
                session.on(Event::Joined, now),
                Step::Wait,
                "news of the old client"
            );
            assert_eq!(session.on(Event::Tick, retry), Step::Open);
        }
    }

    #[test]
    fn a_client_that_neither_works_nor_ends_is_abandoned() {
        let (mut session, mut now) = up();
        session.on(Event::Cut, now);
        assert_eq!(session.wake(now), Some(now + Duration::from_secs(13)));
        assert_eq!(
            session.on(Event::Tick, now + Duration::from_secs(13)),
            Step::Abandon
        );

        (session, now) = up();
        assert_eq!(session.on(Event::Lost, now), Step::Wait);
        assert_eq!(session.wake(now), Some(now + DOUBT_PAUSE));
        assert_eq!(session.on(Event::Tick, now), Step::Work);
        assert_eq!(session.on(Event::Lost, now + TIMEOUT), Step::Wait);
        assert_eq!(
            session.on(Event::Lost, now + TIMEOUT + DOUBT_PAUSE),
            Step::Abandon
        );
    }

    #[test]
    fn one_lost_request_is_forgotten_when_the_next_works() {
        let (mut session, now) = up();
        session.on(Event::Lost, now);
        session.on(Event::Done, now);
        assert_eq!(session.on(Event::Lost, now + 2 * TIMEOUT), Step::Wait);
    }

    #[test]
    fn a_stopped_session_does_nothing_any_more() {
        let (mut session, now) = up();
        assert_eq!(session.on(Event::Stop, now), Step::Abandon);
        for event in [Event::Tick, Event::Joined, Event::Ended, Event::Stop] {
            assert_eq!(session.on(event, now), Step::Wait);
        }
        assert_eq!(session.wake(now), None);
    }
}
