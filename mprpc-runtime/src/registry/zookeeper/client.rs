//! One `zookeeper::ZooKeeper`, caged: every request is bounded in time, every death is noticed,
//! and closing it is somebody else's wait.

use std::{
    cell::Cell,
    fmt,
    io::{Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ::zookeeper::{
    Acl, CreateMode, WatchedEvent, WatchedEventType, ZkError, ZkResult, ZkState, ZooKeeper,
};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::{
    Change, Message, ZooKeeperOptions,
    claim::Found,
    random,
    session::{Event, backoff},
};

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Failure {
    /// Lost with the connection; it may have been carried out.
    Lost,
    /// Not answered in time; it may yet be carried out.
    Late,
    /// Answered with an error.
    Refused(ZkError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost => f.write_str("connection lost"),
            Self::Late => f.write_str("no answer in time"),
            Self::Refused(error) => write!(f, "refused with {error:?}"),
        }
    }
}

/// Where the news of a watched node goes: what happened, and in which round it was asked for.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    pub(super) inbox: Sender<Message>,
    pub(super) round: u64,
}

/// The session's only door. Dropping it closes the session in the background.
pub(super) struct Client {
    jobs: Sender<Job>,
    ended: Receiver<()>,
    /// Set while the session has no server. A request in flight then gets no answer before the
    /// parked reconnection goes on.
    cut: Arc<AtomicBool>,
    chroot: String,
    guarded: bool,
    limit: Duration,
}

type Job = Box<dyn FnOnce(&ZooKeeper) + Send>;

impl Client {
    /// Connects, waits until the session answers, and authenticates. News of the connection goes
    /// to `inbox` with `epoch`.
    pub(super) fn open(
        options: &ZooKeeperOptions,
        epoch: u64,
        inbox: Sender<Message>,
    ) -> Result<Self, String> {
        let hosts = live_first(&options.hosts)?;
        let (jobs, queue) = bounded(1);
        let (end, ended) = bounded(0);
        let cut = Arc::new(AtomicBool::new(false));
        let (timeout, parked) = (options.session_timeout, Arc::clone(&cut));
        let run = move || {
            let _end = end; // its drop says that the session is closed
            serve(&hosts, timeout, &queue, move |event| {
                let was_cut = parked.swap(event != Event::Joined, Ordering::AcqRel);
                // The first joining is told by `open`. A full inbox loses this news; the
                // supervisor notices by its requests then.
                if was_cut || event != Event::Joined {
                    let _ = inbox.try_send(Message::Link(epoch, event));
                }
            });
        };
        let spawned = thread::Builder::new()
            .name("mprpc-zookeeper".into())
            .spawn(run);
        spawned.map_err(|e| format!("no thread for the session: {e}"))?;
        let limit = (timeout / 2).clamp(Duration::from_secs(1), CALL_LIMIT);
        let (chroot, guarded) = (options.chroot.clone(), options.auth.is_some());
        let client = Self {
            jobs,
            ended,
            cut,
            chroot,
            guarded,
            limit,
        };
        let auth = options.auth.clone();
        let hello = client.call(move |zk| match auth {
            Some((scheme, credentials)) => zk.add_auth(scheme, credentials.into_bytes()),
            None => zk.exists("/zookeeper", false).map(|_| ()),
        });
        hello.map_err(|failure| format!("no session: {failure}"))?;
        Ok(client)
    }

    /// Sends the authentication again: the connection that knew it is gone.
    pub(super) fn authenticate(&self, options: &ZooKeeperOptions) -> Result<(), Failure> {
        let Some((scheme, credentials)) = options.auth.clone() else {
            return Ok(());
        };
        self.call(move |zk| zk.add_auth(scheme, credentials.into_bytes()))
    }

    /// The id of the session: the owner of a node made for the purpose, as the crate does not tell.
    pub(super) fn session(&self) -> Result<i64, Failure> {
        let prefix = format!("{}/mprpc/session-", self.chroot);
        let path = self.make(&prefix, Vec::new(), CreateMode::EphemeralSequential)?;
        self.call(move |zk| {
            let owner = zk
                .exists(&path, false)?
                .ok_or(ZkError::NoNode)?
                .ephemeral_owner;
            zk.delete(&path, None).map(|()| owner)
        })
    }

    /// The node at `path`; `None` if there is none, and then nothing is watched.
    pub(super) fn read(&self, path: &str, watch: Option<Watch>) -> Result<Option<Found>, Failure> {
        let (full, path) = (self.full(path), path.to_owned());
        let read = self.call(move |zk| match watch {
            Some(watch) => zk.get_data_w(&full, watch.tell(path)),
            None => zk.get_data(&full, false),
        });
        Ok(some(read)?.map(|(data, stat)| Found {
            owner: stat.ephemeral_owner,
            version: stat.version,
            data,
        }))
    }

    /// The names in a directory; `None` if there is no directory, and then nothing is watched.
    pub(super) fn children(
        &self,
        path: &str,
        watch: Option<Watch>,
    ) -> Result<Option<Vec<String>>, Failure> {
        let (full, path) = (self.full(path), path.to_owned());
        some(self.call(move |zk| match watch {
            Some(watch) => zk.get_children_w(&full, watch.tell(path)),
            None => zk.get_children(&full, false),
        }))
    }

    /// How many names are in a directory; `None` if there is no directory. Watched in both cases.
    pub(super) fn size(&self, path: &str, watch: Option<Watch>) -> Result<Option<i32>, Failure> {
        let (full, path) = (self.full(path), path.to_owned());
        let stat = self.call(move |zk| match watch {
            Some(watch) => zk.exists_w(&full, watch.tell(path)),
            None => zk.exists(&full, false),
        })?;
        Ok(stat.map(|stat| stat.num_children))
    }

    /// Makes an ephemeral node and, if need be, the directories above it. Nothing happens if the
    /// node exists.
    pub(super) fn create(&self, path: &str, data: Vec<u8>) -> Result<(), Failure> {
        match self.make(&self.full(path), data, CreateMode::Ephemeral) {
            Ok(_) | Err(Failure::Refused(ZkError::NodeExists)) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Sets the data; nothing happens if the node has another version by now, or is gone.
    pub(super) fn write(&self, path: &str, data: Vec<u8>, version: i32) -> Result<(), Failure> {
        let full = self.full(path);
        unless_changed(self.call(move |zk| zk.set_data(&full, data, Some(version)).map(|_| ())))
    }

    /// Deletes the node; nothing happens if it has another version by now, or is gone.
    pub(super) fn delete(&self, path: &str, version: i32) -> Result<(), Failure> {
        let full = self.full(path);
        unless_changed(self.call(move |zk| zk.delete(&full, Some(version))))
    }

    /// Closes the session and waits for it until `deadline`.
    pub(super) fn close(self, deadline: Instant) {
        drop(self.jobs);
        let _ = self.ended.recv_deadline(deadline);
    }

    fn make(&self, full: &str, data: Vec<u8>, mode: CreateMode) -> Result<String, Failure> {
        let create = |path: &str, data: Vec<u8>, mode| {
            let (path, acl) = (path.to_owned(), self.acl(path));
            self.call(move |zk| zk.create(&path, data, acl, mode))
        };
        let made = create(full, data.clone(), mode);
        if made != Err(Failure::Refused(ZkError::NoNode)) {
            return made;
        }
        for (end, _) in full.match_indices('/').skip(1) {
            match create(&full[..end], Vec::new(), CreateMode::Persistent) {
                // Without the right to create it, it may still be there.
                Ok(_) | Err(Failure::Refused(ZkError::NodeExists | ZkError::NoAuth)) => {}
                Err(failure) => return Err(failure),
            }
        }
        create(full, data, mode)
    }

    /// With credentials, what is only ours is written only by those who know them. The legacy
    /// directories stay open: C++ nodes have no credentials.
    fn acl(&self, full: &str) -> Vec<Acl> {
        let ours = full
            .strip_prefix(&self.chroot)
            .is_some_and(|path| path.starts_with("/mprpc"));
        match self.guarded && ours {
            true => [Acl::creator_all().as_slice(), Acl::read_unsafe()].concat(),
            false => Acl::open_unsafe().clone(),
        }
    }

    /// The crate's own chroot loses the watches on its root.
    fn full(&self, path: &str) -> String {
        format!("{}{path}", self.chroot)
    }

    fn call<T: Send + 'static>(
        &self,
        request: impl FnOnce(&ZooKeeper) -> ZkResult<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + self.limit;
        let (reply, answer) = bounded(1);
        let job: Job = Box::new(move |zk| drop(reply.send(request(zk))));
        self.jobs
            .send_deadline(job, deadline)
            .map_err(|_| Failure::Late)?;
        loop {
            match answer.recv_timeout(GLANCE) {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(
                    ZkError::ConnectionLoss | ZkError::SessionExpired | ZkError::SessionMoved,
                )) => return Err(Failure::Lost),
                Ok(Err(error)) => return Err(Failure::Refused(error)),
                // The crate panicked on what it read.
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::Refused(ZkError::SystemError));
                }
                Err(RecvTimeoutError::Timeout) if self.cut.load(Ordering::Acquire) => {
                    return Err(Failure::Lost);
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline => {
                    return Err(Failure::Late);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

impl Watch {
    /// Runs on the crate's event thread, which must not panic; a full inbox is made up for by the
    /// next audit.
    fn tell(self, path: String) -> impl Fn(WatchedEvent) + Send + 'static {
        move |event| {
            let change = match event.event_type {
                WatchedEventType::NodeDeleted => Change::Gone,
                WatchedEventType::NodeChildrenChanged => Change::Children,
                _ => Change::Data,
            };
            let _ = self
                .inbox
                .try_send(Message::Node(self.round, path.clone(), change));
        }
    }
}

/// The session's thread: owns the crate's handle, does what the door sends, and when that is
/// dropped, closes the session however long it takes.
fn serve(
    hosts: &[SocketAddr],
    timeout: Duration,
    jobs: &Receiver<Job>,
    tell: impl Fn(Event) + Send + 'static,
) {
    let list = hosts
        .iter()
        .map(SocketAddr::to_string)
        .collect::<Vec<_>>()
        .join(",");
    // It unwraps the errors of sockets.
    let connected = catch_unwind(|| ZooKeeper::connect(&list, timeout, |_: WatchedEvent| {}));
    let Ok(Ok(zk)) = connected else { return };
    let parking = Parking {
        hosts: hosts.to_vec(),
        timeout,
        left: Cell::new((Instant::now(), 0)),
    };
    let closed = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&closed);
    let listener = zk.add_listener(move |state| match state {
        ZkState::Connected | ZkState::ConnectedReadOnly => tell(Event::Joined),
        ZkState::Closed | ZkState::AuthFailed => {
            over.store(true, Ordering::Release);
            tell(Event::Ended);
        }
        ZkState::Connecting => {
            tell(Event::Cut);
            parking.wait();
        }
        _ => tell(Event::Cut),
    });
    for job in jobs {
        let _ = catch_unwind(AssertUnwindSafe(|| job(&zk)));
    }
    // A handle that is dropped without a server lives on, and so does its session; one whose I/O
    // thread died never says so.
    let give_up = Instant::now() + 3 * timeout + CALL_LIMIT;
    while !closed.load(Ordering::Acquire) && zk.close().is_err() && Instant::now() < give_up {
        thread::sleep(Duration::from_millis(100));
    }
    zk.remove_listener(listener);
    // Its drop would close it once more and log that it cannot.
    std::mem::forget(zk);
}

/// Keeps the crate's I/O thread from dialling without pause: it tells its listeners before it
/// reconnects, and waits for them.
struct Parking {
    hosts: Vec<SocketAddr>,
    timeout: Duration,
    /// When it last let go, and how often in a row it did so soon after.
    left: Cell<(Instant, u32)>,
}

impl Parking {
    /// Returns when a host serves, or when the session's time is over, so that the handle ends.
    fn wait(&self) {
        let start = Instant::now();
        let (last, times) = self.left.get();
        let mut failures = if start - last < Duration::from_secs(3) {
            times + 1
        } else {
            0
        };
        if failures > 0 {
            thread::sleep(backoff(failures, random()));
        }
        self.left.set((start, failures));
        while start.elapsed() <= self.timeout + Duration::from_secs(1) {
            if self.hosts.iter().any(|host| serves(*host).is_ok()) {
                break;
            }
            failures += 1;
            thread::sleep(backoff(failures, random()));
        }
        self.left.set((Instant::now(), self.left.get().1));
    }
}

/// All addresses of the hosts in random order, the first of them one that serves: the crate waits
/// for its first address for ever.
fn live_first(hosts: &[String]) -> Result<Vec<SocketAddr>, String> {
    let mut addrs: Vec<_> = hosts
        .iter()
        .filter_map(|host| host.to_socket_addrs().ok())
        .flatten()
        .collect();
    for i in (1..addrs.len()).rev() {
        addrs.swap(i, random() as usize % (i + 1));
    }
    let mut trouble = "the name does not resolve".to_owned();
    for i in 0..addrs.len() {
        match serves(addrs[i]) {
            Ok(()) => {
                addrs.swap(0, i);
                return Ok(addrs);
            }
            Err(error) => trouble = format!("{}: {error}", addrs[i]),
        }
    }
    Err(trouble)
}

/// Whether a ZooKeeper serves there: one without a quorum accepts connections but serves nobody.
fn serves(addr: SocketAddr) -> Result<(), String> {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&addr, PROBE_LIMIT)?;
        stream.set_read_timeout(Some(PROBE_LIMIT))?;
        stream.write_all(b"srvr")?;
        let mut answer = Vec::new();
        stream.take(4096).read_to_end(&mut answer)?;
        std::io::Result::Ok(answer)
    };
    let answer = ask().map_err(|error| error.to_string())?;
    // The server may have been told not to answer this question; then it is up.
    let up = [&b"Mode: "[..], b"whitelist"]
        .iter()
        .any(|sign| answer.windows(sign.len()).any(|part| part == *sign));
    up.then_some(())
        .ok_or_else(|| "it does not serve (no quorum, or no ZooKeeper)".to_owned())
}

fn some<T>(result: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Failure::Refused(ZkError::NoNode)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn unless_changed(result: Result<(), Failure>) -> Result<(), Failure> {
    match result {
        Err(Failure::Refused(ZkError::NoNode | ZkError::BadVersion)) => Ok(()),
        other => other,
    }
}

const CALL_LIMIT: Duration = Duration::from_secs(4);
const PROBE_LIMIT: Duration = Duration::from_secs(1);
/// How often a waiting call looks whether the connection is cut.
const GLANCE: Duration = Duration::from_millis(20);
