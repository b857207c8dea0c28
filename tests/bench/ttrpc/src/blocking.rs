//! The blocking interface: a thread for every call that is under way.

use std::{error::Error, net::SocketAddr, sync::Arc};

use bench_load::{Job, Load, NAME, OK, PWD, login_is_right};
use protobuf::MessageField;
use ttrpc::{TtrpcContext, context::Context};

crate::generated!("blocking");

use generated::{
    bench::{EchoRequest, EchoResponse, LoginRequest, LoginResponse, ResultCode},
    bench_ttrpc::{Bench, BenchClient, create_bench},
};

pub(crate) fn serve(addr: SocketAddr) -> Result<(), Box<dyn Error>> {
    let server = ttrpc::Server::new().bind(&format!("tcp://{addr}"))?;
    let mut server = server.register_service(create_bench(Arc::new(Service)));
    server.start()?;
    bench_load::ready();
    bench_load::park()
}

pub(crate) fn load(mut load: Load) -> ! {
    let scenario = load.scenario;
    let (addr, job, payload) = (load.addr, scenario.job, scenario.job.payload());
    let open = move || match ttrpc::Client::connect(&format!("tcp://{addr}")) {
        Ok(client) => Ok(BenchClient::new(client)),
        Err(error) => Err(error.to_string()),
    };
    let connect = || open().unwrap_or_else(|why| load.fail(why));
    // A client is one connection, which threads share; T has as many connections as the peer itself makes of one client.
    let clients: Vec<_> = (0..scenario.connections).map(|_| connect()).collect();
    if scenario.threads == 0 {
        load.scenario.threads = scenario.connections * scenario.in_flight;
    }
    let mut next = clients.iter().cycle();
    load.run_threads(|| {
        let client = next.next().cloned();
        let payload = payload.clone();
        move || match &client {
            Some(client) if !scenario.per_call => call(client, job, &payload),
            _ => call(&open()?, job, &payload),
        }
    })
}

fn call(client: &BenchClient, job: Job, payload: &[u8]) -> Result<(), String> {
    let right = match job {
        Job::Login => {
            let request = LoginRequest { name: NAME.to_vec(), pwd: PWD.to_vec(), ..Default::default() };
            let answer = client.login(Context::default(), &request).map_err(|error| error.to_string())?;
            login_is_right(answer.result.errcode, &answer.result.errmsg, answer.success)
        }
        Job::Echo(_) => {
            let request = EchoRequest { payload: payload.to_vec(), ..Default::default() };
            client.echo(Context::default(), &request).map_err(|error| error.to_string())?.payload == payload
        }
    };
    if right { Ok(()) } else { Err("a wrong answer".into()) }
}

struct Service;

impl Bench for Service {
    fn login(&self, _: &TtrpcContext, request: LoginRequest) -> ttrpc::Result<LoginResponse> {
        let result = ResultCode { errmsg: OK.to_vec(), ..Default::default() };
        Ok(LoginResponse {
            result: MessageField::some(result),
            success: !request.name.is_empty() && !request.pwd.is_empty(),
            ..Default::default()
        })
    }

    fn echo(&self, _: &TtrpcContext, request: EchoRequest) -> ttrpc::Result<EchoResponse> {
        Ok(EchoResponse { payload: request.payload, ..Default::default() })
    }
}
