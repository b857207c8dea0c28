//! The thread `mprpc-registry`: carries out what the session's supervisor decides.

use std::{sync::Arc, time::Duration, time::Instant};

use crossbeam_channel::{Receiver, Sender};

use super::{
    Message, ZooKeeperOptions,
    client::{Client, Failure},
    desk::Shared,
    publisher::Publisher,
    random,
    session::{Event, Session, Step},
    view::View,
};

pub(super) struct Keeper {
    pub(super) options: ZooKeeperOptions,
    pub(super) shared: Arc<Shared>,
    pub(super) inbox: Receiver<Message>,
    pub(super) sender: Sender<Message>,
}

/// What the thread knows while it runs.
struct Work {
    session: Session,
    client: Option<Client>,
    /// Counts clients, so that an old one's news is not taken for the new one's.
    epoch: u64,
    /// Whether the connection knows what it must.
    restored: bool,
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
    pub(super) fn run(self) {
        let session = Session::new(self.options.session_timeout, Instant::now(), random());
        let mut work = Work {
            session,
            client: None,
            epoch: 0,
            restored: false,
            owner: None,
            publisher: Publisher::default(),
            views: Vec::new(),
            seen: 0,
            said: None,
        };
        loop {
            let due = work.views.iter().filter_map(|view| view.due);
            let due = due.chain(work.publisher.due()).min();
            let first = self.inbox.recv_deadline(work.session.wake(Instant::now(), due)).ok();
            for message in first.into_iter().chain(self.inbox.try_iter()) {
                match message {
                    Message::Link(epoch, event) if epoch == work.epoch => self.feed(&mut work, event),
                    Message::Node(path, gone) => {
                        work.publisher.changed(&path);
                        work.views.iter_mut().for_each(|view| view.changed(&path, gone));
                    }
                    Message::Link(..) | Message::Desk => {}
                    Message::Stop(deadline) => {
                        if let Some(client) = work.client {
                            client.close(deadline);
                        }
                        return self.shared.stopped();
                    }
                }
            }
            let mut desk = self.shared.desk();
            work.views.extend(desk.asked.drain(..).map(View::new));
            if desk.changes != work.seen {
                work.seen = desk.changes;
                work.publisher.want(&desk.wanted);
            }
            drop(desk);
            self.feed(&mut work, Event::Tick);
        }
    }

    fn feed(&self, work: &mut Work, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let step = work.session.on(event, Instant::now());
            if matches!(step, Step::Restore | Step::Audit) {
                work.publisher.recheck();
                work.views.iter_mut().for_each(View::recheck);
                work.restored &= step == Step::Audit;
            }
            next = match step {
                Step::Wait => None,
                Step::Open => Some(self.open(work)),
                Step::Work | Step::Audit | Step::Restore => {
                    let outcome = self.work(work);
                    Some(self.report(work, outcome))
                }
                Step::Abandon => {
                    work.client = None;
                    self.outage(work, "the session is over");
                    None
                }
            };
        }
    }

    fn open(&self, work: &mut Work) -> Event {
        work.epoch += 1;
        match Client::open(&self.options, work.epoch, &self.sender) {
            Ok(client) => {
                work.client = Some(client);
                Event::Opened
            }
            Err(why) => {
                let why = self.outage(work, &why);
                self.shared.report(work.seen, false, Some(why), None);
                Event::Failed
            }
        }
    }

    /// Does what is due. Gives why a service cannot be looked up, if ZooKeeper says so.
    fn work(&self, work: &mut Work) -> Result<Option<String>, Failure> {
        let client = work.client.as_ref().ok_or(Failure::Lost)?;
        let now = Instant::now();
        if !work.restored {
            client.restore()?;
            (work.restored, work.owner) = (true, None);
        }
        if work.publisher.due().is_some_and(|due| due <= now) {
            let owner = work.owner.map_or_else(|| client.session(), Ok)?;
            work.owner = Some(owner);
            work.publisher.work(client, owner)?;
        }
        let mut refused = None;
        for view in work.views.iter_mut().filter(|view| view.due.is_some_and(|due| due <= now)) {
            match view.refresh(client) {
                Ok(snapshot) => self.shared.deliver(&view.service.full, snapshot),
                Err(Failure::Refused(error)) => refused = Some(format!("ZooKeeper: {error:?}")),
                Err(failure) => return Err(failure),
            }
        }
        Ok(refused)
    }

    fn report(&self, work: &mut Work, outcome: Result<Option<String>, Failure>) -> Event {
        match outcome {
            Ok(refused) => {
                if work.said.take().is_some() {
                    log::info!("ZooKeeper at {} is back", self.options.hosts.join(","));
                }
                let settled = work.publisher.due().is_none();
                self.shared.report(work.seen, settled, refused, work.publisher.trouble());
                Event::Done
            }
            Err(Failure::Late) => Event::Late,
            Err(Failure::Lost | Failure::Refused(_)) => Event::Lost,
        }
    }

    /// Speaks of an outage when it begins and every half minute.
    fn outage(&self, work: &mut Work, why: &str) -> String {
        let text = format!("ZooKeeper at {}: {why}", self.options.hosts.join(","));
        if work.said.is_none_or(|said| said.elapsed() > Duration::from_secs(30)) {
            work.said = Some(Instant::now());
            log::warn!("{text}; going on with what is known, trying again");
        }
        text
    }
}
