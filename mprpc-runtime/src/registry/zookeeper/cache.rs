//! What was last known of a service, in a file, for a program that starts while ZooKeeper is away.
//!
//! ```text
//! mprpc registry snapshot 1
//! zookeeper=10.0.0.1:2181/chroot
//! service=fixbug.UserServiceRpc
//! saved=1764036000
//! 10.0.0.5:8000 mux 100 eu-1 -              address, wire, weight, zone, methods; - is none, or all
//! 10.0.0.6:8000 legacy 100 - Login,Register
//! end 2
//! ```
//!
//! A file is replaced as a whole, by renaming, so that processes may share a directory without a lock: the
//! last one's counts. It is believed as a whole or not at all.

use std::{
    fmt::Write as _,
    fs::{self, DirBuilder, File, OpenOptions},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use super::{ZooKeeperOptions, nodes, random};
use crate::{
    registry::{Endpoint, MAX_WEIGHT, Snapshot, is_zone},
    wire::{Dialect, Wire},
};

/// A directory with one file for each service of one ZooKeeper.
pub(super) struct Cache {
    dir: PathBuf,
    zookeeper: String,
    /// Saving fails, and the log has said so.
    failing: bool,
}

impl Cache {
    pub(super) fn new(options: &ZooKeeperOptions) -> Option<Self> {
        let zookeeper = format!("{}{}", options.hosts.join(","), options.chroot);
        Some(Self { dir: options.cache.clone()?, zookeeper, failing: false })
    }

    /// Saves who serves, unless nobody does: that is no help to anybody.
    pub(super) fn save(&mut self, service: &str, snapshot: &Snapshot) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let Some(text) = write(&self.zookeeper, service, since, snapshot) else { return };
        let saved = self.replace(service, &text);
        if let Err(error) = &saved
            && !self.failing
        {
            let path = self.path(service);
            log::warn!("{} cannot be saved: {error}; a start without ZooKeeper will lack it", path.display());
        }
        self.failing = saved.is_err();
    }

    /// Who served when that was last saved, and how long ago; `None` if it never was.
    pub(super) fn load(&self, service: &str) -> Result<Option<(Snapshot, Duration)>, String> {
        let path = self.path(service);
        let wrong = |why: String| format!("{} is not believed: {why}", path.display());
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|error| wrong(error.to_string()))?,
        };
        let meta = file.metadata().map_err(|error| wrong(error.to_string()))?;
        if !meta.is_file() || meta.mode() & 0o022 != 0 {
            return Err(wrong("it must be a file that only its owner may write".into()));
        }
        let mut text = String::new();
        file.take(MAX_FILE).read_to_string(&mut text).map_err(|error| wrong(error.to_string()))?;
        let (snapshot, saved) = read(&self.zookeeper, service, &text).map_err(|why| wrong(why.into()))?;
        let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + saved);
        Ok(Some((snapshot, age.unwrap_or_default())))
    }

    fn replace(&self, service: &str, text: &str) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let temporary = self.dir.join(format!(".{:016x}.tmp", random()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let written =
            file.write_all(text.as_bytes()).and_then(|()| fs::rename(&temporary, self.path(service)));
        if written.is_err() {
            let _ = fs::remove_file(&temporary); // the error to be told is the first one
        }
        written
    }

    /// Names of services are plain, see `nodes::check_names`.
    fn path(&self, service: &str) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        self.zookeeper.hash(&mut hasher);
        self.dir.join(format!("{service}-{:016x}.snap", hasher.finish()))
    }
}

/// The text of a file; `None` if there is nobody to be found in it.
fn write(zookeeper: &str, service: &str, saved: Duration, snapshot: &Snapshot) -> Option<String> {
    let mut text = format!("{FIRST}\nzookeeper={zookeeper}\nservice={service}\nsaved={}\n", saved.as_secs());
    let mut count = 0;
    for endpoint in snapshot.endpoints.iter().filter(|endpoint| !endpoint.draining) {
        let Endpoint { addr, weight, .. } = endpoint;
        let wire = if endpoint.wire == Wire::Mux { "mux" } else { "legacy" };
        let zone = if endpoint.zone.is_empty() { "-" } else { &endpoint.zone };
        let methods = endpoint.methods.as_ref().map(|all| all.iter().cloned().collect::<Vec<_>>().join(","));
        let methods = methods.as_deref().unwrap_or("-");
        writeln!(text, "{addr} {wire} {weight} {zone} {methods}").ok()?;
        count += 1;
    }
    writeln!(text, "end {count}").ok()?;
    (count > 0 && text.len() < MAX_FILE as usize).then_some(text)
}

fn read(zookeeper: &str, service: &str, text: &str) -> Result<(Snapshot, Duration), &'static str> {
    let mut lines = text.strip_suffix('\n').ok_or("it is cut off")?.split('\n');
    let mut field = |key: &str| lines.next().and_then(|line| line.strip_prefix(key));
    if field(FIRST) != Some("") {
        return Err("it begins otherwise");
    }
    if field("zookeeper=") != Some(zookeeper) || field("service=") != Some(service) {
        return Err("it speaks of another service or ZooKeeper");
    }
    let saved = field("saved=").and_then(|seconds| seconds.parse::<u32>().ok()).ok_or("no time")?;
    let mut lines: Vec<_> = lines.collect();
    let end = lines.pop().and_then(|line| line.strip_prefix("end ")?.parse().ok());
    if end != Some(lines.len()) || lines.is_empty() {
        return Err("it is cut off");
    }
    let endpoints: Option<Vec<_>> = lines.into_iter().map(read_endpoint).collect();
    let endpoints = endpoints.ok_or("an entry makes no sense")?;
    if !endpoints.is_sorted_by(|a, b| a.addr < b.addr) {
        return Err("its entries are out of order");
    }
    Ok((Snapshot { endpoints }, Duration::from_secs(u64::from(saved))))
}

fn read_endpoint(line: &str) -> Option<Endpoint> {
    let mut words = line.split(' ');
    let mut word = || words.next();
    let addr = nodes::address(word()?)?;
    let wire = match word()? {
        "mux" => Wire::Mux,
        "legacy" => Wire::Legacy(Dialect::LittleEndian),
        _ => return None,
    };
    let weight = word()?.parse().ok().filter(|weight| *weight <= MAX_WEIGHT)?;
    let zone = Some(word()?).filter(|zone| is_zone(zone) && !zone.is_empty())?;
    let zone = if zone == "-" { "" } else { zone }.to_owned();
    let methods = match word()? {
        "-" => None,
        names => {
            Some(names.split(',').map(|name| is_zone(name).then(|| name.to_owned())).collect::<Option<_>>()?)
        }
    };
    let endpoint = Endpoint { weight, zone, methods, ..Endpoint::new(addr, wire) };
    words.next().is_none().then_some(endpoint)
}

const FIRST: &str = "mprpc registry snapshot 1";
/// The most providers that a view has fit in.
const MAX_FILE: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: Duration = Duration::from_secs(1_764_036_000);

    fn snapshot() -> Snapshot {
        let mux = Endpoint::new("10.0.0.5:8000".parse().unwrap(), Wire::Mux);
        let legacy = Endpoint::new("10.0.0.6:8000".parse().unwrap(), Wire::Legacy(Dialect::LittleEndian));
        let methods = Some(["Login", "Register"].map(String::from).into());
        let mux = Endpoint { weight: 70, zone: "eu-1".into(), ..mux };
        Snapshot { endpoints: vec![mux, Endpoint { methods, ..legacy }] }
    }

    fn text() -> String {
        write("zk:1/c", "a.S", SAVED, &snapshot()).expect("somebody serves")
    }

    #[test]
    fn what_was_written_is_read() {
        let text = text();
        assert!(text.contains("\n10.0.0.5:8000 mux 70 eu-1 -\n"), "{text}");
        assert!(text.ends_with("\n10.0.0.6:8000 legacy 100 - Login,Register\nend 2\n"), "{text}");
        assert_eq!(read("zk:1/c", "a.S", &text), Ok((snapshot(), SAVED)));
    }

    #[test]
    fn those_that_drain_are_not_written_nor_a_file_without_anybody() {
        let mut all = snapshot();
        all.endpoints[0].draining = true;
        let text = write("z", "s", SAVED, &all).expect("one serves");
        assert_eq!(read("z", "s", &text).unwrap().0.endpoints, all.endpoints[1..]);
        all.endpoints.truncate(1);
        assert_eq!(write("z", "s", SAVED, &all), None);
    }

    #[test]
    fn a_file_is_believed_as_a_whole_or_not_at_all() {
        let text = text();
        for end in 0..text.len() {
            assert!(read("zk:1/c", "a.S", &text[..end]).is_err(), "cut at {end}");
        }
        assert!(read("zk:2/c", "a.S", &text).is_err() && read("zk:1/c", "a.T", &text).is_err());
        for (old, new) in [
            ("snapshot 1", "snapshot 2"),
            ("saved=", "saved=x"),
            ("saved=", "saved=-"),
            ("10.0.0.5:8000", "10.0.0.7:8000"),
            ("10.0.0.5:8000", "10.0.0.6:8000"),
            ("10.0.0.5:8000", "0.0.0.0:8000"),
            ("10.0.0.5:8000", "10.0.0.5:0"),
            ("10.0.0.5:8000", "host:8000"),
            (" mux", " morse"),
            (" mux", ""),
            (" 70", " 10001"),
            (" 70", " -1"),
            (" eu-1", " eu/1"),
            (" eu-1", " "),
            (" eu-1 -", " eu-1 - -"),
            ("Login,", "Lo gin,"),
            ("end 2", "end 3"),
            ("end 2", "\nend 3"),
            ("end 2", "end 2\n"),
        ] {
            assert!(read("zk:1/c", "a.S", &text.replacen(old, new, 1)).is_err(), "{old:?} -> {new:?}");
        }
    }
}
