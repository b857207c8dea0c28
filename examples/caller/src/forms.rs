//! The other forms of a call. Each comes back before, or without, the answer; none needs a thread a call.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, mpsc},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use mprpc_runtime::{CallOptions, Error, MprpcController};

use crate::{login_request, proto::user_mprpc::UserServiceRpc_Stub};

/// The callback runs on a reactor's thread: it must not block, so it hands the result over.
pub fn callback(users: &UserServiceRpc_Stub) -> Result<(), Error> {
    let (tell, told) = mpsc::channel();
    users.login_async(&login_request(), move |result| {
        // Nobody listens if the caller gave up.
        let _ = tell.send(result);
    });
    let response = told.recv().expect("every call ends, so the callback runs")?;
    println!("callback: success {}", response.sucess);
    Ok(())
}

/// Started now, waited for later. Two calls run at the same time, each over the same connection.
pub fn future(users: &UserServiceRpc_Stub) -> Result<(), Error> {
    let patient = users.with(CallOptions::new().timeout(Duration::from_secs(2)));
    let (first, second) = (patient.login_start(&login_request()), patient.login_start(&login_request()));
    // One is waited for, the other awaited.
    let both = (first.wait()?.sucess, block_on(second)?.sucess);
    println!("future: success {} and {}", both.0, both.1);
    Ok(())
}

/// Many requests at once; each result tells of its own request.
pub fn batch(users: &UserServiceRpc_Stub) -> Result<(), Error> {
    let requests = vec![login_request(); 100];
    let mut good = 0;
    for result in users.login_batch(&requests) {
        good += usize::from(result?.sucess);
    }
    println!("batch: success {good} of {}", requests.len());
    Ok(())
}

/// The habit of the C++ framework: a controller remembers how the call went.
pub fn controller(users: &UserServiceRpc_Stub) -> Result<(), Error> {
    let mut controller = MprpcController::new();
    let response = users.controlled_by(&mut controller).login(&login_request());
    if controller.failed() {
        return Err(Error::other(controller.error_text()));
    }
    println!("controller: success {}", response?.sucess);

    // Another thread would hold a clone of it. Cancelled before it began, the call is not made.
    controller.reset();
    controller.start_cancel();
    let response = users.controlled_by(&mut controller).login(&login_request());
    println!("controller: cancelled, {}", response.is_err());
    Ok(())
}

/// The smallest executor: any other would do as well.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
