//! SIGHUP: the configuration is read again, and what can change while the provider serves does.

use super::{RunningProvider, room_for};
use crate::{application::mirror, error::Error};

impl RunningProvider {
    /// Reads the configuration file again, as SIGHUP does, and takes over what can change; the log says
    /// what did and what needs a restart. Limits of connections hold for new ones.
    ///
    /// # Errors
    /// The file cannot be read or has a bad value; then everything stays as it was.
    pub fn reload(&mut self) -> Result<(), Error> {
        let new = self.config.reread()?;
        for warning in new.warnings() {
            log::warn!("reload: {warning}");
        }
        let changes = self.config.changes(&new);
        if changes.is_empty() {
            log::info!("reload: nothing has changed");
        }
        for (key, text) in &changes {
            let when = if LIVE.contains(key) { "takes effect" } else { "needs a restart" };
            log::warn!("reload: {text}: {when}");
        }
        let changed = |keys: &[&str]| changes.iter().any(|(key, _)| keys.contains(key));
        let settings = new.settings();
        if changed(&["log_level"])
            && let Ok(level) = settings.log_level.as_str().parse()
        {
            log::set_max_level(level);
        }
        self.server.change(settings, self.app.instance());
        if let Some(accepting) = &self.accepting {
            accepting.set_limits(room_for(&new), settings.max_address_connections);
        }
        let table = &self.server.dispatcher.table;
        table.set_caps(&settings.max_concurrency);
        for (name, _) in settings.max_concurrency.iter().filter(|(name, _)| !table.is_capped(name)) {
            log::warn!("reload: max_concurrency of {name} needs a restart: it had none");
        }
        let registry = self.app.registry()?;
        if changed(&["legacy_mirror"]) {
            registry.set_mirror(mirror(settings));
        }
        let mut published = self.published();
        if let Some(publication) = published.as_mut().filter(|_| changed(&["weight", "zone", "legacy"])) {
            publication.legacy = settings.legacy;
            if changed(&["weight"]) {
                publication.weight = settings.weight.into();
            }
            if changed(&["zone"]) {
                publication.zone.clone_from(&settings.zone);
            }
            // Here and without waiting: what is published later is to stay, and signals are not to wait.
            if let Err(error) = registry.republish(publication.clone()) {
                // All else has taken effect: this is no failure of the whole.
                log::error!("reload: cannot publish weight, zone and legacy anew: {error}");
            }
        }
        drop(published);
        self.config = new;
        Ok(())
    }
}

/// Keys that take effect while the provider serves.
const LIVE: &[&str] = &[
    "drain_timeout",
    "idle_timeout",
    "legacy",
    "legacy_close",
    "legacy_mirror",
    "log_level",
    "max_address_connections",
    "max_body",
    "max_calls",
    "max_concurrency",
    "max_connections",
    "max_header",
    "max_input",
    "max_memory",
    "max_output",
    "max_queue",
    "max_total_calls",
    "min_ping_interval",
    "request_timeout",
    "slow_handler",
    "weight",
    "zone",
];
