//! tarpc: bincode in length-delimited frames over TCP. A task per request on the server, as its examples have it.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bench_load::{Job, Load, NAME, OK, Options, PWD, Role, login_is_right};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tarpc::{
    client::{self, NewClient},
    context::{self, Context},
    serde_transport,
    server::{BaseChannel, Channel},
    tokio_serde::formats::Bincode,
    tokio_util::codec::{Framed, LengthDelimitedCodec},
};
use tokio::net::{TcpListener, TcpStream};

#[derive(Serialize, Deserialize, Debug)]
struct ResultCode {
    errcode: i32,
    #[serde(with = "serde_bytes")]
    errmsg: Vec<u8>,
}

#[derive(Serialize, Deserialize, Debug)]
struct LoginRequest {
    #[serde(with = "serde_bytes")]
    name: Vec<u8>,
    #[serde(with = "serde_bytes")]
    pwd: Vec<u8>,
}

#[derive(Serialize, Deserialize, Debug)]
struct LoginResponse {
    result: ResultCode,
    success: bool,
}

#[derive(Serialize, Deserialize, Debug)]
struct Payload {
    #[serde(with = "serde_bytes")]
    payload: Vec<u8>,
}

#[allow(clippy::use_self, unreachable_pub, reason = "generated code")]
mod service {
    use super::{LoginRequest, LoginResponse, Payload};

    #[tarpc::service]
    pub(crate) trait Bench {
        async fn login(request: LoginRequest) -> LoginResponse;
        async fn echo(request: Payload) -> Payload;
    }
}
use service::{Bench, BenchClient};

fn main() -> io::Result<()> {
    match bench_load::role() {
        Role::Serve(addr, options) => serve(addr, &options),
        Role::Load(load) => {
            let client = Client { payload: load.scenario.job.payload(), load: load.clone() };
            bench_tokio::run(load, client)
        }
    }
}

fn serve(addr: SocketAddr, options: &Options) -> io::Result<()> {
    bench_tokio::runtime(options)?.block_on(async move {
        let listener = TcpListener::bind(addr).await?;
        bench_load::ready();
        loop {
            let transport = serde_transport::new(framed(listener.accept().await?.0)?, Bincode::default());
            let requests = BaseChannel::with_defaults(transport).execute(Service.serve());
            tokio::spawn(requests.for_each(async |request| {
                tokio::spawn(request);
            }));
        }
    })
}

#[derive(Clone)]
struct Service;

impl Bench for Service {
    async fn login(self, _: Context, request: LoginRequest) -> LoginResponse {
        let success = !request.name.is_empty() && !request.pwd.is_empty();
        LoginResponse { result: ResultCode { errcode: 0, errmsg: OK.to_vec() }, success }
    }

    async fn echo(self, _: Context, request: Payload) -> Payload {
        request
    }
}

struct Client {
    load: Load,
    payload: Vec<u8>,
}

impl bench_tokio::Client for Client {
    type Connection = BenchClient;

    async fn connect(&self) -> Result<Self::Connection, String> {
        let stream = TcpStream::connect(self.load.addr).await.map_err(text)?;
        let transport = serde_transport::new(framed(stream).map_err(text)?, Bincode::default());
        let mut config = client::Config::default();
        config.max_in_flight_requests = 4096;
        config.pending_request_buffer = 4096;
        let NewClient { client, dispatch } = BenchClient::new(config, transport);
        tokio::spawn(dispatch);
        Ok(client)
    }

    async fn call(&self, connection: &mut Self::Connection) -> Result<(), String> {
        let mut context = context::current();
        context.deadline = Instant::now() + PATIENCE;
        let right = match self.load.scenario.job {
            Job::Login => {
                let request = LoginRequest { name: NAME.to_vec(), pwd: PWD.to_vec() };
                let answer = connection.login(context, request).await.map_err(text)?;
                login_is_right(answer.result.errcode, &answer.result.errmsg, answer.success)
            }
            Job::Echo(_) => {
                let request = Payload { payload: self.payload.clone() };
                connection.echo(context, request).await.map_err(text)?.payload == self.payload
            }
        };
        if right { Ok(()) } else { Err("a wrong answer".into()) }
    }
}

fn framed(stream: TcpStream) -> io::Result<Framed<TcpStream, LengthDelimitedCodec>> {
    stream.set_nodelay(true)?;
    Ok(LengthDelimitedCodec::builder().max_frame_length(FRAME).new_framed(stream))
}

fn text(error: impl std::error::Error) -> String {
    error.to_string()
}

/// Far above any call here; by default a call must end within 10 s.
const PATIENCE: Duration = Duration::from_secs(30);
const FRAME: usize = 64 << 20;
