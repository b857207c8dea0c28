//! Large fields of type `Bytes`: they leave without a copy, arrive whole, and are let go once they are out.
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows only functions marked #[test]; in their helpers a panic is a report too"
)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use mprpc_runtime::{
    CallOptions, Controller, MprpcChannel, MprpcController, RpcProvider, RunningProvider, Status,
    wire::mux::{END, HEADER_LEN, Header, Hello, Kind, RequestMeta, finish_frame, start_frame},
};
use mprpc_tests::{
    bytes_proto::{
        echo::Blob,
        echo_mprpc::{EchoServiceRpc, EchoServiceRpc_Stub},
    },
    echo::app,
};
use protobuf::Message;

const LONG: Duration = Duration::from_secs(30);
const MIB: usize = 1 << 20;

/// Echoes blobs, or answers with as many bytes of its own as it is asked for.
#[derive(Default)]
struct Blobs {
    own: Mutex<Vec<Arc<AtomicBool>>>,
    refuse: AtomicUsize,
}

impl Blobs {
    /// Whether the bytes of each answer are still needed.
    fn needed(&self) -> Vec<bool> {
        self.own.lock().unwrap().iter().map(|needed| needed.load(SeqCst)).collect()
    }
}

impl EchoServiceRpc for Blobs {
    fn echo_blob(&self, controller: &Controller, mut request: Blob) -> Result<Blob, Status> {
        if self.refuse.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(Status::unavailable("not yet").with_retryable(true));
        }
        if request.reply_bytes > 0 {
            let (own, needed) = watched(request.reply_bytes as usize);
            request.data = own;
            self.own.lock().unwrap().push(needed);
        }
        controller.set_response_attachment(controller.attachment().to_vec());
        Ok(request)
    }
}

/// So many bytes, and whether somebody holds them.
fn watched(n: usize) -> (Bytes, Arc<AtomicBool>) {
    struct Owner(Vec<u8>, Arc<AtomicBool>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Drop for Owner {
        fn drop(&mut self) {
            self.1.store(false, SeqCst);
        }
    }
    let needed = Arc::new(AtomicBool::new(true));
    (Bytes::from_owner(Owner(some(n), needed.clone())), needed)
}

fn some(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i % 251) as u8).collect()
}

fn blob(data: Bytes) -> Blob {
    Blob { data, ..Default::default() }
}

fn serve(inline: bool, settings: &[(&str, &str)]) -> (RunningProvider, Arc<Blobs>, EchoServiceRpc_Stub) {
    let (app, blobs) = (app(settings), Arc::new(Blobs::default()));
    let mut provider = RpcProvider::new(&app);
    provider.bind(SocketAddr::from(([127, 0, 0, 1], 0)));
    let service = EchoServiceRpc::service(blobs.clone());
    let notified = if inline { provider.notify_inline(service) } else { provider.notify_service(service) };
    notified.unwrap();
    let provider = provider.start().unwrap();
    let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(&app, [provider.addr()]));
    (provider, blobs, stub.with(CallOptions::new().timeout(LONG)))
}

/// Appends a request.
fn ask(bytes: &mut Vec<u8>, call: u64, request: &Blob) {
    let meta = RequestMeta { service: "mprpc.tests.EchoService", method: "EchoBlob", ..Default::default() };
    let start = start_frame(bytes, Kind::Request, END, call, |out| meta.encode(out));
    request.write_to_vec(bytes).unwrap();
    finish_frame(bytes, start);
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < LONG, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn fields_of_every_size_come_back_whole_many_at_once() {
    for inline in [true, false] {
        let (_provider, _, stub) = serve(inline, &[("max_output", "32M")]);
        let sizes = [0, 1, 8191, 8192, 65_535, 65_536, 65_537, 200_000, MIB, 4_000_000, 3];
        let fields: Vec<Bytes> = sizes.map(|n| some(n).into()).into();
        let calls: Vec<_> =
            fields.iter().cycle().take(33).map(|data| stub.echo_blob_start(&blob(data.clone()))).collect();
        for (call, sent) in calls.into_iter().zip(fields.iter().cycle()) {
            assert!(call.wait().unwrap().data == sent, "{} bytes", sent.len());
        }
        for sent in fields {
            assert!(stub.echo_blob(&blob(sent.clone())).unwrap().data == sent, "{} bytes", sent.len());
        }
    }
}

#[test]
fn an_attachment_follows_the_field_and_a_request_that_is_repeated_is_whole() {
    let (_provider, blobs, stub) = serve(false, &[]);
    for attachment in [1000, 300_000] {
        let sent = Bytes::from(some(MIB));
        let mut controller = MprpcController::new();
        let stub = stub
            .with(CallOptions::new().timeout(LONG).attachment(some(attachment)))
            .controlled_by(&mut controller);
        blobs.refuse.store(1, SeqCst);
        let answer = stub.echo_blob_start(&blob(sent.clone())).wait().unwrap();
        assert!(answer.data == sent && controller.response_attachment() == some(attachment));
        assert_eq!(blobs.refuse.swap(1, SeqCst), 0);
        assert!(stub.echo_blob(&blob(sent.clone())).unwrap().data == sent);
        assert_eq!(blobs.refuse.load(SeqCst), 0);
    }
}

#[test]
fn one_value_in_two_fields_and_one_of_either_kind_come_back_whole() {
    for inline in [true, false] {
        let (_provider, _, stub) = serve(inline, &[]);
        let (data, raw) = (Bytes::from(some(MIB)), Bytes::from(some(100_000)));
        let mut sent = Blob { data: data.clone(), again: data, ..Default::default() };
        for n in 0..3 {
            match n {
                0 => {}
                1 => sent.set_raw(raw.clone()),
                _ => sent.set_raw(sent.data.clone()),
            }
            assert!(stub.echo_blob(&sent).unwrap() == sent, "{n}");
            assert!(stub.echo_blob_start(&sent).wait().unwrap() == sent, "{n}");
        }
    }
}

#[test]
fn an_answer_that_is_half_out_leaves_whole_though_its_call_is_cancelled_or_the_server_stops() {
    for inline in [true, false] {
        let (provider, blobs, _) = serve(inline, &[("max_output", "100M"), ("max_body", "64M")]);
        let mut peer = TcpStream::connect(provider.addr()).unwrap();
        peer.set_read_timeout(Some(LONG)).unwrap();
        let mut bytes = Vec::new();
        Hello { version: 1, instance: 42, ..Default::default() }.write(&mut bytes);
        // The first is more than the socket takes.
        let sizes = [16 * MIB, 200_000];
        for (call, size) in (1..).zip(sizes) {
            ask(&mut bytes, call, &Blob { reply_bytes: size as u32, ..Default::default() });
            peer.write_all(&std::mem::take(&mut bytes)).unwrap();
            until("the call ran", || blobs.needed().len() == call as usize);
        }
        for call in [1, 2] {
            let start = start_frame(&mut bytes, Kind::Cancel, 0, call, |_| {});
            finish_frame(&mut bytes, start);
        }
        peer.write_all(&bytes).unwrap();
        thread::sleep(Duration::from_millis(50));
        let stopping = thread::spawn(move || provider.stop());
        thread::sleep(Duration::from_millis(50));
        let mut sent = Vec::new();
        peer.read_to_end(&mut sent).unwrap();
        drop(peer);
        stopping.join().unwrap().unwrap();
        let (mut rest, mut lens) = (&sent[..], Vec::new());
        while !rest.is_empty() {
            let header =
                Header::decode(rest.first_chunk::<HEADER_LEN>().expect("a whole header")).unwrap().unwrap();
            let (frame, others) = rest.split_at_checked(header.frame_len()).expect("a whole frame");
            rest = others;
            if header.kind == Kind::Response as u8 {
                let body = &frame[HEADER_LEN + usize::from(header.meta_len)..];
                let blob = Blob::parse_from_bytes(body).unwrap();
                assert!(blob.data == some(blob.data.len()));
                lens.push(blob.data.len());
            }
        }
        assert_eq!(lens[0], sizes[0], "it was half out");
        until("the peer has all", || blobs.needed() == [false; 2]);
    }
}

#[test]
fn a_request_is_let_go_when_its_call_has_ended() {
    let (_provider, _, stub) = serve(true, &[]);
    let (data, needed) = watched(MIB);
    let call = stub.echo_blob_start(&blob(data));
    assert_eq!(call.wait().unwrap().data, some(MIB));
    until("nobody needs the request", || !needed.load(SeqCst));
    let (data, needed) = watched(MIB);
    assert_eq!(stub.echo_blob(&blob(data)).unwrap().data, some(MIB));
    until("nobody needs the request", || !needed.load(SeqCst));
}

#[test]
fn an_answer_is_held_until_the_peer_has_it_unless_its_request_or_what_is_beside_it_is_large() {
    for inline in [true, false] {
        let settings = [("max_output", "100M"), ("max_body", "64M"), ("request_timeout", "60s")];
        let (provider, blobs, _) = serve(inline, &settings);
        let mut peer = TcpStream::connect(provider.addr()).unwrap();
        let mut bytes = Vec::new();
        Hello { version: 1, instance: 42, ..Default::default() }.write(&mut bytes);
        // The first one is more than the socket takes, so the others wait behind it.
        let requests = [
            (0, 16 * MIB, 0),
            (MIB, 200_000, 0),
            (100_000, 200_000, 3000),
            (0, 200_000, 0),
            (0, 200_000, 5000),
        ];
        for (call, (data, reply, beside)) in (1..).zip(requests) {
            let mut request =
                Blob { data: some(data).into(), reply_bytes: reply as u32, ..Default::default() };
            request.mut_unknown_fields().add_length_delimited(100, some(beside));
            ask(&mut bytes, call, &request);
            // One after the other, for the workers would run them at once.
            peer.write_all(&std::mem::take(&mut bytes)).unwrap();
            until("the call ran", || blobs.needed().len() == call as usize);
        }
        let held = [true, false, true, true, false];
        until("two are copied", || blobs.needed() == held);
        thread::sleep(Duration::from_millis(50));
        assert_eq!(blobs.needed(), held);
        let mut lens: Vec<usize> = Vec::new();
        while lens.len() < requests.len() {
            let mut header = [0; HEADER_LEN];
            peer.read_exact(&mut header).unwrap();
            let header = Header::decode(&header).unwrap().unwrap();
            let mut body = vec![0; header.frame_len() - HEADER_LEN];
            peer.read_exact(&mut body).unwrap();
            if header.kind == Kind::Response as u8 {
                let blob = Blob::parse_from_bytes(&body).unwrap();
                assert!(blob.data == some(blob.data.len()));
                lens.push(blob.data.len());
            }
        }
        assert_eq!(lens, requests.map(|(_, reply, _)| reply));
        until("the peer has all", || blobs.needed() == [false; 5]);
    }
}
