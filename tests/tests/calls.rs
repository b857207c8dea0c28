//! Every form of a call, over real sockets, against a provider in this process.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    sync::{Arc, atomic::Ordering, mpsc},
    thread,
    time::{Duration, Instant},
};

use mprpc_runtime::{
    Answered, Arrived, Call, CallOptions, CancelToken, ClientInterceptor, Code, Ended, Error,
    InProcessChannel, MprpcChannel, MprpcController, Pending, RpcChannel, ServerInterceptor, Stages, Status,
    rpc_channel::Done,
    wire::{Dialect, legacy},
};
use mprpc_tests::{
    echo::{Echo, app, serve},
    proto::{
        echo::{Blob, Failure, Nap, Nothing, Text},
        echo_mprpc::{EchoServiceRpc, EchoServiceRpc_Stub},
    },
};

const LONG: Duration = Duration::from_secs(20);

fn text(text: &str) -> Text {
    Text { text: text.into(), ..Default::default() }
}

fn nap(ms: u32) -> Nap {
    Nap { ms, ..Default::default() }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Runs `check` with a stub that calls over a socket, then with one of the legacy wire.
fn with_stub(settings: &[(&str, &str)], check: impl Fn(EchoServiceRpc_Stub, &Echo)) {
    let app = app(settings);
    let (provider, echo) = serve(&app);
    let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(&app, [provider.addr()]));
    check(stub, &echo);
    provider.stop().expect("nothing is cut");
}

#[test]
fn blocking_calls_bring_the_answer() {
    with_stub(&[], |stub, echo| {
        for n in 0..100 {
            let said = format!("hello {n}");
            assert_eq!(stub.echo(&text(&said)).unwrap().text, said);
            assert_eq!(stub.echo_inline(&text(&said)).unwrap().text, said);
        }
        assert_eq!(echo.ran.load(Ordering::SeqCst), 200);
    });
}

#[test]
fn callbacks_futures_and_batches_bring_the_answers() {
    with_stub(&[], |stub, _| {
        let (tell, told) = mpsc::channel();
        for n in 0..1000 {
            let tell = tell.clone();
            stub.echo_inline_async(&text(&n.to_string()), move |reply| {
                tell.send((n, reply.unwrap().text)).unwrap();
            });
        }
        for _ in 0..1000 {
            let (n, said) = told.recv_timeout(LONG).unwrap();
            assert_eq!(said, n.to_string());
        }
        let pending: Vec<_> = (0..300).map(|n| stub.echo_start(&text(&n.to_string()))).collect();
        for (n, pending) in pending.into_iter().enumerate() {
            assert_eq!(pending.wait().unwrap().text, n.to_string());
        }
        let requests: Vec<Text> = (0..300).map(|n| text(&n.to_string())).collect();
        let replies = stub.echo_batch(&requests);
        let texts: Vec<Text> = replies.into_iter().map(Result::unwrap).collect();
        assert_eq!(texts, requests);
    });
}

#[test]
fn a_callback_may_call_on() {
    with_stub(&[], |stub, _| {
        let (tell, told) = mpsc::channel();
        let next = stub.clone();
        stub.echo_async(&text("one"), move |reply| {
            let first = reply.unwrap().text;
            next.echo_async(&text("two"), move |reply| tell.send(first + &reply.unwrap().text).unwrap());
        });
        assert_eq!(told.recv_timeout(LONG).unwrap(), "onetwo");
    });
}

#[test]
fn a_call_takes_over_nothing_but_memory_from_the_one_whose_callback_starts_it() {
    /// Long and short texts by turns, in one callback the next, at one provider and the other.
    fn chain(stubs: [EchoServiceRpc_Stub; 2], left: usize, tell: mpsc::Sender<Result<(), Error>>) {
        let stub = &stubs[left % 2];
        let said = format!("{left}").repeat([100_000, 1, 1][left % 3]);
        // One that is cancelled before it is sent ends in its turn, on the way of the one before.
        let token = CancelToken::new();
        token.cancel();
        let (ended, code) = mpsc::channel();
        let cancelled = stub.with(CallOptions::new().cancel_with(token));
        cancelled.echo_async(&text("never"), move |result| ended.send(result.unwrap_err().code()).unwrap());
        assert_eq!(code.try_recv(), Ok(Code::Cancelled));
        stub.clone().echo_async(&text(&said.clone()), move |reply| match reply {
            Ok(reply) if left > 0 => {
                assert_eq!(reply.text, said);
                chain(stubs, left - 1, tell);
            }
            reply => tell.send(reply.map(|_| ())).unwrap(),
        });
    }
    let app = app(&[]);
    let served = [serve(&app), serve(&app)];
    let stubs = [0, 1].map(|n| EchoServiceRpc_Stub::new(MprpcChannel::to(&app, [served[n].0.addr()])));
    let (tell, told) = mpsc::channel();
    chain(stubs, 99, tell);
    told.recv_timeout(LONG).expect("no callback panicked").expect("all were answered");
    for (provider, echo) in served {
        assert_eq!(echo.ran.load(Ordering::SeqCst), 50);
        provider.stop().expect("nothing is cut");
    }
}

#[test]
fn a_channel_stays_with_one_client_thread_whoever_answers() {
    let app = app(&[("client_threads", "2"), ("balance", "round_robin")]);
    let served = [serve(&app), serve(&app)];
    let threads_of_a_channel = || {
        let channel = MprpcChannel::to(&app, [0, 1].map(|n| served[n].0.addr()));
        let (stub, (tell, told)) = (EchoServiceRpc_Stub::new(channel), mpsc::channel());
        for _ in 0..20 {
            let tell = tell.clone();
            stub.echo_async(&text("who"), move |reply| {
                reply.unwrap();
                tell.send(thread::current().name().map(String::from)).unwrap();
            });
        }
        drop(tell);
        told.iter().map(|name| name.expect("it has one")).collect::<BTreeSet<_>>()
    };
    let seen = [threads_of_a_channel(), threads_of_a_channel()];
    assert_eq!(seen, ["mprpc-client-0", "mprpc-client-1"].map(|name| BTreeSet::from([name.into()])));
    for (provider, echo) in served {
        assert_eq!(echo.ran.load(Ordering::SeqCst), 20, "both answered for both channels");
        provider.stop().expect("nothing is cut");
    }
}

#[test]
fn a_blocking_call_in_a_callback_is_an_error_and_no_deadlock() {
    with_stub(&[], |stub, _| {
        let (tell, told) = mpsc::channel();
        let next = stub.clone();
        stub.echo_async(&text("one"), move |_| {
            let inner: Result<Text, Error> = next.echo(&text("two"));
            let waited: Result<Text, Error> = next.echo_start(&text("three")).wait();
            tell.send((inner.unwrap_err().to_string(), waited.is_err())).unwrap();
        });
        let (error, waited) = told.recv_timeout(LONG).unwrap();
        assert!(error.contains("reactor"), "{error}");
        assert!(waited);
    });
}

#[test]
fn many_threads_share_a_stub() {
    with_stub(&[], |stub, _| {
        thread::scope(|scope| {
            for t in 0..16 {
                let stub = &stub;
                scope.spawn(move || {
                    for n in 0..200 {
                        let said = format!("{t}.{n}");
                        assert_eq!(stub.echo(&text(&said)).unwrap().text, said);
                    }
                });
            }
        });
    });
}

#[test]
fn callers_above_share_above_share_a_connection_but_not_for_large_requests() {
    let settings =
        [("share_above", "0"), ("max_connections", "1"), ("max_idle", "0"), ("worker_threads", "8")];
    with_stub(&settings, |stub, echo| {
        // The first call does not know yet who serves. Its connection is not kept, but may be there for a moment.
        stub.echo(&text("x")).unwrap();
        assert!((0..1000).any(|_| stub.echo(&text("x")).is_ok() || {
            thread::sleep(ms(5));
            false
        }));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    (0..20).for_each(|_| drop(stub.sleep(&nap(1)).expect("room for one connection")))
                });
            }
        });
        let options = CallOptions::new().timeout(ms(500));
        let error = stub.with(options).sleep(&nap(10_000)).unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
        assert_eq!(echo.ran.load(Ordering::SeqCst), 163);
        let error = stub.echo(&text(&"x".repeat(17 << 10))).unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "a connection of its own is one too many: {error}");
        assert!(stub.echo(&text(&"x".repeat(15 << 10))).is_ok());
    });
}

#[test]
fn a_callback_that_waits_for_an_answer_read_before_it_goes_on() {
    with_stub(&[], |stub, _| {
        for _ in 0..20 {
            // Held back until all are posted, so that their answers come together.
            let (go, gate) = mpsc::channel::<()>();
            stub.echo_inline_async(&text("first"), move |_| {
                let _ = gate.recv_timeout(LONG);
            });
            let pending = stub.echo_inline_start(&text("x"));
            let ((told, heard), (done, ended)) = (mpsc::channel(), mpsc::channel());
            stub.echo_inline_async(&text("x"), move |_| {
                done.send(heard.recv_timeout(LONG)).expect("the test waits")
            });
            go.send(()).expect("the callback waits");
            let began = Instant::now();
            pending.wait().unwrap();
            assert!(began.elapsed() < Duration::from_secs(4), "5 s are allowed");
            told.send(()).expect("the callback waits");
            assert!(ended.recv_timeout(LONG).expect("it ended").is_ok());
        }
    });
}

#[test]
fn a_call_that_its_channel_forgets_ends_at_once() {
    struct Forgetful;
    impl RpcChannel for Forgetful {
        fn call_method(&self, _: Call<'_>, _: Done) {}
    }
    let began = Instant::now();
    let error = EchoServiceRpc_Stub::new(Forgetful).echo(&text("x")).unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(4), "the time allowed is 5 s");
    assert!(!error.did_not_run() && error.to_string().contains("did not end the call"), "{error}");
}

#[test]
fn futures_can_be_awaited_on_any_executor() {
    struct Unpark(thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    with_stub(&[], |stub, _| {
        let mut pending: Pending<Text> = stub.later_start(&nap(30));
        let waker = Arc::new(Unpark(thread::current())).into();
        let mut context = std::task::Context::from_waker(&waker);
        let began = Instant::now();
        let reply = loop {
            match std::pin::Pin::new(&mut pending).poll(&mut context) {
                std::task::Poll::Ready(reply) => break reply,
                std::task::Poll::Pending => thread::park_timeout(LONG),
            }
            assert!(began.elapsed() < LONG);
        };
        assert_eq!(reply.unwrap().text, "later");
    });
    use std::future::Future;
}

#[test]
fn failures_keep_their_code_text_and_details() {
    with_stub(&[], |stub, _| {
        let request = Failure { code: 5, text: "no such user".into(), ..Default::default() };
        for error in [stub.fail(&request).unwrap_err(), stub.fail_start(&request).wait().unwrap_err()] {
            let status = error.status().unwrap();
            assert_eq!((status.code(), status.message()), (Code::NotFound, "no such user"));
            assert_eq!(status.details(), [1, 2, 3]);
            assert!(!error.did_not_run());
            let line = error.to_string();
            assert!(line.contains("NOT_FOUND mprpc.tests.EchoService/Fail at 127.0.0.1:"), "{line}");
        }
    });
}

#[test]
fn a_panic_is_an_internal_error_of_its_call_alone() {
    with_stub(&[], |stub, _| {
        for _ in 0..20 {
            assert_eq!(stub.panic(&Nothing::new()).unwrap_err().code(), Code::Internal);
            assert_eq!(stub.echo(&text("alive")).unwrap().text, "alive");
        }
    });
}

#[test]
fn deadlines_end_calls_on_time_and_reach_the_handler() {
    with_stub(&[], |stub, echo| {
        let hasty = stub.with(CallOptions::new().timeout(ms(100)));
        type Form = fn(&EchoServiceRpc_Stub) -> Result<Nothing, Error>;
        let forms: [Form; 2] = [|stub| stub.sleep(&nap(5000)), |stub| stub.sleep_start(&nap(5000)).wait()];
        for form in forms {
            let began = Instant::now();
            let error = form(&hasty).unwrap_err();
            assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
            assert!(began.elapsed() >= ms(100) && began.elapsed() < ms(2000), "{:?}", began.elapsed());
        }
        let began = Instant::now();
        while echo.cancelled.load(Ordering::SeqCst) < 2 {
            assert!(began.elapsed() < LONG, "the server was not told");
            thread::sleep(ms(5));
        }
        let own = stub.hasty(&nap(3000)).unwrap_err();
        assert!(own.to_string().contains("of 200 ms"), "{own}");
        let zero = stub.with(CallOptions::new().timeout(Duration::ZERO)).echo(&text("x")).unwrap_err();
        assert!(zero.did_not_run() && zero.code() == Code::DeadlineExceeded, "{zero}");
    });
}

#[test]
fn cancelling_ends_the_call_here_and_there() {
    with_stub(&[], |stub, echo| {
        let wait_for = |n| {
            let began = Instant::now();
            while echo.cancelled.load(Ordering::SeqCst) < n {
                assert!(began.elapsed() < LONG, "the server was not told");
                thread::sleep(ms(5));
            }
        };
        let begun = |n| {
            let began = Instant::now();
            while echo.ran.load(Ordering::SeqCst) < n {
                assert!(began.elapsed() < LONG);
                thread::sleep(ms(5));
            }
        };
        let pending = stub.sleep_start(&nap(10_000));
        begun(1);
        pending.cancel();
        assert_eq!(pending.wait().unwrap_err().code(), Code::Cancelled);
        wait_for(1);
        // Dropping is cancelling.
        let pending = stub.forget_start(&Nothing::new());
        begun(2);
        drop(pending);
        wait_for(2);
        // A blocking call, cancelled from another thread.
        let mut controller = MprpcController::new();
        let other = controller.clone();
        let canceller = thread::spawn(move || {
            thread::sleep(ms(100));
            other.start_cancel();
        });
        let began = Instant::now();
        let result = stub.controlled_by(&mut controller).sleep(&nap(10_000));
        assert_eq!(result.unwrap_err().code(), Code::Cancelled);
        assert!(began.elapsed() < ms(3000));
        assert!(controller.failed() && controller.is_canceled());
        canceller.join().unwrap();
        wait_for(3);
        controller.reset();
        assert!(stub.controlled_by(&mut controller).echo(&text("again")).is_ok());
        assert!(!controller.failed() && controller.error_text().is_empty());
    });
}

#[test]
fn metadata_and_attachments_reach_the_handler() {
    with_stub(&[], |stub, _| {
        let suffixed = stub.with(CallOptions::new().metadata("suffix", "!"));
        assert_eq!(suffixed.echo(&text("hi")).unwrap().text, "hi!");
        assert_eq!(suffixed.echo_start(&text("ho")).wait().unwrap().text, "ho!");
        let beside = stub.with(CallOptions::new().attachment(vec![9_u8; 100_000]));
        assert_eq!(beside.echo_blob(&Blob::new()).unwrap().data, vec![9; 100_000]);
        assert_eq!(beside.echo_blob_start(&Blob::new()).wait().unwrap().data, vec![9; 100_000]);
    });
}

#[test]
fn what_came_beside_a_response_is_in_the_controller() {
    with_stub(&[], |stub, _| {
        let mut controller = MprpcController::new();
        let controlled = stub.controlled_by(&mut controller);
        for blocking in [true, false] {
            let reply =
                if blocking { controlled.later(&nap(5)) } else { controlled.later_start(&nap(5)).wait() };
            assert_eq!(reply.unwrap().text, "later");
            assert_eq!(controller.response_metadata("slept").unwrap(), b"5");
            assert_eq!(controller.response_attachment(), b"beside");
            controller.reset();
            assert_eq!(controller.response_metadata("slept"), None);
        }
        controller.set_failed("as C++ code does");
        assert!(controller.failed());
        assert_eq!(controller.error_text(), "as C++ code does");
    });
}

#[test]
fn large_messages_pass_and_too_large_ones_name_the_setting() {
    with_stub(&[("max_body", "2M")], |stub, _| {
        let blob = |n| Blob { data: vec![5; n], ..Default::default() };
        for n in [0, 1, 65_535, 65_536, 1 << 20] {
            assert_eq!(stub.echo_blob(&blob(n)).unwrap().data.len(), n);
            assert_eq!(stub.echo_blob_start(&blob(n)).wait().unwrap().data.len(), n);
        }
        let big = stub.echo_blob(&blob(3 << 20)).unwrap_err();
        assert_eq!(big.code(), Code::ResourceExhausted);
        assert!(big.to_string().contains("max_body"), "{big}");
        let reply = Blob { reply_bytes: 3 << 20, ..Default::default() };
        let big = stub.echo_blob(&reply).unwrap_err();
        assert!(big.to_string().contains("max_body"), "{big}");
        assert!(stub.echo(&text("still here")).is_ok());
    });
}

#[test]
fn nobody_at_the_address_is_unavailable_and_did_not_run() {
    let app = app(&[]);
    let (provider, _) = serve(&app);
    let addr = provider.addr();
    provider.stop().unwrap();
    let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(&app, [addr]));
    for error in [stub.echo(&text("x")).unwrap_err(), stub.echo_start(&text("x")).wait().unwrap_err()] {
        assert_eq!(error.code(), Code::Unavailable, "{error}");
        assert!(error.did_not_run(), "{error}");
        assert!(error.to_string().contains(&addr.to_string()), "{error}");
    }
}

#[test]
fn a_call_that_finds_nobody_says_who_was_asked() {
    let stub = EchoServiceRpc_Stub::new(MprpcChannel::new(&app(&[])).unwrap());
    let error = stub.echo(&text("x")).unwrap_err().to_string();
    let said =
        "nobody serves mprpc.tests.EchoService/Echo, says the configuration (no file: -i FILE names one)";
    assert!(error.contains(said), "{error}");

    let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(&app(&[]), []));
    let error = stub.echo(&text("x")).unwrap_err().to_string();
    assert!(error.contains("says the list of addresses that the program gave"), "{error}");
}

#[test]
fn several_providers_are_used_in_turn_and_a_dead_one_is_avoided() {
    let app = app(&[("balance", "round_robin")]);
    let (one, first) = serve(&app);
    let (two, second) = serve(&app);
    let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(&app, [one.addr(), two.addr()]));
    for _ in 0..20 {
        stub.echo(&text("x")).unwrap();
        stub.echo_start(&text("x")).wait().unwrap();
    }
    let ran = |echo: &Echo| echo.ran.load(Ordering::SeqCst);
    assert_eq!((ran(&first), ran(&second)), (20, 20));
    one.stop().unwrap();
    for _ in 0..20 {
        stub.echo(&text("x")).unwrap();
        stub.echo_start(&text("x")).wait().unwrap();
    }
    assert_eq!((ran(&first), ran(&second)), (20, 60));
}

#[test]
fn a_provider_that_restarts_is_found_again() {
    let app = app(&[]);
    let (provider, _) = serve(&app);
    let addr = provider.addr();
    let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(&app, [addr]));
    stub.echo(&text("x")).unwrap();
    stub.echo_start(&text("x")).wait().unwrap();
    for _ in 0..3 {
        drop(stub.echo(&text("x")));
    }
    provider.stop().unwrap();
    let mut provider = mprpc_runtime::RpcProvider::new(&app);
    provider.bind(addr);
    provider.notify_service(EchoServiceRpc::service(Echo::default())).unwrap();
    let running = provider.start().unwrap();
    assert_eq!(stub.echo(&text("back")).unwrap().text, "back");
    assert_eq!(stub.echo_start(&text("back")).wait().unwrap().text, "back");
    running.stop().unwrap();
}

#[test]
fn a_full_worker_queue_refuses_and_says_so() {
    with_stub(&[("worker_threads", "1"), ("max_queue", "2")], |stub, _| {
        let pending: Vec<_> = (0..50).map(|_| stub.sleep_start(&nap(100))).collect();
        let errors: Vec<Error> = pending.into_iter().filter_map(|pending| pending.wait().err()).collect();
        assert!(!errors.is_empty());
        for error in errors {
            assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
            assert!(error.did_not_run() && error.to_string().contains("max_queue"), "{error}");
        }
    });
}

#[test]
fn blocked_handlers_do_not_keep_sleeping_workers_from_the_next_calls() {
    with_stub(&[("worker_threads", "8")], |stub, _| {
        // Short calls first: the pool believes that few workers are enough.
        for _ in 0..200 {
            stub.echo(&text("x")).unwrap();
        }
        let began = Instant::now();
        let naps: Vec<_> = (0..8).map(|_| stub.sleep_start(&nap(1000))).collect();
        for nap in naps {
            nap.wait().unwrap();
        }
        // One after the other on two cores would take four seconds at least.
        assert!(began.elapsed() < ms(3500), "{:?}", began.elapsed());
    });
}

#[test]
fn calls_in_flight_survive_a_drain() {
    let app = app(&[]);
    let (provider, _) = serve(&app);
    let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(&app, [provider.addr()]));
    let slow = stub.clone();
    let blocking = thread::spawn(move || slow.sleep(&nap(300)));
    let pending = stub.sleep_start(&nap(300));
    thread::sleep(ms(100));
    provider.stop().expect("nothing is cut");
    blocking.join().unwrap().unwrap();
    pending.wait().unwrap();
}

#[test]
fn the_legacy_wire_serves_the_same_service() {
    for protocol in ["legacy", "legacy-be", "legacy-varint"] {
        let server = app(&[]);
        let (provider, _) = serve(&server);
        let port = provider.addr().port().to_string();
        let quiet = if protocol == "legacy-varint" { "quiet" } else { "eof" };
        let caller = app(&[("rpcserverport", &port), ("protocol", protocol), ("legacy_end", quiet)]);
        let stub = EchoServiceRpc_Stub::new(MprpcChannel::new(&caller).unwrap());
        for n in 0..5 {
            let said = format!("legacy {n}");
            assert_eq!(stub.echo(&text(&said)).unwrap().text, said, "{protocol}");
            assert_eq!(stub.echo_start(&text(&said)).wait().unwrap().text, said, "{protocol}");
        }
        let big = Blob { data: vec![3; 200_000], ..Default::default() };
        assert_eq!(stub.echo_blob(&big).unwrap().data.len(), 200_000);
        let failed = stub.fail(&Failure { code: 5, ..Default::default() }).unwrap_err();
        assert_eq!(failed.code(), Code::Unavailable, "{failed}");
        assert!(!failed.did_not_run());
    }
}

#[test]
fn the_in_process_channel_needs_no_port() {
    let stub = EchoServiceRpc_Stub::new(InProcessChannel::new(EchoServiceRpc::service(Echo::default())));
    assert_eq!(stub.echo(&text("near")).unwrap().text, "near");
    assert_eq!(stub.echo_start(&text("near")).wait().unwrap().text, "near");
    assert_eq!(stub.later(&nap(10)).unwrap().text, "later");
    assert_eq!(stub.fail(&Failure { code: 5, ..Default::default() }).unwrap_err().code(), Code::NotFound);
    assert_eq!(stub.panic(&Nothing::new()).unwrap_err().code(), Code::Internal);
}

#[test]
fn a_service_notified_twice_and_a_provider_without_services_are_errors() {
    let app = app(&[]);
    let mut provider = mprpc_runtime::RpcProvider::new(&app);
    provider.notify_service(EchoServiceRpc::service(Echo::default())).unwrap();
    let twice = provider.notify_service(EchoServiceRpc::service(Echo::default())).unwrap_err();
    assert!(twice.to_string().contains("twice"), "{twice}");
    let empty = mprpc_runtime::RpcProvider::new(&app).start().err().unwrap();
    assert!(empty.to_string().contains("notify_service"), "{empty}");
}

#[test]
fn one_cancelled_future_does_not_end_its_siblings() {
    with_stub(&[], |stub, _| {
        let token = CancelToken::new();
        let stub = stub.with(CallOptions::new().cancel_with(token.clone()));
        let (one, two) = (stub.sleep_start(&nap(300)), stub.sleep_start(&nap(300)));
        drop(one);
        two.wait().expect("only its sibling was dropped");
        let (one, two) = (stub.sleep_start(&nap(5000)), stub.sleep_start(&nap(5000)));
        token.cancel();
        for pending in [one, two] {
            assert_eq!(pending.wait().unwrap_err().code(), Code::Cancelled);
        }
    });
}

#[test]
fn a_blocking_call_to_a_peer_that_reads_nothing_ends_in_time() {
    let app = app(&[("max_body", "128M")]);
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(&app, [deaf.local_addr().unwrap()]));
    // More than the buffers of both sides hold.
    let big = Blob { data: vec![1; 64 << 20], ..Default::default() };
    let began = Instant::now();
    let error = stub.with(CallOptions::new().timeout(ms(300))).echo_blob(&big).unwrap_err();
    assert!(matches!(error.code(), Code::DeadlineExceeded | Code::Unavailable), "{error}");
    assert!(began.elapsed() < ms(3000), "{:?}", began.elapsed());
}

#[test]
fn the_configured_timeout_holds_for_futures_and_batches_too() {
    with_stub(&[("timeout", "300ms")], |stub, _| {
        let error = stub.sleep_start(&nap(5000)).wait().unwrap_err();
        assert!(error.to_string().contains("of 300 ms"), "{error}");
    });
    with_stub(&[("timeout", "20s")], |stub, _| {
        assert!(stub.sleep_start(&nap(5600)).wait().is_ok(), "longer than the default of 5 s");
    });
}

/// Waits for what another thread does.
fn until(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < LONG, "{what}");
        thread::sleep(ms(2));
    }
}

type Sleep = fn(&EchoServiceRpc_Stub, u32) -> Result<Nothing, Error>;
const SLEEPS: [Sleep; 2] = [|stub, n| stub.sleep(&nap(n)), |stub, n| stub.sleep_start(&nap(n)).wait()];

/// Whether the server's word is in an error. It is waited for a hundredth of a second, in which a busy
/// machine may run neither side.
fn has_the_servers_word(error: &Error) -> bool {
    assert_eq!(error.code(), Code::DeadlineExceeded);
    let Error::Call(call) = error else { panic!("{error}") };
    call.stages.as_ref().is_some_and(|stages| stages.server.is_some())
}

#[test]
fn an_error_at_the_deadline_says_where_the_time_went() {
    with_stub(&[("worker_threads", "1")], |stub, echo| {
        let hasty = stub.with(CallOptions::new().timeout(ms(300)));
        for sleep in SLEEPS {
            let attempt = || {
                let running = echo.cancelled.load(Ordering::SeqCst);
                let error = sleep(&hasty, 10_000).unwrap_err();
                assert!(!error.did_not_run());
                // The handler was told, too.
                until("the handler saw its deadline", || echo.cancelled.load(Ordering::SeqCst) > running);
                has_the_servers_word(&error).then_some(error)
            };
            let error = (0..20).find_map(|_| attempt()).expect("the server's word");
            let line = error.to_string();
            for part in [
                "attempt 1/",
                " of 300 ms (resolve ",
                ", queue ",
                ", connect ",
                ", wire ",
                " behind 0, handler ",
            ] {
                assert!(line.contains(part), "no {part:?} in {line}");
            }
            assert!(line.contains(" unfinished)"), "{line}");
        }
        let (ran, cancelled) = (echo.ran.load(Ordering::SeqCst), echo.cancelled.load(Ordering::SeqCst));
        let first = stub.sleep_start(&nap(10_000));
        until("the worker is busy", || echo.ran.load(Ordering::SeqCst) > ran);
        let mut waiting = 0;
        for sleep in SLEEPS {
            let mut attempt = || {
                waiting += 1;
                sleep(&hasty, 1).unwrap_err()
            };
            let error = (0..20).map(|_| attempt()).find(has_the_servers_word).expect("the server's word");
            let line = error.to_string();
            assert!(error.did_not_run(), "{line}");
            let Error::Call(call) = error else { panic!("{line}") };
            let server = call.stages.and_then(|stages| stages.server).expect("the server's word");
            assert!(
                server.queue >= ms(200) && server.behind == waiting - 1 && server.handler.is_none(),
                "{line}"
            );
        }
        drop(first);
        until("the worker is free", || echo.cancelled.load(Ordering::SeqCst) > cancelled);
        stub.echo(&text("after")).unwrap();
        assert_eq!(echo.ran.load(Ordering::SeqCst), ran + 2, "what expired in the queue did not run");
    });
}

#[test]
fn a_controller_and_interceptors_hear_where_the_time_of_a_good_call_went() {
    struct Times(mpsc::Sender<Stages>);
    impl ClientInterceptor for Times {
        fn ended(&self, call: &Ended<'_>) {
            self.0.send(call.stages.expect("an attempt").clone()).unwrap();
        }
    }
    with_stub(&[], |stub, _| {
        let (tell, told) = mpsc::channel();
        let stub = stub.intercept(Times(tell));
        let mut controller = MprpcController::new();
        let controlled = stub.controlled_by(&mut controller);
        for sleep in SLEEPS {
            sleep(&controlled, 20).unwrap();
            let stages = controller.stages().expect("a call was made");
            assert_eq!(told.recv_timeout(LONG).unwrap(), stages);
            let server = stages.server.expect("long enough to be told");
            assert!(server.handler.is_some_and(|took| took >= ms(20)) && !server.unfinished, "{server:?}");
        }
    });
}

#[test]
fn an_interceptor_that_panics_at_the_end_of_a_call_does_not_keep_its_result() {
    struct Panics;
    impl ClientInterceptor for Panics {
        fn ended(&self, _: &Ended<'_>) {
            panic!("planted");
        }
    }
    with_stub(&[], |stub, _| {
        let (tell, told) = mpsc::channel();
        stub.intercept(Panics).echo_async(&text("a"), move |result| tell.send(result.is_ok()).unwrap());
        assert!(told.recv_timeout(LONG).expect("the call ends"));
    });
}

#[test]
fn start_cancel_ends_callbacks_and_what_waits_in_the_queue_does_not_run() {
    with_stub(&[("worker_threads", "1")], |stub, echo| {
        let (tell, told) = mpsc::channel();
        let start = |controller: &mut MprpcController| {
            let tell = tell.clone();
            stub.controlled_by(controller)
                .sleep_async(&nap(10_000), move |result| tell.send(result.unwrap_err().code()).unwrap());
        };
        let (mut runs, mut waits) = (MprpcController::new(), MprpcController::new());
        start(&mut runs);
        until("one runs", || echo.ran.load(Ordering::SeqCst) == 1);
        start(&mut waits);
        start(&mut waits);
        // The server hears of them in this order: the worker is free only when there is nothing left to run.
        waits.start_cancel();
        runs.start_cancel();
        for _ in 0..3 {
            assert_eq!(told.recv_timeout(LONG).unwrap(), Code::Cancelled);
        }
        until("the handler was told", || echo.cancelled.load(Ordering::SeqCst) == 1);
        stub.echo(&text("after them")).unwrap();
        assert_eq!(echo.ran.load(Ordering::SeqCst), 2, "only the first and the last ran");
    });
}

#[test]
fn a_caller_that_goes_away_cancels_its_calls() {
    let server = app(&[("worker_threads", "1")]);
    let (provider, echo) = serve(&server);
    let caller = app(&[]);
    let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(&caller, [provider.addr()]));
    for _ in 0..2 {
        stub.sleep_async(&nap(10_000), |_| {});
    }
    until("one runs", || echo.ran.load(Ordering::SeqCst) == 1);
    drop((stub, caller));
    until("the handler was told", || echo.cancelled.load(Ordering::SeqCst) == 1);
    let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(&server, [provider.addr()]));
    stub.echo(&text("after it")).unwrap();
    assert_eq!(echo.ran.load(Ordering::SeqCst), 2, "what waited did not run");
    provider.stop().unwrap();
}

#[test]
fn a_handler_that_returns_its_response_can_send_more_beside_it() {
    with_stub(&[], |stub, _| {
        let mut controller = MprpcController::new();
        let asked = stub.with(CallOptions::new().metadata("tell", "answer"));
        let asked = asked.controlled_by(&mut controller);
        asked.echo_blob(&Blob::new()).unwrap();
        assert_eq!(controller.response_metadata("answer").unwrap(), b"told");
        assert_eq!(controller.response_attachment(), b"beside");
        // A key that may not be sent fails its call, at either sender, and says so.
        let wrong = stub.with(CallOptions::new().metadata("tell", "no key"));
        let error = wrong.echo_blob(&Blob::new()).unwrap_err();
        assert_eq!(error.code(), Code::Internal);
        assert!(error.to_string().contains("\"no key\""), "{error}");
        let error = stub.with(CallOptions::new().metadata("no key", "")).echo(&text("x")).unwrap_err();
        assert!(error.did_not_run() && error.to_string().contains("\"no key\""), "{error}");
        stub.echo(&text("still here")).unwrap();
    });
}

#[test]
fn interceptors_of_a_server_see_peer_and_metadata_may_refuse_and_may_panic() {
    struct Guard(mpsc::Sender<(Code, bool)>);
    impl ServerInterceptor for Guard {
        fn arrived(&self, call: &mut Arrived<'_>) -> Result<(), Status> {
            assert!(call.metadata.get("panic").is_none(), "planted");
            if call.metadata.get("user").is_none() {
                return Err(Status::new(Code::PermissionDenied, "who?"));
            }
            call.metadata.set("suffix", "?");
            Ok(())
        }
        fn answered(&self, call: &Answered<'_>) {
            self.0.send((call.code(), call.peer.is_some())).unwrap();
        }
    }
    let app = app(&[]);
    let mut provider = mprpc_runtime::RpcProvider::new(&app);
    let (tell, told) = mpsc::channel();
    provider.intercept(Guard(tell));
    provider.notify_service(EchoServiceRpc::service(Echo::default())).unwrap();
    let provider = provider.start().unwrap();
    let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(&app, [provider.addr()]));
    let user = stub.with(CallOptions::new().metadata("user", "gao"));
    assert_eq!(user.echo(&text("hi")).unwrap().text, "hi?");
    assert_eq!(told.recv_timeout(LONG).unwrap(), (Code::Ok, true));
    let failure = Failure { code: 5, ..Default::default() };
    assert_eq!(user.fail_start(&failure).wait().unwrap_err().code(), Code::NotFound);
    assert_eq!(told.recv_timeout(LONG).unwrap(), (Code::NotFound, true));
    assert_eq!(stub.echo(&text("hi")).unwrap_err().code(), Code::PermissionDenied);
    let panics = stub.with(CallOptions::new().metadata("panic", ""));
    assert_eq!(panics.echo(&text("hi")).unwrap_err().code(), Code::Internal);
    assert_eq!(user.echo(&text("ho")).unwrap().text, "ho?");
    assert_eq!(told.recv_timeout(LONG).unwrap(), (Code::Ok, true));
    assert!(told.try_recv().is_err(), "of refused calls the one that refuses hears no more");
    provider.stop().unwrap();
}

#[test]
fn calls_in_process_end_at_their_deadline_and_by_cancel() {
    let echo = Arc::new(Echo::default());
    let stub = EchoServiceRpc_Stub::new(InProcessChannel::new(EchoServiceRpc::service(echo.clone())));
    let zero = stub.with(CallOptions::new().timeout(Duration::ZERO)).echo(&text("x")).unwrap_err();
    assert!(zero.did_not_run() && zero.code() == Code::DeadlineExceeded, "{zero}");
    assert_eq!(echo.ran.load(Ordering::SeqCst), 0);
    // An answer that never comes.
    let hasty = stub.with(CallOptions::new().timeout(ms(100)));
    let began = Instant::now();
    let (tell, told) = mpsc::channel();
    hasty.forget_async(&Nothing::new(), move |result| tell.send(result.unwrap_err().code()).unwrap());
    assert_eq!(told.recv_timeout(LONG).unwrap(), Code::DeadlineExceeded);
    assert!(began.elapsed() >= ms(100) && began.elapsed() < ms(2000), "{:?}", began.elapsed());
    let pending = stub.forget_start(&Nothing::new());
    pending.cancel();
    assert_eq!(pending.wait().unwrap_err().code(), Code::Cancelled);
    assert_eq!(stub.later(&nap(10)).unwrap().text, "later");
}

#[test]
fn a_legacy_call_that_is_cut_when_the_provider_stops_is_reset() {
    let (provider, _) = serve(&app(&[("drain_timeout", "300ms")]));
    let mut peer = TcpStream::connect(provider.addr()).unwrap();
    let mut request = Vec::new();
    legacy::write_request_head(&mut request, Dialect::LittleEndian, "EchoService", "Forget", 0);
    peer.write_all(&request).unwrap();
    thread::sleep(Duration::from_millis(50));
    provider.stop().unwrap_err();
    let error = peer.read(&mut [0]).expect_err("an empty answer would pass for a message of defaults");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}
