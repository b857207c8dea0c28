//! Callers and configurations that are wrong: refused where they are, by name, and the connection lives.

use std::time::{Duration, Instant};

use mprpc_runtime::{CallOptions, Code, Error, MprpcChannel, MprpcConfig};
use mprpc_tests::{
    echo,
    proto::{
        echo::{Blob, Text},
        echo_mprpc::EchoServiceRpc_Stub,
    },
};

use crate::{
    row::{Outcome, Row},
    stage::Stage,
};

pub(crate) const ROW: Row = Row {
    name: "bad-input",
    wanted: "value, limit and setting named, at once; the next call on the connection is answered",
    limit: Duration::from_secs(30),
    run,
};

/// How a call is made.
type Make = fn(&EchoServiceRpc_Stub) -> Result<(), Error>;

/// What is done wrong, the code it gets, and words that its error must have.
const CALLS: [(&str, Make, Code, &[&str]); 7] = [
    (
        "a timeout of zero",
        |stub| stub.with(CallOptions::new().timeout(Duration::ZERO)).echo(&text(3)).map(drop),
        Code::DeadlineExceeded,
        &["timeout of 0"],
    ),
    (
        "a body over the caller's limit",
        |stub| stub.echo_blob(&blob(200_000)).map(drop),
        Code::ResourceExhausted,
        &["200004 bytes", "max_body", "131072"],
    ),
    (
        "a body over the callee's limit",
        |stub| stub.echo_blob(&blob(100_000)).map(drop),
        Code::ResourceExhausted,
        &["100004 bytes", "max_body", "65536"],
    ),
    (
        "a reply over the limit",
        |stub| stub.echo_blob(&Blob { reply_bytes: 300_000, ..Default::default() }).map(drop),
        Code::ResourceExhausted,
        &["max_body", "131072"],
    ),
    (
        "too much metadata",
        |stub| stub.with(CallOptions::new().metadata("key", vec![1; 70_000])).echo(&text(3)).map(drop),
        Code::InvalidArgument,
        &["metadata", "70", "max_header"],
    ),
    (
        "a metadata key with a line feed",
        |stub| stub.with(CallOptions::new().metadata("a\nb", "value")).echo(&text(3)).map(drop),
        Code::InvalidArgument,
        &["key"],
    ),
    (
        "a metadata key without end",
        |stub| stub.with(CallOptions::new().metadata("k".repeat(5000), "value")).echo(&text(3)).map(drop),
        Code::InvalidArgument,
        &["key"],
    ),
];

/// Settings that are wrong.
const SETTINGS: [(&str, &str); 5] =
    [("balance", "fastest"), ("weight", "1000000"), ("weight", "-1"), ("timeout", "0"), ("max_body", "12x")];

fn run(stage: &Stage) -> Outcome {
    let mut outcome = Outcome::default();
    let callee = echo::app(&[("max_body", "64k"), ("log_level", "off")]);
    let caller = echo::app(&[("max_body", "128k"), ("log_level", "off")]);
    let (good, _) = echo::serve(&callee);
    let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(&caller, [good.addr()]));
    for (what, make, code, words) in CALLS {
        stage.say(what);
        let began = Instant::now();
        let (result, took) = (make(&stub), began.elapsed());
        let text = result.as_ref().err().map(Error::to_string).unwrap_or_default();
        let named = words.iter().all(|word| text.contains(word));
        if result.map_err(|error| error.code()) != Err(code) || !named {
            outcome.check(false, format!("{what}: {code} with {words:?} is wanted, not: {text}"));
        }
        if took > Duration::from_millis(250) {
            outcome.check(false, format!("{what} takes {took:?}"));
        }
        if let Err(error) = stub.echo(&self::text(3)) {
            outcome.check(false, format!("the call after {what}: {error}"));
        }
    }
    for (key, value) in SETTINGS {
        stage.say(format!("{key} = {value}"));
        let text =
            MprpcConfig::default().with(key, value).err().map(|error| error.to_string()).unwrap_or_default();
        if !text.contains(key) || !text.contains(value) {
            outcome.check(false, format!("{key} = {value} is not refused by name: {text:?}"));
        }
    }
    outcome.check(true, format!("{} calls, {} settings", CALLS.len(), SETTINGS.len()));
    outcome
}

fn text(len: usize) -> Text {
    Text { text: "x".repeat(len), ..Default::default() }
}

fn blob(len: usize) -> Blob {
    Blob { data: vec![1; len], ..Default::default() }
}
