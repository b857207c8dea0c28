//! Bugs that can be planted in the simulation's own glue, to see that its rules find them.

/// One planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A call that is tried again is also told of the failure.
    DoubleDelivery,
    /// The handler is not told when its caller no longer wants the answer.
    LostCancel,
    /// Once in a while a call gets the id of the one before.
    ReusedId,
    /// What may have run is tried again, idempotent or not.
    RetryAfterRun,
    /// Another attempt gets all of the time again.
    ForgottenDeadline,
    /// Two handlers that end together swap their answers.
    CrossedReplies,
    /// Health is noted, but nobody asks for it.
    KnownBad,
    /// A draining process does not wait for the handlers that run.
    HastyExit,
    /// A timer that runs is not set anew for an earlier time.
    StaleTimer,
    /// An attempt on a connection that broke is said not to have run.
    FalseDenial,
}

impl Bug {
    pub(crate) const ALL: [Self; 10] = [
        Self::DoubleDelivery,
        Self::LostCancel,
        Self::ReusedId,
        Self::RetryAfterRun,
        Self::ForgottenDeadline,
        Self::CrossedReplies,
        Self::KnownBad,
        Self::HastyExit,
        Self::StaleTimer,
        Self::FalseDenial,
    ];
}
