//! Who serves a service, kept fresh from the two directories that say so.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    client::{Client, Failure},
    directory::Directory,
    nodes,
};
use crate::registry::{Endpoint, ServiceName, Snapshot};

/// One service that somebody calls.
pub(super) struct View {
    pub(super) service: String,
    /// What a file says of it was asked.
    pub(super) remembered: bool,
    /// Instances come first: what they say counts.
    dirs: [Directory; 2],
    /// When known entries are to be read, or left out, if any are.
    due: Option<Instant>,
    serving: BTreeMap<SocketAddr, Endpoint>,
    /// Those that went without a farewell, and until when they may come back as if nothing were.
    gone: BTreeMap<SocketAddr, (Endpoint, Instant)>,
}

impl View {
    pub(super) fn new(of: ServiceName, now: Instant) -> Self {
        let instances = Directory::new(nodes::instances_dir(&of), None, now);
        let legacy = Directory::new(nodes::legacy_dir(&of), Some(of.methods), now);
        let (remembered, due, serving, gone) = Default::default();
        Self { service: of.full, remembered, dirs: [instances, legacy], due, serving, gone }
    }

    /// When there is something to do, if there is.
    pub(super) fn due(&self) -> Option<Instant> {
        let gone = || self.gone.values().map(|(_, until)| *until).min();
        self.list_at().or_else(gone).into_iter().chain(self.due).min()
    }

    fn list_at(&self) -> Option<Instant> {
        self.dirs.iter().filter_map(|dir| dir.list_at).min()
    }

    /// Has everything read again.
    pub(super) fn recheck(&mut self, now: Instant) {
        self.dirs.iter_mut().for_each(|dir| dir.recheck(now));
    }

    /// Has nothing more read until the next `recheck`.
    pub(super) fn rest(&mut self) {
        self.due = None;
        self.gone.clear();
        self.dirs.iter_mut().for_each(|dir| dir.list_at = None);
    }

    /// Takes news of a node: it changed, or is `gone`. Entries that go are left out at once; new ones
    /// come with the next list, which waits a little for more of them.
    pub(super) fn changed(&mut self, path: &str, gone: bool, now: Instant) {
        for dir in &mut self.dirs {
            let Some(wait) = dir.changed(path, gone, now) else { continue };
            let at = now + wait;
            self.due = Some(self.due.map_or(at, |due| due.min(at)));
        }
    }

    /// Reads what is not fresh and gives the whole.
    pub(super) fn refresh(&mut self, client: &Client) -> Result<Snapshot, Failure> {
        self.dirs.iter_mut().try_for_each(|dir| dir.refresh(client))?;
        self.due = None;
        let mut all = BTreeMap::<SocketAddr, Endpoint>::new();
        for endpoint in self.dirs.iter().flat_map(Directory::endpoints) {
            let known = all.entry(endpoint.addr).or_insert_with(|| endpoint.clone());
            if let (Some(known), Some(more)) = (&mut known.methods, &endpoint.methods) {
                known.extend(more.iter().cloned());
            }
        }
        Ok(self.settle(all, Instant::now()))
    }

    /// Who serves now. A provider whose session was lost takes its node away and makes it again, and
    /// for that moment its callers would find nobody: so one that went without draining is kept for
    /// a while, as one to be avoided.
    fn settle(&mut self, serving: BTreeMap<SocketAddr, Endpoint>, now: Instant) -> Snapshot {
        for (addr, endpoint) in std::mem::replace(&mut self.serving, serving) {
            if !endpoint.draining {
                self.gone.insert(addr, (Endpoint { draining: true, ..endpoint }, now + GRACE));
            }
        }
        let unsure = self.list_at().is_some(); // who came back by then is not known yet
        self.gone.retain(|addr, (_, until)| (unsure || *until > now) && !self.serving.contains_key(addr));
        let mut all = self.serving.clone();
        all.extend(self.gone.iter().map(|(addr, (endpoint, _))| (*addr, endpoint.clone())));
        Snapshot { endpoints: all.into_values().collect() }
    }
}

/// How long a provider that vanished may take to come back.
const GRACE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Wire;

    fn endpoint(port: u16) -> Endpoint {
        Endpoint::new(([10, 0, 0, 5], port).into(), Wire::Mux)
    }

    fn all(endpoints: &[Endpoint]) -> BTreeMap<SocketAddr, Endpoint> {
        endpoints.iter().map(|endpoint| (endpoint.addr, endpoint.clone())).collect()
    }

    fn draining(port: u16) -> Endpoint {
        Endpoint { draining: true, ..endpoint(port) }
    }

    /// A view whose directories were listed.
    fn view(now: Instant) -> View {
        let (full, short, methods) = ("a.S".into(), "S".into(), Vec::new());
        let mut view = View::new(ServiceName { full, short, methods }, now);
        view.rest();
        view
    }

    #[test]
    fn one_that_vanishes_is_to_be_avoided_for_a_moment_and_then_forgotten() {
        let now = Instant::now();
        let mut view = view(now);
        assert_eq!(view.settle(all(&[endpoint(1), endpoint(2)]), now).endpoints, [endpoint(1), endpoint(2)]);
        assert_eq!(view.settle(all(&[endpoint(2)]), now).endpoints, [draining(1), endpoint(2)]);
        assert_eq!(view.due(), Some(now + GRACE));
        let again = view.settle(all(&[endpoint(2)]), now + GRACE / 2);
        assert_eq!(again.endpoints, [draining(1), endpoint(2)], "the moment does not begin anew");
        assert_eq!(view.settle(all(&[endpoint(2)]), now + GRACE).endpoints, [endpoint(2)]);
        assert_eq!(view.due(), None);
    }

    #[test]
    fn one_that_comes_back_is_as_before() {
        let now = Instant::now();
        let mut view = view(now);
        view.settle(all(&[endpoint(1)]), now);
        assert_eq!(view.settle(all(&[]), now).endpoints, [draining(1)], "never empty in between");
        assert_eq!(view.settle(all(&[endpoint(1)]), now).endpoints, [endpoint(1)]);
        assert_eq!(view.settle(all(&[endpoint(1)]), now + GRACE).endpoints, [endpoint(1)]);
    }

    #[test]
    fn while_a_list_is_due_nobody_is_forgotten() {
        let now = Instant::now();
        let mut view = view(now);
        view.settle(all(&[endpoint(1)]), now);
        view.settle(all(&[]), now);
        view.changed("/mprpc/services/a.S/instances", false, now + GRACE);
        assert_eq!(view.settle(all(&[]), now + GRACE).endpoints, [draining(1)]);
        view.rest();
        assert_eq!(view.settle(all(&[]), now + GRACE).endpoints, []);
    }

    #[test]
    fn one_that_drained_is_gone_when_it_goes() {
        let now = Instant::now();
        let mut view = view(now);
        view.settle(all(&[draining(1)]), now);
        assert_eq!(view.settle(all(&[]), now).endpoints, []);
    }
}
