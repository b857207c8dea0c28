//! The load side: asynchronous calls whose callback makes the next one, or threads with blocking calls.

use bench_load::{Job, Load, NAME, PWD, clock, login_is_right};
use mprpc_runtime::{Error, MprpcApplication, MprpcChannel};

use crate::{
    Field, field,
    proto::{
        bench::{EchoRequest, EchoResponse, LoginRequest, LoginResponse},
        bench_mprpc::BenchRpc_Stub,
    },
};

pub(crate) fn run(app: &MprpcApplication, load: Load) -> Result<(), Error> {
    let payload = Field::from(load.scenario.job.payload());
    let dial = || match MprpcChannel::new(app) {
        Ok(channel) => BenchRpc_Stub::new(channel),
        Err(error) => load.fail(error),
    };
    if load.scenario.threads > 0 || load.scenario.per_call {
        // The threads share the channel, which keeps a connection for each that is calling, or, for calls that are
        // started and waited for, one for all.
        let (stub, shared) = (dial(), load.options.is("callers", "shared"));
        load.run_threads(|| {
            let stub = stub.clone();
            move || {
                let request = login();
                login_answer(&if shared { stub.login_start(&request).wait() } else { stub.login(&request) })
            }
        });
    }
    let idle = load.open_idle(|| {
        let stub = dial();
        if let Err(why) = login_answer(&stub.login_start(&login()).wait()) {
            load.fail(why);
        }
        stub
    });
    // A channel has one connection for asynchronous calls to an address.
    let caller = |_| Caller { stub: dial(), load: load.clone(), payload: payload.clone() };
    // They are needed until the process ends.
    let callers: &'static [Caller] = Vec::leak((0..load.scenario.connections).map(caller).collect());
    load.begin();
    for caller in callers {
        (0..load.scenario.in_flight).for_each(|_| caller.next(clock::now()));
    }
    let _held = idle;
    bench_load::park()
}

/// Keeps calls going on one connection.
struct Caller {
    stub: BenchRpc_Stub,
    load: Load,
    payload: Field,
}

impl Caller {
    fn next(&'static self, start: u64) {
        match self.load.scenario.job {
            Job::Login => {
                self.stub.login_async(&login(), move |result| self.done(start, login_answer(&result)))
            }
            Job::Echo(_) => {
                let request = EchoRequest { payload: self.payload.clone(), ..Default::default() };
                self.stub.echo_async(&request, move |result| {
                    self.done(start, echo_answer(&result, &self.payload));
                });
            }
        }
    }

    fn done(&'static self, start: u64, answer: Result<(), String>) {
        match answer {
            Err(why) => self.load.fail(why),
            Ok(()) if self.load.stopped() => {}
            Ok(()) => {
                let now = clock::now();
                self.load.record_at(start, now);
                self.next(now);
            }
        }
    }
}

fn login() -> LoginRequest {
    LoginRequest { name: field(NAME), pwd: field(PWD), ..Default::default() }
}

fn login_answer(result: &Result<LoginResponse, Error>) -> Result<(), String> {
    match result {
        Err(error) => Err(error.to_string()),
        Ok(answer) if login_is_right(answer.result.errcode, &answer.result.errmsg, answer.success) => Ok(()),
        Ok(_) => Err("a wrong answer".into()),
    }
}

fn echo_answer(result: &Result<EchoResponse, Error>, payload: &Field) -> Result<(), String> {
    match result {
        Err(error) => Err(error.to_string()),
        Ok(answer) if answer.payload == *payload => Ok(()),
        Ok(_) => Err("a wrong answer".into()),
    }
}
