//! The echo service that tests call, and a provider of it in this process.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use mprpc_runtime::{
    Code, Controller, MprpcApplication, MprpcConfig, Reply, ReplyExtras, RpcProvider, RunningProvider, Status,
};

use crate::proto::{
    echo::{Blob, Failure, Nap, Nothing, Text},
    echo_mprpc::EchoServiceRpc,
};

/// Serves `echo.proto` and counts what it ran.
#[derive(Default)]
pub struct Echo {
    /// Handlers that began.
    pub ran: AtomicUsize,
    /// Handlers of `Sleep` and `Forget` that saw their call cancelled.
    pub cancelled: Arc<AtomicUsize>,
    kept: Mutex<HashMap<usize, Reply<Nothing>>>,
}

impl EchoServiceRpc for Echo {
    fn echo(&self, controller: &Controller, request: Text) -> Result<Text, Status> {
        self.ran.fetch_add(1, Ordering::SeqCst);
        match controller.metadata().get("suffix") {
            None => Ok(request),
            Some(suffix) => {
                let suffix = String::from_utf8_lossy(suffix);
                Ok(Text { text: format!("{}{suffix}", request.text), ..Default::default() })
            }
        }
    }

    fn echo_inline(&self, _: &Controller, request: Text) -> Result<Text, Status> {
        self.ran.fetch_add(1, Ordering::SeqCst);
        Ok(request)
    }

    fn echo_blob(&self, controller: &Controller, mut request: Blob) -> Result<Blob, Status> {
        if let Some(tell) = controller.metadata().get("tell") {
            controller.set_response_metadata(String::from_utf8_lossy(tell), "told");
            controller.set_response_attachment(*b"beside");
        }
        if request.reply_bytes > 0 {
            request.data = vec![7; request.reply_bytes as usize];
        } else if !controller.attachment().is_empty() {
            request.data = controller.attachment().to_vec();
        }
        Ok(request)
    }

    fn sleep(&self, controller: &Controller, request: Nap) -> Result<Nothing, Status> {
        self.ran.fetch_add(1, Ordering::SeqCst);
        for _ in 0..request.ms {
            if controller.is_canceled() {
                self.cancelled.fetch_add(1, Ordering::SeqCst);
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(Nothing::new())
    }

    fn fail(&self, _: &Controller, request: Failure) -> Result<Nothing, Status> {
        Err(Status::new(Code::from_wire(request.code), request.text).with_details([1, 2, 3]))
    }

    fn panic(&self, _: &Controller, _: Nothing) -> Result<Nothing, Status> {
        panic!("planted");
    }

    fn later_deferred(&self, _: Controller, request: Nap, reply: Reply<Text>) {
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(request.ms.into()));
            let mut extras = ReplyExtras { attachment: b"beside".to_vec(), ..Default::default() };
            extras.metadata.set("slept", request.ms.to_string());
            reply.send_with(Ok(Text { text: "later".into(), ..Default::default() }), &extras);
        });
    }

    fn forget_deferred(&self, controller: Controller, _: Nothing, reply: Reply<Nothing>) {
        let n = self.ran.fetch_add(1, Ordering::SeqCst);
        let cancelled = self.cancelled.clone();
        controller.notify_on_cancel(move || {
            cancelled.fetch_add(1, Ordering::SeqCst);
        });
        self.kept.lock().expect("no holder panics").insert(n, reply);
    }

    fn block(&self, _: &Controller, request: Nap) -> Result<Nothing, Status> {
        thread::sleep(Duration::from_millis(request.ms.into()));
        Ok(Nothing::new())
    }

    fn stick(&self, _: &Controller, _: Nothing) -> Result<Nothing, Status> {
        self.ran.fetch_add(1, Ordering::SeqCst);
        thread::sleep(Duration::from_secs(120));
        Ok(Nothing::new())
    }

    fn hasty(&self, _: &Controller, request: Nap) -> Result<Nothing, Status> {
        thread::sleep(Duration::from_millis(request.ms.into()));
        Ok(Nothing::new())
    }
}

/// An application with these settings, which logs into a directory of its own.
pub fn app(settings: &[(&str, &str)]) -> MprpcApplication {
    let dir = std::env::temp_dir().join(format!("mprpc-tests-{}", std::process::id()));
    let dir = dir.to_str().expect("the temporary directory has a plain name");
    std::fs::create_dir_all(dir).expect("the temporary directory can be written");
    let mut config = MprpcConfig::default().with("log_dir", dir).expect("a directory");
    for (key, value) in settings {
        config = config.with(key, *value).expect("a good setting");
    }
    MprpcApplication::from_config(config).expect("an application")
}

/// A provider of `echo.proto` on a free port of loopback.
pub fn serve(app: &MprpcApplication) -> (RunningProvider, Arc<Echo>) {
    let echo = Arc::new(Echo::default());
    let mut provider = RpcProvider::new(app);
    provider.bind(SocketAddr::from(([127, 0, 0, 1], 0)));
    provider.notify_service(EchoServiceRpc::service(echo.clone())).expect("a new service");
    (provider.start().expect("a free port"), echo)
}
