//! Plain operations on znodes for a program of its own mind, as the C++ framework's `ZkClient` has them.

use std::time::{Duration, Instant};

use ::zookeeper::{CreateMode, ZkError};
use crossbeam_channel::bounded;

use super::{
    Arc, FIRST_ATTEMPT, Message, MirrorPolicy, ZooKeeperOptions, ZooKeeperRegistry,
    client::{Client, Failure, check_count},
    session::Event,
};
use crate::{
    error::{CallError, Error, Ran},
    status::{Code, Status},
};

/// A session of its own for reading and writing znodes, kept alive and replaced when it ends. All of it
/// may be used from any thread. Dropping it closes the session.
///
/// It is not the session of the process's registry, which must stay quiet to be resumed after a cut.
///
/// # Guarantees
/// - Every operation ends within 5 s, whatever ZooKeeper and the network do.
/// - Each is done at most once. Reading, and what certainly was not begun, is tried again as long as
///   there is time. An error says by [`Error::did_not_run`] whether a create or delete that failed may
///   have been done.
/// - An ephemeral node is made again when its session is lost, until it is deleted: by then its place
///   may have been empty for a while, or be another's, who keeps it. So it is no lock.
/// - A read sees what this client wrote before, and never goes back in time; other programs' writes it
///   may see late, by the little that a follower is behind its leader.
///
/// # Paths
/// Absolute, below the chroot of the configuration; data is 1,000,000 bytes at most. What is missing
/// above a new node is made, as empty persistent nodes. With `zookeeperauth`, nodes below `/mprpc`
/// can be changed with the same credentials only; all others are open.
///
/// # Examples
/// ```no_run
/// # fn f(app: mprpc_runtime::MprpcApplication) -> Result<(), mprpc_runtime::Error> {
/// let zk = app.zk_client()?; // ZkClient zk; zk.Start();
/// zk.create("/config/shards", b"16")?; // false: it was there
/// zk.create_ephemeral("/workers/10.0.0.5", b"")?;
/// if let Some(shards) = zk.get("/config/shards")? {
///     println!("{} shards", String::from_utf8_lossy(&shards));
/// }
/// for worker in zk.children("/workers")?.unwrap_or_default() {
///     println!("{worker} works");
/// }
/// # Ok(()) }
/// ```
pub struct ZkClient {
    registry: Arc<ZooKeeperRegistry>,
}

/// What the keeper does between its own work: it gives the client, if it has one that is connected,
/// and is told what that says of the session.
pub(super) type Ask = Box<dyn FnOnce(Option<&Client>) -> Option<Event> + Send>;

impl ZkClient {
    /// Opens a session, as `ZkClient::Start` does.
    ///
    /// # Errors
    /// No host is named, or none serves within 5 s.
    pub fn start(options: ZooKeeperOptions) -> Result<Self, Error> {
        let options = ZooKeeperOptions { require: true, mirror: MirrorPolicy::Off, ..options };
        Ok(Self { registry: ZooKeeperRegistry::start(options)? })
    }

    /// Makes a persistent node; false if there is one, which stays as it is.
    ///
    /// # Errors
    /// ZooKeeper refused, or could not be asked in time; see [`Error::did_not_run`].
    pub fn create(&self, path: &str, data: &[u8]) -> Result<bool, Error> {
        self.make(path, data, CreateMode::Persistent)
    }

    /// Makes a node that ends with this client; false if there is one, which stays as it is. One that
    /// was made is made again when its session is lost, until `delete`.
    ///
    /// # Errors
    /// As `create`. If it may have been made all the same, it goes with the session.
    pub fn create_ephemeral(&self, path: &str, data: &[u8]) -> Result<bool, Error> {
        let made = self.make(path, data, CreateMode::Ephemeral)?;
        if made {
            self.registry.change(|wanted| wanted.keep(path, data));
        }
        Ok(made)
    }

    /// The data of a node; `None` if there is no node.
    ///
    /// # Errors
    /// As `create`; nothing was changed in any case.
    pub fn get(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        let path = path.to_owned();
        self.ask("get", &path.clone(), true, move |client| {
            let full = client.full(&path);
            found(client.call(move |zk| zk.get_data(&full, false).map(|(data, _)| data)))
        })
    }

    /// Whether there is a node.
    ///
    /// # Errors
    /// As `get`.
    pub fn exists(&self, path: &str) -> Result<bool, Error> {
        let path = path.to_owned();
        self.ask("exists", &path.clone(), true, move |client| {
            let full = client.full(&path);
            client.call(move |zk| zk.exists(&full, false)).map(|stat| stat.is_some())
        })
    }

    /// The names of a node's children, sorted; `None` if there is no node.
    ///
    /// # Errors
    /// As `get`; and more than 8,192 children.
    pub fn children(&self, path: &str) -> Result<Option<Vec<String>>, Error> {
        let path = path.to_owned();
        self.ask("children", &path.clone(), true, move |client| {
            let full = client.full(&path);
            let stat = client.call({
                let full = full.clone();
                move |zk| zk.exists(&full, false)
            })?;
            stat.map_or(Ok(()), |stat| check_count(stat.num_children))?;
            let names = found(client.call(move |zk| zk.get_children(&full, false)))?;
            Ok(names.map(|mut names| {
                names.sort();
                names
            }))
        })
    }

    /// Deletes a node, whatever its data, and keeps it no longer; false if there was none.
    ///
    /// # Errors
    /// As `create`; and a node that has children.
    pub fn delete(&self, path: &str) -> Result<bool, Error> {
        let mut kept = false;
        self.registry.change(|wanted| kept = wanted.give_up(path));
        let path = path.to_owned();
        self.ask("delete", &path.clone(), false, move |client| {
            let full = client.full(&path);
            // A kept one may be taken away by now, as one that is kept no longer.
            Ok(found(client.call(move |zk| zk.delete(&full, None)))?.is_some() || kept)
        })
    }

    fn make(&self, path: &str, data: &[u8], mode: CreateMode) -> Result<bool, Error> {
        if data.len() > MAX_DATA {
            // The server ends the connection, and with it perhaps the session, over more.
            return Err(Error::Usage(format!("{path}: {} bytes, {MAX_DATA} are the most", data.len())));
        }
        let (path, data) = (path.to_owned(), data.to_vec());
        self.ask("create", &path.clone(), false, move |client| match client.make(&path, &data, mode) {
            Err(Failure::Refused(ZkError::NodeExists)) => Ok(false),
            made => made.map(|_| true),
        })
    }

    /// Has the keeper do it, again and again as long as there is time and that is safe.
    fn ask<T: Send + 'static>(
        &self,
        what: &str,
        path: &str,
        reads: bool,
        request: impl Fn(&Client) -> Result<T, Failure> + Clone + Send + 'static,
    ) -> Result<T, Error> {
        check_path(path)?;
        let began = Instant::now();
        let deadline = began + FIRST_ATTEMPT;
        for attempt in 1.. {
            let (ran, status) = match self.attempt(request.clone(), deadline) {
                Ok(answer) => return Ok(answer),
                Err(None) => (Ran::No, Status::unavailable("ZooKeeper cannot be reached")),
                Err(Some(Failure::Lost)) => {
                    (Ran::Maybe, Status::unavailable("the connection was lost before the answer came"))
                }
                Err(Some(Failure::Late)) => {
                    (Ran::Maybe, Status::deadline_exceeded("ZooKeeper did not answer"))
                }
                Err(Some(Failure::Refused(error))) => (Ran::No, refusal(error)),
            };
            let again = status.code() == Code::Unavailable && (reads || ran == Ran::No);
            if again && Instant::now() + PAUSE < deadline {
                std::thread::sleep(PAUSE);
                continue;
            }
            return Err(Error::Call(Box::new(CallError {
                status,
                ran: if reads { Ran::No } else { ran },
                method: format!("zookeeper {what} {path}"),
                peer: None,
                attempt,
                max_attempts: attempt,
                stages: None,
                elapsed: began.elapsed(),
                allowed: FIRST_ATTEMPT,
            })));
        }
        unreachable!("an endless loop")
    }

    /// One attempt; `None` is the error of one that was not begun.
    fn attempt<T: Send + 'static>(
        &self,
        request: impl Fn(&Client) -> Result<T, Failure> + Send + 'static,
        deadline: Instant,
    ) -> Result<T, Option<Failure>> {
        let (reply, answer) = bounded(1);
        let ask: Ask = Box::new(move |client| {
            let client = client.filter(|_| Instant::now() < deadline)?;
            let outcome = request(client);
            let event = match &outcome {
                Err(Failure::Late) => Some(Event::Late),
                Err(Failure::Lost) => Some(Event::Lost),
                _ => None,
            };
            let _ = reply.send(outcome); // who asked may have left
            event
        });
        self.registry.inbox.send_deadline(Message::Ask(ask), deadline).map_err(|_| None)?;
        match answer.recv_deadline(deadline) {
            Ok(outcome) => outcome.map_err(Some),
            Err(error) if error.is_disconnected() => Err(None), // the keeper dropped the question
            Err(_) => Err(Some(Failure::Late)),
        }
    }
}

/// A missing node is an answer.
fn found<T>(answer: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match answer {
        Err(Failure::Refused(ZkError::NoNode)) => Ok(None),
        answer => answer.map(Some),
    }
}

fn refusal(error: ZkError) -> Status {
    let code = match error {
        ZkError::NoAuth | ZkError::AuthFailed | ZkError::InvalidACL => Code::PermissionDenied,
        ZkError::NotEmpty | ZkError::NoChildrenForEphemerals | ZkError::NotReadOnly => {
            Code::FailedPrecondition
        }
        ZkError::MarshallingError => Code::ResourceExhausted,
        _ => Code::Unknown,
    };
    let text = match error {
        ZkError::NotEmpty => "it has children".to_owned(),
        ZkError::NoChildrenForEphemerals => "an ephemeral node has no children".to_owned(),
        ZkError::MarshallingError => "it has too many children to be listed".to_owned(),
        other => format!("ZooKeeper refuses: {other:?}"),
    };
    Status::new(code, text)
}

/// Lets paths pass that ZooKeeper takes. The crate does not check, and the server ends the connection.
fn check_path(path: &str) -> Result<(), Error> {
    let sound = |step: &str| !matches!(step, "" | "." | "..") && !step.contains(char::is_control);
    let steps = path.strip_prefix('/');
    if path == "/" || path.len() <= MAX_PATH && steps.is_some_and(|steps| steps.split('/').all(sound)) {
        return Ok(());
    }
    Err(Error::Usage(format!("{path:?}: a path is such as /a/b")))
}

const MAX_DATA: usize = 1_000_000;
const MAX_PATH: usize = 4096;
const PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_that_zookeeper_takes_pass() {
        for good in ["/", "/a", "/a/b.c", "/a b", "/größe"] {
            assert!(check_path(good).is_ok(), "{good:?}");
        }
        for bad in ["", "a", "//", "/a/", "/a//b", "/.", "/a/../b", "/a\0", "/a\n"] {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
        assert!(check_path(&format!("/{}", "x".repeat(MAX_PATH))).is_err());
    }
}
