//! tonic: gRPC over HTTP/2 without TLS. A channel is one connection; windows and limits have room for E.

use std::{error::Error, net::SocketAddr};

use bench_load::{Job, Load, NAME, OK, Options, PWD, Role, login_is_right};
use bytes::Bytes;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};

#[allow(
    clippy::all,
    clippy::nursery,
    clippy::pedantic,
    clippy::restriction,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
mod proto {
    tonic::include_proto!("bench");
}

use proto::{
    EchoRequest, EchoResponse, LoginRequest, LoginResponse, ResultCode,
    bench_client::BenchClient,
    bench_server::{Bench, BenchServer},
};

fn main() -> Result<(), Box<dyn Error>> {
    match bench_load::role() {
        Role::Serve(addr, options) => serve(addr, &options),
        Role::Load(load) => {
            let client = Client { payload: load.scenario.job.payload().into(), load: load.clone() };
            Ok(bench_tokio::run(load, client)?)
        }
    }
}

fn serve(addr: SocketAddr, options: &Options) -> Result<(), Box<dyn Error>> {
    bench_tokio::runtime(options)?.block_on(async move {
        let service =
            BenchServer::new(Service).max_decoding_message_size(MESSAGE).max_encoding_message_size(MESSAGE);
        let incoming = TcpIncoming::bind(addr)?.with_nodelay(Some(true));
        bench_load::ready();
        let mut server =
            Server::builder().initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
        Ok(server.add_service(service).serve_with_incoming(incoming).await?)
    })
}

struct Service;

#[tonic::async_trait]
impl Bench for Service {
    async fn login(&self, request: Request<LoginRequest>) -> Result<Response<LoginResponse>, Status> {
        let request = request.into_inner();
        Ok(Response::new(LoginResponse {
            result: Some(ResultCode { errcode: 0, errmsg: Bytes::from_static(OK) }),
            success: !request.name.is_empty() && !request.pwd.is_empty(),
        }))
    }

    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        Ok(Response::new(EchoResponse { payload: request.into_inner().payload }))
    }
}

struct Client {
    load: Load,
    payload: Bytes,
}

impl bench_tokio::Client for Client {
    type Connection = BenchClient<Channel>;

    async fn connect(&self) -> Result<Self::Connection, String> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.load.addr)).map_err(text)?;
        let endpoint = endpoint
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        let channel = endpoint.connect().await.map_err(text)?;
        Ok(BenchClient::new(channel).max_decoding_message_size(MESSAGE).max_encoding_message_size(MESSAGE))
    }

    async fn call(&self, connection: &mut Self::Connection) -> Result<(), String> {
        let right = match self.load.scenario.job {
            Job::Login => {
                let request = LoginRequest { name: Bytes::from_static(NAME), pwd: Bytes::from_static(PWD) };
                let answer = connection.login(request).await.map_err(text)?.into_inner();
                answer
                    .result
                    .is_some_and(|result| login_is_right(result.errcode, &result.errmsg, answer.success))
            }
            Job::Echo(_) => {
                let request = EchoRequest { payload: self.payload.clone() };
                connection.echo(request).await.map_err(text)?.into_inner().payload == self.payload
            }
        };
        if right { Ok(()) } else { Err("a wrong answer".into()) }
    }
}

fn text(error: impl Error) -> String {
    format!("{error:?}")
}

const MESSAGE: usize = 64 << 20;
const WINDOW: u32 = 8 << 20;
