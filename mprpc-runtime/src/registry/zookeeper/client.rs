//! One `zookeeper::ZooKeeper`, caged: every request is bounded in time, every death is noticed,
//! and closing it is somebody else's wait.

use std::{
    cell::Cell,
    collections::HashSet,
    io::{Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ::zookeeper::{Acl, CreateMode, WatchedEvent, WatchedEventType, ZkError, ZkResult, ZkState, ZooKeeper};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::{
    Message, ZooKeeperOptions,
    claim::Found,
    random,
    session::{Event, backoff},
};

/// Why a request failed. Lost and late ones may have been carried out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Failure {
    /// The connection ended.
    Lost,
    /// No answer came in time.
    Late,
    /// ZooKeeper said no.
    Refused(ZkError),
}

/// The session's only door. Dropping it closes the session in the background.
pub(super) struct Client {
    options: ZooKeeperOptions,
    jobs: Sender<Job>,
    ended: Receiver<()>,
    /// Set while the session has no server. A request in flight then gets no answer before the
    /// parked reconnection goes on.
    cut: Arc<AtomicBool>,
    /// The watches that will fire. The crate piles up those that are left twice.
    armed: Arc<Mutex<HashSet<Watch>>>,
    inbox: Sender<Message>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Watch {
    Node(String),
    Names(String),
    Making(String),
}

type Job = Box<dyn FnOnce(&ZooKeeper) + Send>;
type Tell = Box<dyn Fn(WatchedEvent) + Send>;

impl Client {
    /// Connects and waits until the session answers. News of the connection carries `epoch`.
    pub(super) fn open(
        options: &ZooKeeperOptions,
        epoch: u64,
        inbox: &Sender<Message>,
    ) -> Result<Self, String> {
        let (hosts, timeout) = (live_first(&options.hosts)?, options.session_timeout);
        let (jobs, queue) = bounded(1);
        let (end, ended) = bounded(0);
        let cut = Arc::new(AtomicBool::new(false));
        let (parked, news) = (Arc::clone(&cut), inbox.clone());
        let tell = move |event| {
            let was_cut = parked.swap(event != Event::Joined, Ordering::AcqRel);
            // The first joining is `open`'s to tell. A full inbox loses this; then requests fail.
            if was_cut || event != Event::Joined {
                let _ = news.try_send(Message::Link(epoch, event));
            }
        };
        let serve = move || {
            let _end = end; // its drop says that the session is closed
            serve(hosts, timeout, &queue, tell);
        };
        let thread = thread::Builder::new().name("mprpc-zookeeper".into());
        thread.spawn(serve).map_err(|e| format!("no thread for the session: {e}"))?;
        let (options, armed, inbox) = (options.clone(), Arc::default(), inbox.clone());
        let client = Self { options, jobs, ended, cut, armed, inbox };
        let hello = client.call(|zk| zk.exists("/zookeeper", false));
        hello.map_err(|failure| format!("no session ({failure:?})"))?;
        Ok(client)
    }

    /// Says again what a new connection does not know, and forgets what it does not do.
    pub(super) fn restore(&self) -> Result<(), Failure> {
        self.armed().clear();
        match self.options.auth.clone() {
            Some((scheme, credentials)) => self.call(move |zk| zk.add_auth(scheme, credentials.into())),
            None => Ok(()),
        }
    }

    /// The id of the session: the owner of a node made for the purpose, as the crate does not tell.
    pub(super) fn session(&self) -> Result<i64, Failure> {
        let path = self.full("/mprpc/session-");
        let path = self.make(&path, Vec::new(), CreateMode::EphemeralSequential)?;
        self.call(move |zk| {
            let stat = zk.exists(&path, false)?.ok_or(ZkError::NoNode)?;
            zk.delete(&path, None).map(|()| stat.ephemeral_owner)
        })
    }

    /// The node at `path`. If there is one, its change and its end will be told.
    pub(super) fn read(&self, path: &str) -> Result<Option<Found>, Failure> {
        let watch = Watch::Node(path.to_owned());
        let read = self.watched(path, watch, |zk, path, tell| match tell {
            Some(tell) => zk.get_data_w(path, tell),
            None => zk.get_data(path, false),
        });
        Ok(read?.map(|(data, stat)| Found { owner: stat.ephemeral_owner, version: stat.version, data }))
    }

    /// The names in a directory, which may be missing. When there are others it will be told.
    pub(super) fn list(&self, path: &str) -> Result<Vec<String>, Failure> {
        let names = Watch::Names(path.to_owned());
        if !self.armed().contains(&names) {
            let making = Watch::Making(path.to_owned());
            let stat = self.watched(path, making, |zk, path, tell| match tell {
                Some(tell) => zk.exists_w(path, tell),
                None => zk.exists(path, false),
            })?;
            match stat.flatten() {
                None => return Ok(Vec::new()),
                // The crate cannot take a list of 2 MiB: it would lose the connection every time.
                Some(stat) if stat.num_children > 8192 => {
                    return Err(Failure::Refused(ZkError::MarshallingError));
                }
                Some(_) => {}
            }
        }
        let list = self.watched(path, names, |zk, path, tell| match tell {
            Some(tell) => zk.get_children_w(path, tell),
            None => zk.get_children(path, false),
        });
        list.map(Option::unwrap_or_default)
    }

    /// Makes an ephemeral node and, if need be, what is above it; leaves a node that is there.
    pub(super) fn create(&self, path: &str, data: &[u8]) -> Result<(), Failure> {
        match self.make(&self.full(path), data.to_vec(), CreateMode::Ephemeral) {
            Err(Failure::Refused(ZkError::NodeExists)) => Ok(()),
            made => made.map(drop),
        }
    }

    /// Sets the data; nothing happens if the node has another version by now, or is gone.
    pub(super) fn write(&self, path: &str, data: &[u8], version: i32) -> Result<(), Failure> {
        let (path, data) = (self.full(path), data.to_vec());
        unless_changed(self.call(move |zk| zk.set_data(&path, data, Some(version)).map(drop)))
    }

    /// Deletes the node; nothing happens if it has another version by now, or is gone.
    pub(super) fn delete(&self, path: &str, version: i32) -> Result<(), Failure> {
        let path = self.full(path);
        unless_changed(self.call(move |zk| zk.delete(&path, Some(version))))
    }

    /// Closes the session and waits for it until `deadline`.
    pub(super) fn close(self, deadline: Instant) {
        drop(self.jobs);
        let _ = self.ended.recv_deadline(deadline);
    }

    fn armed(&self) -> MutexGuard<'_, HashSet<Watch>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads, and leaves the watch unless it is there. No node, no answer, no watch.
    fn watched<T: Send + 'static>(
        &self,
        path: &str,
        watch: Watch,
        read: fn(&ZooKeeper, &str, Option<Tell>) -> ZkResult<T>,
    ) -> Result<Option<T>, Failure> {
        let (full, path) = (self.full(path), path.to_owned());
        let (armed, inbox, fired) = (Arc::clone(&self.armed), self.inbox.clone(), watch.clone());
        // Runs on the crate's event thread, which must not panic. A full inbox loses this; the
        // next audit makes up for it.
        let tell = move |event: WatchedEvent| {
            armed.lock().unwrap_or_else(PoisonError::into_inner).remove(&fired);
            let gone = event.event_type == WatchedEventType::NodeDeleted;
            let _ = inbox.try_send(Message::Node(path.clone(), gone));
        };
        // Before the request: it may fire before the answer is here.
        let new = self.armed().insert(watch.clone());
        let tell = new.then(|| Box::new(tell) as Tell);
        let found = match self.call(move |zk| read(zk, &full, tell)) {
            Err(Failure::Refused(ZkError::NoNode)) => Ok(None),
            answer => answer.map(Some),
        };
        if !matches!(found, Ok(Some(_))) {
            self.armed().remove(&watch);
        }
        found
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
                failed => return failed,
            }
        }
        create(full, data, mode)
    }

    /// With credentials, only who knows them writes below /mprpc. The legacy directories stay open:
    /// C++ nodes have no credentials.
    fn acl(&self, full: &str) -> Vec<Acl> {
        if self.options.auth.is_some() && full.starts_with(&self.full("/mprpc")) {
            [Acl::creator_all().as_slice(), Acl::read_unsafe()].concat()
        } else {
            Acl::open_unsafe().clone()
        }
    }

    /// The crate has a chroot, too, but loses the watches on its root.
    fn full(&self, path: &str) -> String {
        format!("{}{path}", self.options.chroot)
    }

    fn call<T: Send + 'static>(
        &self,
        request: impl FnOnce(&ZooKeeper) -> ZkResult<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let limit = self.options.session_timeout / 2;
        let deadline = Instant::now() + limit.clamp(Duration::from_secs(1), CALL_LIMIT);
        let (reply, answer) = bounded(1);
        let job = Box::new(move |zk: &ZooKeeper| drop(reply.send(request(zk))));
        self.jobs.send_deadline(job, deadline).map_err(|_| Failure::Late)?;
        loop {
            match answer.recv_timeout(Duration::from_millis(20)) {
                Ok(answer) => return answer.map_err(Failure::from),
                // The crate panicked on what it read.
                Err(RecvTimeoutError::Disconnected) => return Err(ZkError::SystemError.into()),
                Err(_) if self.cut.load(Ordering::Acquire) => return Err(Failure::Lost),
                Err(_) if Instant::now() >= deadline => return Err(Failure::Late),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

impl From<ZkError> for Failure {
    fn from(error: ZkError) -> Self {
        match error {
            ZkError::ConnectionLoss | ZkError::SessionExpired | ZkError::SessionMoved => Self::Lost,
            error => Self::Refused(error),
        }
    }
}

/// The session's thread: owns the crate's handle, does what the door sends, and when that is
/// dropped, closes the session however long it takes.
fn serve(
    hosts: Vec<SocketAddr>,
    timeout: Duration,
    jobs: &Receiver<Job>,
    tell: impl Fn(Event) + Send + 'static,
) {
    let list: Vec<_> = hosts.iter().map(SocketAddr::to_string).collect();
    // It unwraps the errors of sockets.
    let connect = || ZooKeeper::connect(&list.join(","), timeout, |_: WatchedEvent| {});
    let Ok(Ok(zk)) = catch_unwind(connect) else {
        return;
    };
    let (closed, last) = (Arc::new(AtomicBool::new(false)), Cell::new((Instant::now(), 0)));
    let over = Arc::clone(&closed);
    let listener = zk.add_listener(move |state| match state {
        ZkState::Connected | ZkState::ConnectedReadOnly => tell(Event::Joined),
        ZkState::Closed | ZkState::AuthFailed => {
            over.store(true, Ordering::Release);
            tell(Event::Ended);
        }
        ZkState::Connecting => {
            tell(Event::Cut);
            last.set(park(&hosts, timeout, last.get()));
        }
        _ => tell(Event::Cut),
    });
    for job in jobs {
        let _ = catch_unwind(AssertUnwindSafe(|| job(&zk)));
    }
    // A handle dropped without a server lives on, and so does its session; one whose I/O thread
    // died never says so.
    let give_up = Instant::now() + 3 * timeout + CALL_LIMIT;
    while !closed.load(Ordering::Acquire) && zk.close().is_err() && Instant::now() < give_up {
        thread::sleep(Duration::from_millis(100));
    }
    zk.remove_listener(listener);
    // Its drop would close it once more and log that it cannot.
    std::mem::forget(zk);
}

/// Keeps the crate's I/O thread from dialling without pause: it tells its listeners before it
/// reconnects, and waits for them. Returns when a host serves, or when the session's time is over,
/// so that the handle ends. `last` is what the last call returned: when, and after how many failures.
fn park(hosts: &[SocketAddr], timeout: Duration, last: (Instant, u32)) -> (Instant, u32) {
    let start = Instant::now();
    let again = start - last.0 < Duration::from_secs(3);
    let mut failures = if again { last.1 + 1 } else { 0 };
    loop {
        if failures > 0 {
            thread::sleep(backoff(failures, random()));
        }
        let over = start.elapsed() > timeout + Duration::from_secs(1);
        if over || hosts.iter().any(|host| serves(host).is_ok()) {
            return (Instant::now(), failures);
        }
        failures += 1;
    }
}

/// All addresses of the hosts in random order, the first of them one that serves: the crate waits
/// for its first address for ever.
fn live_first(hosts: &[String]) -> Result<Vec<SocketAddr>, String> {
    let found = hosts.iter().filter_map(|host| host.to_socket_addrs().ok());
    let mut addrs: Vec<_> = found.flatten().collect();
    addrs.sort_by_cached_key(|_| random());
    let mut trouble = "the name does not resolve".to_owned();
    for (i, addr) in addrs.iter().enumerate() {
        match serves(addr) {
            Ok(()) => {
                addrs.swap(0, i);
                return Ok(addrs);
            }
            Err(error) => trouble = error.to_string(),
        }
    }
    Err(trouble)
}

/// Whether a ZooKeeper serves there: one without a quorum accepts connections and serves nobody.
fn serves(addr: &SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(addr, PROBE_LIMIT)?;
    stream.set_read_timeout(Some(PROBE_LIMIT))?;
    stream.write_all(b"srvr")?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    // A server that may not answer this question is up.
    if answer.contains("Mode: ") || answer.contains("whitelist") {
        return Ok(());
    }
    Err(std::io::Error::other("it serves nobody (no quorum, or no ZooKeeper)"))
}

fn unless_changed(result: Result<(), Failure>) -> Result<(), Failure> {
    match result {
        Err(Failure::Refused(ZkError::NoNode | ZkError::BadVersion)) => Ok(()),
        other => other,
    }
}

const CALL_LIMIT: Duration = Duration::from_secs(4);
const PROBE_LIMIT: Duration = Duration::from_secs(1);
