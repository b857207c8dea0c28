//! A service without generated code, and programs that serve and call it by way of a ZooKeeper.

use std::time::Duration;

use mprpc_runtime::*;
use protobuf::well_known_types::wrappers::StringValue;

pub(crate) static ECHO: ServiceDescriptor = ServiceDescriptor::new(
    "demo.EchoRpc",
    "EchoRpc",
    &[MethodDescriptor::new(
        "demo.EchoRpc",
        "Echo",
        "google.protobuf.StringValue",
        "google.protobuf.StringValue",
    )],
);

/// Answers with its own name, and as late as it is asked to be.
pub(crate) struct Echo(pub(crate) &'static str);

impl Service for Echo {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        &ECHO
    }

    fn call_method(&self, _method: usize, call: ServerCall<'_>) {
        let name = self.0;
        call.run(move |_: Controller, mut request: StringValue, reply: Reply<StringValue>| {
            if let Ok(ms) = request.value.parse() {
                std::thread::sleep(Duration::from_millis(ms));
            }
            request.value = name.into();
            reply.send(Ok(request))
        });
    }
}

/// A program with this ZooKeeper and these other settings.
pub(crate) fn app(zookeeper: &str, settings: &[(&str, &str)]) -> MprpcApplication {
    let mut config = MprpcConfig::default().with("zookeeperip", zookeeper).unwrap();
    if !settings.iter().any(|(key, _)| *key == "log_dir") {
        config = config.with("log_level", "off").unwrap();
    }
    for (key, value) in settings {
        config = config.with(key, *value).unwrap();
    }
    MprpcApplication::from_config(config).unwrap()
}

pub(crate) fn serve(app: &MprpcApplication, name: &'static str) -> RunningProvider {
    let mut provider = RpcProvider::new(app);
    provider.notify_service(Echo(name)).unwrap();
    provider.start().unwrap()
}

/// Calls and gives who answered.
pub(crate) fn call(stub: &Stub, text: &str) -> Result<String, Error> {
    let request = StringValue { value: text.into(), ..Default::default() };
    stub.call(&ECHO.methods[0], &request).map(|response: StringValue| response.value)
}
