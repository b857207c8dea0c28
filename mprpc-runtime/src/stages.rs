//! Stages: where the time of a call went.

use std::{fmt, time::Duration};

/// The stages of a call's last attempt, as its caller measured them. What is not known is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// Attempts before this one.
    pub before: Duration,
    /// Finding out who serves the call and choosing one of them.
    pub resolve: Duration,
    /// Waiting for a client reactor to take the call.
    pub queue: Duration,
    /// Waiting for the connection to be made.
    pub connect: Duration,
    /// All the rest: the way there and back, and what the server does not account for.
    pub wire: Duration,
    /// What the server says; nothing if it did not answer, or took hardly any time.
    pub server: Option<ServerStages>,
}

/// The stages of a call at its server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerStages {
    /// From its arrival until a worker took it, or the end if none did.
    pub queue: Duration,
    /// How many calls waited for a worker when it arrived.
    pub behind: u32,
    /// How long its handler ran; `None` if it did not.
    pub handler: Option<Duration>,
    /// The handler still ran when the call was answered in its place.
    pub unfinished: bool,
}

impl ServerStages {
    /// The numbers of a response's meta: queue, behind; handler, if it ran; 1, if it still does.
    pub(crate) fn to_wire(&self) -> Vec<u32> {
        let us = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let handler = self.handler.map(us);
        let unfinished = handler.and_then(|_| self.unfinished.then_some(1));
        [us(self.queue), self.behind].into_iter().chain(handler).chain(unfinished).collect()
    }

    /// The opposite. Numbers of later versions are ignored.
    pub(crate) fn from_wire(numbers: &[u32]) -> Option<Self> {
        let us = |us: &u32| Duration::from_micros((*us).into());
        let [queue, behind, rest @ ..] = numbers else { return None };
        let unfinished = rest.get(1) == Some(&1);
        Some(Self { queue: us(queue), behind: *behind, handler: rest.first().map(us), unfinished })
    }

    fn sum(&self) -> Duration {
        self.queue + self.handler.unwrap_or_default()
    }
}

impl Stages {
    /// The stages of an attempt that began `before` after its call did, passed `marks` (who serves it
    /// was known, a connection took it, that was open), and ended.
    pub(crate) fn between(
        before: Duration,
        marks: [Option<Duration>; 3],
        end: Duration,
        server: Option<ServerStages>,
    ) -> Self {
        let mut at = before;
        // A stage that was not passed took all the time that was left.
        let mut until = |mark: Option<Duration>| {
            let mark = mark.unwrap_or(end).max(at);
            mark - std::mem::replace(&mut at, mark)
        };
        let (resolve, queue, connect) = (until(marks[0]), until(marks[1]), until(marks[2]));
        let wire = until(None).saturating_sub(server.as_ref().map_or(Duration::ZERO, ServerStages::sum));
        Self { before, resolve, queue, connect, wire, server }
    }
}

impl fmt::Display for Stages {
    /// In milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        if !self.before.is_zero() {
            write!(f, "attempts before {:.1}, ", ms(self.before))?;
        }
        let Self { resolve, queue, connect, wire, .. } = *self;
        let (resolve, queue, connect, wire) = (ms(resolve), ms(queue), ms(connect), ms(wire));
        write!(f, "resolve {resolve:.1}, queue {queue:.1}, connect {connect:.1}, wire {wire:.1}")?;
        let Some(server) = &self.server else { return Ok(()) };
        write!(f, ", server queue {:.1} behind {}", ms(server.queue), server.behind)?;
        if let Some(handler) = server.handler {
            write!(f, ", handler {:.1}", ms(handler))?;
        }
        if server.unfinished { f.write_str(" unfinished") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_later_ones_are_ignored() {
        let ms = Duration::from_millis;
        let queued = ServerStages { queue: ms(7), behind: 3, ..Default::default() };
        let ran = ServerStages { handler: Some(ms(2)), ..queued.clone() };
        let runs = ServerStages { unfinished: true, ..ran.clone() };
        for (stages, numbers) in
            [(queued, vec![7000, 3]), (ran, vec![7000, 3, 2000]), (runs, vec![7000, 3, 2000, 1])]
        {
            assert_eq!(stages.to_wire(), numbers);
            assert_eq!(ServerStages::from_wire(&numbers), Some(stages));
        }
        assert_eq!(ServerStages::from_wire(&[1]), None);
        assert!(ServerStages::from_wire(&[1, 2, 3, 1, 9]).is_some_and(|stages| stages.unfinished));
    }

    #[test]
    fn a_stage_that_was_not_passed_took_the_rest() {
        let ms = Duration::from_millis;
        let stuck = Stages::between(ms(1), [Some(ms(3)), None, None], ms(10), None);
        assert_eq!((stuck.resolve, stuck.queue, stuck.connect, stuck.wire), (ms(2), ms(7), ms(0), ms(0)));
        let server = ServerStages { queue: ms(100), behind: 4, handler: Some(ms(50)), unfinished: true };
        let marks = [Some(ms(0)), Some(ms(1)), Some(ms(3))];
        let whole = Stages::between(ms(0), marks, ms(160), Some(server));
        assert_eq!(
            whole.to_string(),
            "resolve 0.0, queue 1.0, connect 2.0, wire 7.0, server queue 100.0 behind 4, handler 50.0 unfinished"
        );
    }
}
