//! A provider that runs: what can change while it serves, and its end.

use std::{
    io::Write,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::dispatch::Server;
use crate::{
    application::MprpcApplication,
    config::MprpcConfig,
    error::Error,
    reactor::{self, Accepting, Handle},
    registry::Publication,
};

/// A provider that serves in the background. Dropping it stops it.
pub struct RunningProvider {
    pub(super) app: MprpcApplication,
    /// The application's, or what was reread since.
    pub(super) config: MprpcConfig,
    pub(super) server: Arc<Server>,
    pub(super) reactors: reactor::Pool,
    pub(super) accepting: Option<Accepting>,
    pub(super) addr: SocketAddr,
    /// What stands in the registry.
    pub(super) published: Mutex<Option<Publication>>,
}

impl RunningProvider {
    /// The address that it serves on, with the port that was chosen.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Asks callers for another share of calls, from now on: 100 is normal, 0 asks for none as long as
    /// there are others. Returns when that is published, or after some seconds; what fails then is
    /// tried again. Running calls go on.
    ///
    /// # Errors
    /// A weight above 10,000, and the old one stays. With `require_registry`, a first try that failed.
    pub fn set_weight(&self, weight: u32) -> Result<(), Error> {
        self.republish(|publication| publication.weight = weight)
    }

    /// Tells callers of another zone, as `set_weight` does of another weight.
    ///
    /// # Errors
    /// Anything but at most 64 letters, digits, `.`, `_` and `-`; and as `set_weight`.
    pub fn set_zone(&self, zone: impl Into<String>) -> Result<(), Error> {
        self.republish(|publication| publication.zone = zone.into())
    }

    fn republish(&self, edit: impl FnOnce(&mut Publication)) -> Result<(), Error> {
        // Held throughout, or of two that change it at a time one would undo the other's.
        let mut published = self.published();
        let Some(mut publication) = published.clone() else { return Ok(()) };
        edit(&mut publication);
        publication.check()?;
        *published = Some(publication.clone());
        self.app.registry()?.publish(publication)
    }

    /// Drains and ends: callers are told, running calls finish, at most for `drain_timeout`.
    ///
    /// # Errors
    /// Calls were cut because `drain_timeout` was over.
    pub fn stop(mut self) -> Result<(), Error> {
        let cut = self.shut_down();
        if cut == 0 {
            return Ok(());
        }
        let limit = self.config.settings().drain_timeout;
        Err(Error::Usage(format!("{cut} calls were cut: drain_timeout = {limit:?} was over")))
    }

    pub(super) fn announce(&self) {
        for line in self.app.config().describe() {
            log::info!("{line}");
        }
        // A closed stdout is no reason not to serve.
        let _ = writeln!(std::io::stdout(), "RpcProvider start service at {}", self.addr);
        log::info!("RpcProvider start service at {}", self.addr);
    }

    pub(super) fn published(&self) -> MutexGuard<'_, Option<Publication>> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many calls were cut: those that had no answer when time was over, whoever was to give it.
    fn shut_down(&mut self) -> u64 {
        let Some(accepting) = self.accepting.take() else { return 0 };
        let began = Instant::now();
        let deadline = began + self.config.settings().drain_timeout;
        let dispatcher = &self.server.dispatcher;
        let before = dispatcher.account().finished;
        let registry = self.published().take().map(|one| one.addr).zip(self.app.registry().ok());
        if let Some((addr, registry)) = &registry {
            // Without ZooKeeper nobody can be told; the time belongs to the calls that run.
            registry.drain(*addr, deadline.min(began + LEAVE));
        }
        accepting.stop(deadline.min(began + 2 * LEAVE).saturating_duration_since(Instant::now()));
        let connections = self.reactors.connections();
        self.reactors.handles().iter().for_each(Handle::drain_all);
        let busy = || self.reactors.connections() + dispatcher.busy() > 0;
        while busy() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let late = busy();
        // Who was in time may take leave properly; else the end was promised for now.
        let leave = if late { HURRY } else { LEAVE };
        self.reactors.stop(leave);
        let account = dispatcher.account();
        let finished = account.finished - before;
        // In time, nobody waits for those that are open; late, a handler that runs on after its answer is cut, too.
        let cut = if late { account.open.max(dispatcher.busy() as u64) } else { 0 };
        dispatcher.stop(if cut == 0 { Instant::now() + leave } else { deadline });
        if let Some((addr, registry)) = registry {
            registry.withdraw(addr, Instant::now() + leave);
        }
        let seconds = began.elapsed().as_secs_f64();
        log::info!(
            "drained: {connections} connections, {finished} calls finished, {cut} cut, {seconds:.1} s"
        );
        // A handler that is stuck may hold the application, and with it the end of the logger.
        log::logger().flush();
        cut
    }
}

impl Drop for RunningProvider {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// How long the end waits for threads and for the registry.
const LEAVE: Duration = Duration::from_secs(1);
/// The same once `drain_timeout` is over.
const HURRY: Duration = Duration::from_millis(100);
