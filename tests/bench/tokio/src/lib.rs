//! The load side of peers whose client is asynchronous: a task for every call that is under way.

use std::{future::Future, io, sync::Arc};

use bench_load::{Load, clock};
use tokio::runtime::{Builder, Runtime};

/// What a peer has to bring along.
pub trait Client: Send + Sync + Sized + 'static {
    /// A connection. Clones share it.
    type Connection: Clone + Send + Sync + 'static;

    /// Opens a connection.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, String>> + Send;

    /// Makes the scenario's call and looks at the answer.
    fn call(&self, connection: &mut Self::Connection) -> impl Future<Output = Result<(), String>> + Send;
}

/// A runtime with two threads, or with none of its own (`runtime=current`).
///
/// # Errors
/// The system has no threads or no epoll left.
pub fn runtime(options: &bench_load::Options) -> io::Result<Runtime> {
    if options.is("runtime", "current") {
        return Builder::new_current_thread().enable_all().build();
    }
    Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// Runs the scenario to the end of the process.
///
/// # Errors
/// As [`runtime`].
pub fn run(load: Load, client: impl Client) -> io::Result<()> {
    let runner = Runner { load, client: Arc::new(client) };
    // A task of its own, because tokio polls what `block_on` is given beside its worker threads.
    runtime(&runner.load.options)?.block_on(async move { tokio::spawn(runner.run()).await })?;
    Ok(())
}

struct Runner<C> {
    load: Load,
    client: Arc<C>,
}

impl<C: Client> Runner<C> {
    async fn run(self) {
        let scenario = self.load.scenario;
        let mut idle = Vec::new();
        if scenario.idle > 0 {
            self.load.note_idle(false);
            for _ in 0..scenario.idle {
                idle.push(self.open().await);
            }
            self.load.note_idle(true);
        }
        if scenario.per_call {
            self.load.begin();
            while !self.load.stopped() {
                let start = clock::now();
                drop(self.open().await);
                self.load.record(start);
            }
        }
        let mut connections = Vec::new();
        for _ in 0..scenario.connections {
            connections.push(self.open().await);
        }
        self.load.begin();
        for connection in connections {
            for _ in 0..scenario.in_flight {
                tokio::spawn(call_on(self.load.clone(), self.client.clone(), connection.clone()));
            }
        }
        std::future::pending::<()>().await; // holds the idle connections until the process ends
        drop(idle);
    }

    /// Opens a connection and makes a call on it.
    async fn open(&self) -> C::Connection {
        match self.client.connect().await {
            Err(why) => self.load.fail(why),
            Ok(mut connection) => match self.client.call(&mut connection).await {
                Err(why) => self.load.fail(why),
                Ok(()) => connection,
            },
        }
    }
}

async fn call_on<C: Client>(load: Load, client: Arc<C>, mut connection: C::Connection) {
    let mut start = clock::now();
    while !load.stopped() {
        if let Err(why) = client.call(&mut connection).await {
            load.fail(why);
        }
        let now = clock::now();
        load.record_at(start, now);
        start = now;
    }
}
