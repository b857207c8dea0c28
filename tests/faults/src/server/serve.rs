//! The provider of this group: `echo.proto` as the tests have it. With `faults_log = on` each echo writes
//! a numbered line into the log.

use std::sync::atomic::{AtomicU64, Ordering};

use mprpc_runtime::{Controller, Error, MprpcApplication, RpcProvider, Status};
use mprpc_tests::{
    echo::Echo,
    proto::{
        echo::{Blob, Nap, Nothing, Text},
        echo_mprpc::EchoServiceRpc,
    },
};

/// Serves until it is told to end.
pub(crate) fn serve(app: MprpcApplication) -> Result<(), Error> {
    let mut provider = RpcProvider::new(&app);
    let logs = app.config().get("faults_log") == Some("on");
    let service = Served { echo: Echo::default(), logs, next: AtomicU64::new(0) };
    provider.notify_service(EchoServiceRpc::service(service))?;
    provider.run()
}

struct Served {
    echo: Echo,
    logs: bool,
    next: AtomicU64,
}

impl EchoServiceRpc for Served {
    fn echo(&self, controller: &Controller, request: Text) -> Result<Text, Status> {
        if self.logs {
            log::info!("seq {}.", self.next.fetch_add(1, Ordering::Relaxed));
        }
        self.echo.echo(controller, request)
    }

    fn echo_inline(&self, controller: &Controller, request: Text) -> Result<Text, Status> {
        self.echo.echo_inline(controller, request)
    }

    fn echo_blob(&self, controller: &Controller, request: Blob) -> Result<Blob, Status> {
        self.echo.echo_blob(controller, request)
    }

    fn sleep(&self, controller: &Controller, request: Nap) -> Result<Nothing, Status> {
        self.echo.sleep(controller, request)
    }

    fn panic(&self, controller: &Controller, request: Nothing) -> Result<Nothing, Status> {
        self.echo.panic(controller, request)
    }

    /// Does not look whether anybody still waits.
    fn hasty(&self, controller: &Controller, request: Nap) -> Result<Nothing, Status> {
        self.echo.hasty(controller, request)
    }
}
