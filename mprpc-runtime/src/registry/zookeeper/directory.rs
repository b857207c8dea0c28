//! One directory of entries that name providers, read no more often than need be.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    time::{Duration, Instant},
};

use super::{
    client::{Client, Failure},
    nodes::{self, Reading},
    random,
};
use crate::registry::Endpoint;

/// The instances of a service, or the methods of it that C++ nodes registered.
pub(super) struct Directory {
    path: String,
    /// Where C++ nodes register methods, those of the service; none: any of them.
    methods: Option<Vec<String>>,
    /// When its names are to be read, if they are.
    pub(super) list_at: Option<Instant>,
    /// It was there lately, with few entries.
    small: bool,
    /// The entries; those that changed are to be read.
    nodes: BTreeMap<String, Option<Reading>>,
    /// Whose rubbish the log has named, and when it last did.
    named: BTreeSet<String>,
    said: Option<Instant>,
}

impl Directory {
    pub(super) fn new(path: String, methods: Option<Vec<String>>, now: Instant) -> Self {
        let (small, nodes, named, said) = Default::default();
        Self { path, methods, list_at: Some(now), small, nodes, named, said }
    }

    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        let readings = self.nodes.values().flatten();
        readings.filter_map(|reading| reading.as_ref().ok()?.as_ref())
    }

    pub(super) fn recheck(&mut self, now: Instant) {
        (self.list_at, self.small) = (Some(now), false);
        self.nodes.values_mut().for_each(|reading| *reading = None);
    }

    /// Takes news of a node. Gives in how long its entry wants `refresh`, if it has one here.
    pub(super) fn changed(&mut self, path: &str, gone: bool, now: Instant) -> Option<Duration> {
        let rest = path.strip_prefix(&self.path)?;
        // Providers seldom come alone, and all callers are told at the same time.
        let in_a_moment = now + WINDOW + Duration::from_millis(random() % JITTER_MS);
        if rest.is_empty() {
            self.list_at.get_or_insert(in_a_moment);
            return None;
        }
        let name = rest.strip_prefix('/')?;
        if gone {
            self.nodes.remove(name)?;
            // It may be there again, which the list knew before this news came.
            self.list_at.get_or_insert(in_a_moment);
            return Some(Duration::ZERO);
        }
        *self.nodes.get_mut(name)? = None;
        Some(Duration::from_millis(10)) // who writes once often writes twice
    }

    /// Reads what is due.
    pub(super) fn refresh(&mut self, client: &Client) -> Result<(), Failure> {
        if self.list_at.is_some_and(|at| at <= Instant::now()) {
            self.list(client.list(&self.path, self.small)?);
            self.list_at = None;
        }
        let stale = self.nodes.iter().filter(|(_, reading)| reading.is_none());
        for name in stale.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            let reading = match client.read(&format!("{}/{name}", self.path)) {
                Ok(Some(found)) if self.methods.is_some() => nodes::read_legacy(&name, &found.data),
                Ok(Some(found)) => nodes::read_instance(&name, &found.data),
                Err(Failure::Refused(_)) => Err("not readable"),
                Err(failure) => return Err(failure),
                Ok(None) => {
                    self.nodes.remove(&name); // it went while we read
                    continue;
                }
            };
            self.nodes.insert(name, Some(reading));
        }
        if let Some(text) = self.complaint(Instant::now()) {
            log::warn!("{text}");
        }
        Ok(())
    }

    /// Takes the names that there are; what is known of those that stay is kept.
    fn list(&mut self, mut names: Vec<String>) {
        names.sort();
        self.small = (1..MAX_PROVIDERS).contains(&names.len());
        // Rubbish must not crowd a provider out.
        let (mut good, mut bad): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| {
            let methods = self.methods.as_ref();
            let ours = |methods: &Vec<_>| methods.is_empty() || methods.contains(name);
            methods.map_or_else(|| nodes::address(name).is_some(), ours)
        });
        bad.extend(good.drain(MAX_PROVIDERS.min(good.len())..));
        bad.truncate(if self.methods.is_none() { MAX_NAMED } else { 0 });
        let mut old = std::mem::take(&mut self.nodes);
        let good = good.into_iter().map(|name| (old.remove(&name).flatten(), name));
        self.nodes.extend(good.map(|(reading, name)| (name, reading)));
        let no = Some(Err("no address, or one too many"));
        self.nodes.extend(bad.into_iter().map(|name| (name, no.clone())));
    }

    /// Names the rubbish that was not named yet, in one line, not more often than every ten seconds.
    fn complaint(&mut self, now: Instant) -> Option<String> {
        let mut bad = BTreeMap::new();
        for (name, reading) in &self.nodes {
            if let Some(Err(why)) = reading {
                bad.insert(name, why);
            }
        }
        self.named.retain(|name| bad.contains_key(name));
        let new = bad.iter().filter(|(name, _)| !self.named.contains(**name));
        let new: Vec<_> = new.take(MAX_NAMED).map(|(name, why)| ((*name).clone(), **why)).collect();
        if new.is_empty() || self.said.is_some_and(|said| now < said + QUIET) {
            return None;
        }
        let mut text = format!("{}: {} entries make no sense and are skipped, now", self.path, bad.len());
        for (name, why) in &new {
            let short: String = name.chars().take(64).collect();
            let _ = write!(text, " {short:?} ({why})"); // a String takes all
        }
        self.named.extend(new.into_iter().map(|(name, _)| name));
        self.said = Some(now);
        Some(text)
    }
}

/// More than anybody needs. Without a bound, whoever can write to ZooKeeper decides how much memory
/// every caller uses.
const MAX_PROVIDERS: usize = 1024;
/// Of the rest, this many are remembered to be named in the log.
const MAX_NAMED: usize = 64;
/// How long new entries wait for others before all are read together.
const WINDOW: Duration = Duration::from_millis(50);
const JITTER_MS: u64 = 150;
/// How long the log is spared of more rubbish from one directory.
const QUIET: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(names: &[&str], now: Instant) -> Directory {
        let mut directory = Directory::new("/s".into(), None, now);
        directory.list(names.iter().map(|name| (*name).to_owned()).collect());
        directory.list_at = None;
        directory
    }

    #[test]
    fn a_list_waits_for_more_news_but_no_longer_than_the_first_had_to() {
        let now = Instant::now();
        let mut directory = directory(&[], now);
        assert_eq!(directory.changed("/s", false, now), None);
        let at = directory.list_at.expect("due");
        assert!(at >= now + WINDOW && at <= now + WINDOW + Duration::from_millis(JITTER_MS));
        directory.changed("/s", false, now + WINDOW);
        assert_eq!(directory.list_at, Some(at));
    }

    #[test]
    fn an_entry_that_goes_is_left_out_at_once_and_looked_for_in_a_moment() {
        let now = Instant::now();
        let mut directory = directory(&["1.2.3.4:5", "1.2.3.4:6"], now);
        assert_eq!(directory.changed("/s/1.2.3.4:5", true, now), Some(Duration::ZERO));
        assert_eq!(directory.changed("/s/1.2.3.4:5", true, now), None, "told twice");
        assert_eq!(directory.nodes.len(), 1);
        assert!(directory.list_at.take().is_some(), "the news may be older than the last list");
        for other in ["/other", "/s/1.2.3.4:9", "/s2", "/s/1.2.3.4:6/x"] {
            assert_eq!(directory.changed(other, false, now), None, "{other}");
        }
        assert_eq!(directory.list_at, None);
    }

    #[test]
    fn only_new_names_are_to_be_read() {
        let now = Instant::now();
        let mut directory = directory(&["1.2.3.4:5"], now);
        let known = nodes::read_instance("1.2.3.4:5", b"v=1\naddr=1.2.3.4:5\n");
        directory.nodes.insert("1.2.3.4:5".into(), Some(known.clone()));
        directory.list(["1.2.3.4:6", "1.2.3.4:5"].map(String::from).to_vec());
        assert_eq!(directory.nodes["1.2.3.4:5"], Some(known));
        assert_eq!(directory.nodes["1.2.3.4:6"], None);
    }

    #[test]
    fn each_piece_of_rubbish_is_named_once_and_not_every_moment() {
        let now = Instant::now();
        let names: Vec<_> = (0..30).map(|n| format!("junk{n}\n")).collect();
        let mut directory = directory(&names.iter().map(String::as_str).collect::<Vec<_>>(), now);
        let text = directory.complaint(now).expect("rubbish");
        assert!(
            names.iter().all(|name| text.contains(&format!("{name:?}"))) && !text.contains('\n'),
            "{text}"
        );
        assert_eq!(directory.complaint(now + QUIET), None, "nothing new");
        directory.list(vec!["more".into()]);
        assert_eq!(directory.complaint(now + QUIET / 2), None, "later");
        let text = directory.complaint(now + QUIET).expect("more rubbish");
        assert!(text.contains("\"more\"") && !text.contains("junk"), "{text}");
    }

    #[test]
    fn rubbish_does_not_crowd_providers_out() {
        let rubbish = (0..2000).map(|n| format!("!{n}"));
        let mut directory = directory(&[], Instant::now());
        directory.list(rubbish.chain(["1.2.3.4:5".to_owned()]).collect());
        assert_eq!(directory.nodes.len(), 1 + MAX_NAMED);
        assert_eq!(directory.nodes["1.2.3.4:5"], None);
    }
}
