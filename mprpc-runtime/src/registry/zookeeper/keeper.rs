//! The thread `mprpc-registry`: carries out what the session's supervisor decides.

use std::{sync::Arc, time::Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::{
    Message, Shared, ZooKeeperOptions,
    client::{Client, Failure, Watch},
    publisher::Publisher,
    random,
    session::{Event, Session, Step},
    view::View,
};

pub(super) struct Keeper {
    options: ZooKeeperOptions,
    shared: Arc<Shared>,
    inbox: Receiver<Message>,
    session: Session,
    client: Option<Client>,
    /// Counts clients, so that an old one's news is not taken for the new one's.
    epoch: u64,
    /// News of watches; its round counts connections, which do not keep them.
    watch: Watch,
    /// The id of the session, once something is to be published.
    owner: Option<i64>,
    publisher: Publisher,
    views: Vec<View>,
    /// How many of the desk's changes are known here.
    seen: u64,
    /// When the outage that goes on was last spoken of.
    said: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(
        options: ZooKeeperOptions,
        shared: Arc<Shared>,
        sender: Sender<Message>,
        inbox: Receiver<Message>,
    ) -> Self {
        Self {
            session: Session::new(options.session_timeout, Instant::now(), random()),
            watch: Watch {
                inbox: sender,
                round: 0,
            },
            client: None,
            epoch: 0,
            owner: None,
            publisher: Publisher::default(),
            views: Vec::new(),
            seen: 0,
            said: None,
            options,
            shared,
            inbox,
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let first = match self.wake() {
                Some(at) => self.inbox.recv_deadline(at),
                None => self
                    .inbox
                    .recv()
                    .map_err(|_| RecvTimeoutError::Disconnected),
            };
            let inbox = self.inbox.clone();
            for message in first.into_iter().chain(inbox.try_iter()) {
                match message {
                    Message::Link(epoch, event) if epoch == self.epoch => self.feed(event),
                    Message::Node(round, path, change) if round == self.watch.round => {
                        self.publisher.changed(&path, change, Instant::now());
                        self.views
                            .iter_mut()
                            .for_each(|view| view.changed(&path, change));
                    }
                    Message::Link(..) | Message::Node(..) | Message::Desk => {}
                    Message::Stop(deadline) => {
                        self.session.on(Event::Stop, Instant::now());
                        if let Some(client) = self.client.take() {
                            client.close(deadline);
                        }
                        return self.shared.stopped();
                    }
                }
            }
            self.read_desk();
            self.feed(Event::Tick);
        }
    }

    fn wake(&self) -> Option<Instant> {
        let due = self
            .publisher
            .due()
            .into_iter()
            .chain(self.views.iter().filter_map(View::due));
        let due = due.min().filter(|_| self.session.is_up());
        self.session
            .wake(Instant::now())
            .into_iter()
            .chain(due)
            .min()
    }

    fn read_desk(&mut self) {
        let mut desk = self.shared.desk();
        let now = Instant::now();
        self.views
            .extend(desk.asked.drain(..).map(|service| View::new(&service, now)));
        if desk.changes != self.seen {
            self.seen = desk.changes;
            self.publisher.want(&desk.wanted, now);
        }
    }

    fn feed(&mut self, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let step = self.session.on(event, Instant::now());
            next = match step {
                Step::Wait => None,
                Step::Open => Some(self.open()),
                Step::Work => Some(self.work()),
                Step::Restore | Step::Audit => {
                    let lost = step == Step::Restore;
                    if lost {
                        self.owner = None;
                        self.watch.round += 1;
                    }
                    self.publisher.recheck(lost, Instant::now());
                    self.views.iter_mut().for_each(|view| view.recheck(lost));
                    Some(self.work())
                }
                Step::Abandon => {
                    self.client = None;
                    self.outage("the session is over");
                    None
                }
            };
        }
    }

    fn open(&mut self) -> Event {
        self.epoch += 1;
        match Client::open(&self.options, self.epoch, self.watch.inbox.clone()) {
            Ok(client) => {
                self.client = Some(client);
                Event::Opened
            }
            Err(why) => {
                self.outage(&why);
                let why = format!("ZooKeeper at {}: {why}", self.options.hosts.join(","));
                self.shared.report(self.seen, false, Some(why), None);
                Event::Failed
            }
        }
    }

    fn work(&mut self) -> Event {
        match self.try_work() {
            Ok(refused) => {
                let settled = self.publisher.due().is_none();
                self.shared
                    .report(self.seen, settled, refused, self.publisher.trouble());
                if self.said.take().is_some() {
                    log::info!("ZooKeeper at {} is back", self.options.hosts.join(","));
                }
                Event::Done
            }
            Err(Failure::Late) => Event::Late,
            Err(Failure::Lost | Failure::Refused(_)) => Event::Lost,
        }
    }

    /// Does what is due. Gives why a service cannot be looked up, if ZooKeeper says so.
    fn try_work(&mut self) -> Result<Option<String>, Failure> {
        let Some(client) = &self.client else {
            return Err(Failure::Lost);
        };
        let now = Instant::now();
        if self.owner.is_none() {
            client.authenticate(&self.options)?;
        }
        if self.publisher.due().is_some_and(|due| due <= now) {
            let owner = match self.owner {
                Some(owner) => owner,
                None => *self.owner.insert(client.session()?),
            };
            self.publisher.work(client, owner, &self.watch)?;
        }
        let mut refused = None;
        for view in &mut self.views {
            if view.due().is_some_and(|due| due <= now) {
                match view.refresh(client, &self.watch) {
                    Ok(snapshot) => self.shared.deliver(&view.service, snapshot),
                    Err(failure @ Failure::Refused(_)) => {
                        refused = Some(format!("{}: {failure}", view.service))
                    }
                    Err(failure) => return Err(failure),
                }
            }
        }
        Ok(refused)
    }

    /// Speaks of an outage when it begins and every half minute.
    fn outage(&mut self, why: &str) {
        let now = Instant::now();
        if self.said.is_none_or(|said| now - said > OUTAGE_REPORT) {
            self.said = Some(now);
            log::warn!(
                "ZooKeeper at {}: {why}; serving on with what is known, trying again",
                self.options.hosts.join(",")
            );
        }
    }
}

const OUTAGE_REPORT: std::time::Duration = std::time::Duration::from_secs(30);
