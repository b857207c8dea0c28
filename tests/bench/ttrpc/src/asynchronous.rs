//! The asynchronous interface, on two tokio threads.

use std::{error::Error, net::SocketAddr, sync::Arc};

use bench_load::{Job, Load, NAME, OK, Options, PWD, login_is_right};
use protobuf::MessageField;
use ttrpc::{r#async::TtrpcContext, context::Context};

crate::generated!("asynchronous");

use generated::{
    bench::{EchoRequest, EchoResponse, LoginRequest, LoginResponse, ResultCode},
    bench_ttrpc::{Bench, BenchClient, create_bench},
};

pub(crate) fn serve(addr: SocketAddr, options: &Options) -> Result<(), Box<dyn Error>> {
    bench_tokio::runtime(options)?.block_on(async move {
        let server = ttrpc::asynchronous::Server::new().bind(&format!("tcp://{addr}"))?;
        let mut server = server.register_service(create_bench(Arc::new(Service)));
        server.start().await?;
        bench_load::ready();
        std::future::pending().await
    })
}

pub(crate) fn load(load: Load) -> Result<(), Box<dyn Error>> {
    let client = Client { payload: load.scenario.job.payload(), load: load.clone() };
    Ok(bench_tokio::run(load, client)?)
}

struct Client {
    load: Load,
    payload: Vec<u8>,
}

impl bench_tokio::Client for Client {
    type Connection = BenchClient;

    async fn connect(&self) -> Result<Self::Connection, String> {
        let client = ttrpc::asynchronous::Client::connect(&format!("tcp://{}", self.load.addr)).await;
        client.map(BenchClient::new).map_err(|error| error.to_string())
    }

    async fn call(&self, connection: &mut Self::Connection) -> Result<(), String> {
        let right = match self.load.scenario.job {
            Job::Login => {
                let request = LoginRequest { name: NAME.to_vec(), pwd: PWD.to_vec(), ..Default::default() };
                let answer = connection
                    .login(Context::default(), &request)
                    .await
                    .map_err(|error| error.to_string())?;
                login_is_right(answer.result.errcode, &answer.result.errmsg, answer.success)
            }
            Job::Echo(_) => {
                let request = EchoRequest { payload: self.payload.clone(), ..Default::default() };
                let answer =
                    connection.echo(Context::default(), &request).await.map_err(|error| error.to_string())?;
                answer.payload == self.payload
            }
        };
        if right { Ok(()) } else { Err("a wrong answer".into()) }
    }
}

struct Service;

#[async_trait::async_trait]
impl Bench for Service {
    async fn login(&self, _: &TtrpcContext, request: LoginRequest) -> ttrpc::Result<LoginResponse> {
        let result = ResultCode { errmsg: OK.to_vec(), ..Default::default() };
        Ok(LoginResponse {
            result: MessageField::some(result),
            success: !request.name.is_empty() && !request.pwd.is_empty(),
            ..Default::default()
        })
    }

    async fn echo(&self, _: &TtrpcContext, request: EchoRequest) -> ttrpc::Result<EchoResponse> {
        Ok(EchoResponse { payload: request.payload, ..Default::default() })
    }
}
