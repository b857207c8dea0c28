//! The thread `mprpc-registry`: carries out what the session's supervisor decides.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};

use super::{
    Message, ZooKeeperOptions,
    cache::Cache,
    client::{Client, Failure},
    desk::Shared,
    outage::Outage,
    publisher::Publisher,
    session::{Event, Session, Step},
    view::View,
};

pub(super) struct Keeper {
    pub(super) cache: Option<Cache>,
    pub(super) options: ZooKeeperOptions,
    pub(super) shared: Arc<Shared>,
    pub(super) inbox: Receiver<Message>,
    pub(super) sender: Sender<Message>,
    pub(super) session: Session,
    pub(super) work: Work,
}

/// What the thread has in hand.
#[derive(Default)]
pub(super) struct Work {
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
    outage: Outage,
}

impl Keeper {
    pub(super) fn run(mut self) {
        loop {
            let due = self.work.views.iter().filter_map(View::due);
            let due = due.chain(self.work.publisher.due()).min();
            let wake = self.session.wake(Instant::now(), due);
            let first = self.inbox.recv_deadline(wake).ok();
            let inbox = self.inbox.clone();
            for message in first.into_iter().chain(inbox.try_iter()) {
                match message {
                    Message::Link(epoch, event) if epoch == self.work.epoch => self.feed(event),
                    Message::Node(path, gone) => {
                        self.work.publisher.changed(&path);
                        let now = Instant::now();
                        self.work.views.iter_mut().for_each(|view| view.changed(&path, gone, now));
                    }
                    Message::Ask(ask) => {
                        let event = ask(self.work.ready());
                        event.into_iter().for_each(|event| self.feed(event));
                    }
                    Message::Link(..) | Message::Desk => {}
                    Message::Stop(deadline) => {
                        if let Some(client) = self.work.client {
                            client.close(deadline);
                        }
                        return self.shared.stopped();
                    }
                }
            }
            self.shared.read(&mut self.work.seen, |asked, wanted| {
                let now = Instant::now();
                self.work.views.extend(asked.map(|service| View::new(service, now)));
                wanted.into_iter().for_each(|wanted| self.work.publisher.want(wanted));
            });
            if self.work.outage != Outage::No {
                self.remember();
            }
            self.feed(Event::Tick);
        }
    }

    fn feed(&mut self, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let step = self.session.on(event, Instant::now());
            if event == Event::Cut {
                self.away("the connection is lost");
            }
            if matches!(step, Step::Restore | Step::Audit) {
                self.work.publisher.recheck();
                let now = Instant::now();
                self.work.views.iter_mut().for_each(|view| view.recheck(now));
                self.work.restored &= step == Step::Audit;
            }
            next = match step {
                Step::Wait => None,
                Step::Open => Some(self.open()),
                Step::Work | Step::Audit | Step::Restore => Some(self.work()),
                Step::Abandon => {
                    self.work.client = None;
                    self.away("the session is over");
                    None
                }
            };
        }
    }

    /// Lets those who wait for a first look-up know that it may take a while.
    fn away(&mut self, why: &str) {
        self.work.outage.begin(Instant::now());
        self.remember();
        self.shared.trouble(format!("ZooKeeper at {}: {why}", self.options.hosts.join(",")));
    }

    fn open(&mut self) -> Event {
        self.work.epoch += 1;
        match Client::open(&self.options, self.work.epoch, self.sender.clone()) {
            Ok(client) => {
                self.work.client = Some(client);
                Event::Opened
            }
            Err(why) => {
                let why = format!("ZooKeeper at {}: {why}", self.options.hosts.join(","));
                if self.work.outage.tell(Instant::now()) {
                    log::warn!("{why}; going on with what is known, trying again");
                }
                self.remember(); // before those who wait are told
                self.shared.report(self.work.seen, false, Some(why));
                Event::Failed
            }
        }
    }

    fn work(&mut self) -> Event {
        match self.work.go_on(&self.shared, self.cache.as_mut()) {
            Ok(refused) => {
                if self.work.outage.end() {
                    log::info!("ZooKeeper at {} is back", self.options.hosts.join(","));
                }
                let publisher = &self.work.publisher;
                let (settled, trouble) = (publisher.due().is_none(), refused.or_else(|| publisher.trouble()));
                self.shared.report(self.work.seen, settled, trouble);
                Event::Done
            }
            Err(Failure::Late) => Event::Late,
            Err(Failure::Lost | Failure::Refused(_)) => Event::Lost,
        }
    }

    /// Delivers what a file says of services of which ZooKeeper has said nothing yet.
    fn remember(&mut self) {
        let Some(cache) = &self.cache else { return };
        for view in self.work.views.iter_mut().filter(|view| !view.remembered) {
            view.remembered = true;
            if self.shared.known(&view.service).is_some() {
                continue;
            }
            match cache.load(&view.service) {
                Ok(None) => {}
                Ok(Some((snapshot, age))) => {
                    let (n, service) = (snapshot.endpoints.len(), &view.service);
                    log::warn!("{service}: going on with {n} providers that were known {age:.0?} ago");
                    self.shared.deliver(service, snapshot);
                }
                Err(why) => log::warn!("{why}"),
            }
        }
    }
}

impl Work {
    /// The client, if it is connected and knows what it must.
    fn ready(&self) -> Option<&Client> {
        self.client.as_ref().filter(|client| self.restored && !client.is_cut())
    }

    /// Does what is due. Gives why a service cannot be looked up, if ZooKeeper says so.
    fn go_on(&mut self, shared: &Shared, mut cache: Option<&mut Cache>) -> Result<Option<String>, Failure> {
        let client = self.client.as_ref().ok_or(Failure::Lost)?;
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= Instant::now());
        if !self.restored {
            client.restore()?;
            (self.restored, self.owner) = (true, None);
        }
        if is_due(self.publisher.due()) {
            let owner = self.owner.map_or_else(|| client.session(), Ok)?;
            self.owner = Some(owner);
            self.publisher.work(client, owner)?;
        }
        let mut refused = None;
        for view in self.views.iter_mut().filter(|view| is_due(view.due())) {
            match view.refresh(client) {
                Ok(snapshot) => {
                    if shared.deliver(&view.service, snapshot.clone())
                        && let Some(cache) = &mut cache
                    {
                        cache.save(&view.service, &snapshot);
                    }
                }
                Err(Failure::Refused(error)) => {
                    // The next audit tries again: more often, the session would be too busy to ping.
                    view.rest();
                    let why = format!("{} cannot be read from ZooKeeper: {error:?}", view.service);
                    log::warn!("{why}");
                    refused = Some(why);
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(refused)
    }
}
