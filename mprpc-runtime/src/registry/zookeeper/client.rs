//! One `zookeeper::ZooKeeper`, caged: every request is bounded in time, every death is noticed,
//! and closing it is somebody else's wait.

use std::{
    cell::Cell,
    collections::HashSet,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use ::zookeeper::{Acl, CreateMode, WatchedEvent, WatchedEventType, ZkError, ZkResult, ZkState, ZooKeeper};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::{Message, ZooKeeperOptions, claim::Found, probe, session::Event};

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
    line: Arc<Line>,
}

/// What the crate's threads know and tell.
struct Line {
    /// There is no server. A request in flight then has no answer before the parked reconnection
    /// goes on.
    cut: AtomicBool,
    /// The handle can be dropped: its session ended, or is to end with it.
    over: AtomicBool,
    /// The watches that will fire. The crate piles up those left twice.
    armed: Mutex<HashSet<(Watch, String)>>,
    requests: AtomicU32,
    inbox: Sender<Message>,
    epoch: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Watch {
    Node,
    Names,
    Making,
}

type Job = Box<dyn FnOnce(&ZooKeeper) + Send>;
type Tell = Box<dyn Fn(WatchedEvent) + Send>;

impl Client {
    /// Connects and waits until the session answers. News of the connection carries `epoch`.
    pub(super) fn open(
        options: &ZooKeeperOptions,
        epoch: u64,
        inbox: Sender<Message>,
    ) -> Result<Self, String> {
        let hosts = probe::live_first(&options.hosts)?;
        let ((jobs, queue), (end, ended)) = (bounded(1), bounded(0));
        let (cut, over, armed, requests) = Default::default();
        let line = Arc::new(Line { cut, over, armed, requests, inbox, epoch });
        let (for_thread, timeout) = (line.clone(), options.session_timeout);
        let serve = move || {
            let _end = end; // its drop says that the session is closed
            serve(hosts, timeout, &queue, for_thread);
        };
        let thread = thread::Builder::new().name("mprpc-zookeeper".into());
        let thread = thread.spawn(serve);
        thread.map_err(|e| format!("no thread for the session: {e}"))?;
        let options = options.clone();
        let client = Self { options, jobs, ended, line };
        let hello = client.call(|zk| zk.exists("/zookeeper", false));
        hello.map_err(|failure| format!("no session ({failure:?})"))?;
        Ok(client)
    }

    /// Tells a new connection what it does not know, and forgets what it does not do.
    pub(super) fn restore(&self) -> Result<(), Failure> {
        self.line.armed().clear();
        let auth = self.options.auth.clone();
        let Some((scheme, credentials)) = auth else {
            return Ok(());
        };
        self.call(move |zk| zk.add_auth(scheme, credentials.into()))
    }

    /// Whether there is no server to ask.
    pub(super) fn is_cut(&self) -> bool {
        self.line.cut.load(SeqCst)
    }

    /// The id of the session: the owner of a node made for the purpose, as the crate does not tell.
    pub(super) fn session(&self) -> Result<i64, Failure> {
        let path = self.make("/mprpc/session-", &[], CreateMode::EphemeralSequential)?;
        self.call(move |zk| {
            let stat = zk.exists(&path, false)?.ok_or(ZkError::NoNode)?;
            zk.delete(&path, None).map(|()| stat.ephemeral_owner)
        })
    }

    /// The node at `path`. If there is one, its change and its end will be told.
    pub(super) fn read(&self, path: &str) -> Result<Option<Found>, Failure> {
        let read = self.watched(path, Watch::Node, |zk, path, tell| match tell {
            Some(tell) => zk.get_data_w(path, tell),
            None => zk.get_data(path, false),
        })?;
        Ok(read.map(|(data, stat)| Found::new(stat.ephemeral_owner, stat.version, data)))
    }

    /// The names in a directory, which may be missing. When there are others it will be told. Of a
    /// `small` directory, which was there a moment ago, nothing is asked but that.
    pub(super) fn list(&self, path: &str, small: bool) -> Result<Vec<String>, Failure> {
        if !small {
            let stat = self.watched(path, Watch::Making, |zk, path, tell| match tell {
                Some(tell) => zk.exists_w(path, tell),
                None => zk.exists(path, false),
            })?;
            let Some(stat) = stat.flatten() else {
                return Ok(Vec::new());
            };
            check_count(stat.num_children)?;
        }
        let list = self.watched(path, Watch::Names, |zk, path, tell| match tell {
            Some(tell) => zk.get_children_w(path, tell),
            None => zk.get_children(path, false),
        })?;
        match list {
            Some(list) => Ok(list),
            None if small => self.list(path, false),
            None => Ok(Vec::new()),
        }
    }

    /// Makes an ephemeral node and, if need be, what is above it; false if there is one, which stays.
    pub(super) fn create(&self, path: &str, data: &[u8]) -> Result<bool, Failure> {
        match self.make(path, data, CreateMode::Ephemeral) {
            Err(Failure::Refused(ZkError::NodeExists)) => Ok(false),
            made => made.map(|_| true),
        }
    }

    /// Sets the data, or with none deletes the node; nothing happens if it has another version by
    /// now, or is gone.
    pub(super) fn change(&self, path: &str, version: i32, data: Option<&[u8]>) -> Result<(), Failure> {
        let (path, data) = (self.full(path), data.map(Vec::from));
        let changed = self.call(move |zk| match data {
            Some(data) => zk.set_data(&path, data, Some(version)).map(drop),
            None => zk.delete(&path, Some(version)),
        });
        unless(changed, |error| matches!(error, ZkError::NoNode | ZkError::BadVersion))
    }

    /// Closes the session and waits for it until `deadline`.
    pub(super) fn close(self, deadline: Instant) {
        self.line.over.fetch_or(!self.line.cut.load(SeqCst), SeqCst);
        drop(self.jobs);
        let _ = self.ended.recv_deadline(deadline);
    }

    /// Reads, and leaves the watch unless it is there. No node, no answer, no watch.
    fn watched<T: Send + 'static>(
        &self,
        path: &str,
        watch: Watch,
        read: fn(&ZooKeeper, &str, Option<Tell>) -> ZkResult<T>,
    ) -> Result<Option<T>, Failure> {
        let (full, key) = (self.full(path), (watch, path.to_owned()));
        // Before the request: it may fire before the answer is here.
        let new = self.line.armed().insert(key.clone());
        let (line, fired) = (self.line.clone(), key.clone());
        // Runs on the crate's event thread, which must not panic.
        let tell: Tell = Box::new(move |event| {
            line.armed().remove(&fired);
            let gone = event.event_type == WatchedEventType::NodeDeleted;
            line.tell(Message::Node(fired.1.clone(), gone));
        });
        let found = self.call(move |zk| match read(zk, &full, new.then_some(tell)) {
            Err(ZkError::NoNode) => Ok(None),
            answer => answer.map(Some),
        });
        if !matches!(found, Ok(Some(_))) {
            self.line.armed().remove(&key);
        }
        found
    }

    /// Makes a node and, if need be, what is above it.
    pub(super) fn make(&self, path: &str, data: &[u8], mode: CreateMode) -> Result<String, Failure> {
        let full = self.full(path);
        // With credentials, only who knows them writes below /mprpc. The legacy directories stay
        // open: C++ nodes have none.
        let guarded = self.options.auth.is_some() && path.starts_with("/mprpc");
        let create = |end: usize, data: &[u8], mode| {
            let (path, data) = (full[..end].to_owned(), data.to_vec());
            let acl = match guarded && end > self.options.chroot.len() {
                true => [Acl::creator_all().as_slice(), Acl::read_unsafe()].concat(),
                false => Acl::open_unsafe().clone(),
            };
            self.call(move |zk| zk.create(&path, data, acl, mode))
        };
        let made = create(full.len(), data, mode);
        if made != Err(Failure::Refused(ZkError::NoNode)) {
            return made;
        }
        for (end, _) in full.match_indices('/').skip(1) {
            // Without the right to create it, it may still be there.
            let there = |error| matches!(error, ZkError::NodeExists | ZkError::NoAuth);
            unless(create(end, &[], CreateMode::Persistent).map(drop), there)?;
        }
        create(full.len(), data, mode)
    }

    /// The crate has a chroot, too, but loses the watches on its root.
    pub(super) fn full(&self, path: &str) -> String {
        let path = if path == "/" && !self.options.chroot.is_empty() { "" } else { path };
        format!("{}{path}", self.options.chroot)
    }

    /// Has the session's thread do this, and waits for it no longer than a request may take.
    pub(super) fn call<T: Send + 'static>(
        &self,
        request: impl FnOnce(&ZooKeeper) -> ZkResult<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let limit = self.options.session_timeout / 2;
        let deadline = Instant::now() + limit.clamp(Duration::from_secs(1), CALL_LIMIT);
        // The crate numbers requests with an i32, and some numbers mean other things.
        if self.line.requests.fetch_add(1, SeqCst) > MAX_REQUESTS {
            return Err(Failure::Late);
        }
        let (reply, answer) = bounded(1);
        let job = Box::new(move |zk: &ZooKeeper| drop(reply.send(request(zk))));
        let sent = self.jobs.send_deadline(job, deadline);
        sent.map_err(|_| Failure::Late)?;
        loop {
            return Err(match answer.recv_timeout(Duration::from_millis(20)) {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(ZkError::ConnectionLoss | ZkError::SessionExpired)) => Failure::Lost,
                Ok(Err(error)) => Failure::Refused(error),
                // The crate panicked on what it read.
                Err(RecvTimeoutError::Disconnected) => Failure::Refused(ZkError::SystemError),
                Err(_) if self.line.cut.load(SeqCst) => Failure::Lost,
                Err(_) if Instant::now() >= deadline => Failure::Late,
                Err(RecvTimeoutError::Timeout) => continue,
            });
        }
    }
}

impl Line {
    fn armed(&self) -> MutexGuard<'_, HashSet<(Watch, String)>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a full inbox loses, failing requests and the next audit make up for.
    fn tell(&self, message: Message) {
        let _ = self.inbox.try_send(message);
    }

    fn link(&self, event: Event) {
        let was_cut = self.cut.swap(event != Event::Joined, SeqCst);
        if was_cut || event != Event::Joined {
            self.tell(Message::Link(self.epoch, event)); // the first joining is `open`'s to tell
        }
    }
}

/// The session's thread: owns the crate's handle, does what the door sends, and when that is
/// dropped, closes the session however long it takes.
fn serve(hosts: Vec<SocketAddr>, timeout: Duration, jobs: &Receiver<Job>, line: Arc<Line>) {
    let list: Vec<_> = hosts.iter().map(SocketAddr::to_string).collect();
    // It unwraps the errors of sockets.
    let connect = || ZooKeeper::connect(&list.join(","), timeout, |_: WatchedEvent| {});
    let Ok(Ok(zk)) = catch_unwind(connect) else {
        return;
    };
    let (parked, last) = (line.clone(), Cell::new((Instant::now(), 0)));
    zk.add_listener(move |state| match state {
        ZkState::Connected | ZkState::ConnectedReadOnly => {
            last.set((Instant::now(), 0));
            parked.link(Event::Joined);
        }
        ZkState::Closed | ZkState::AuthFailed => {
            parked.over.store(true, SeqCst);
            parked.link(Event::Ended);
        }
        state => {
            parked.link(Event::Cut);
            if state == ZkState::Connecting {
                last.set(probe::park(&hosts, timeout, last.get()));
            }
        }
    });
    for job in jobs {
        let _ = catch_unwind(AssertUnwindSafe(|| job(&zk)));
    }
    // A handle dropped without a server lives on, and so does its session; one whose I/O thread
    // died never says so.
    let give_up = Instant::now() + 3 * timeout + CALL_LIMIT;
    while !line.over.load(SeqCst) && zk.close().is_err() && Instant::now() < give_up {
        thread::sleep(Duration::from_millis(100));
    }
    drop(zk); // closes it, if that is still to be done
}

/// The crate cannot take a list of 2 MiB: it would lose the connection every time.
pub(super) fn check_count(children: i32) -> Result<(), Failure> {
    let fits = children <= 8192;
    fits.then_some(()).ok_or(Failure::Refused(ZkError::MarshallingError))
}

/// Takes an error that means that nothing is to be done for success.
fn unless(result: Result<(), Failure>, fine: fn(ZkError) -> bool) -> Result<(), Failure> {
    match result {
        Err(Failure::Refused(error)) if fine(error) => Ok(()),
        other => other,
    }
}

const CALL_LIMIT: Duration = Duration::from_secs(4);
/// After so many requests a client is given away.
const MAX_REQUESTS: u32 = 1 << 30;
