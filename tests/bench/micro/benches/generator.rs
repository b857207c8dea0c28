//! The generator: a request with 300 methods, from bytes to code, as the plugin does it between stdin and stdout.

use criterion::Criterion;
use protobuf::{
    Message,
    descriptor::{
        DescriptorProto, FileDescriptorProto, FileOptions, MethodDescriptorProto, ServiceDescriptorProto,
    },
    plugin::CodeGeneratorRequest,
};

const SERVICES: usize = 10;
const METHODS: usize = 30;

fn request() -> CodeGeneratorRequest {
    let mut file = FileDescriptorProto::new();
    file.set_name("large.proto".into());
    file.set_package("large".into());
    file.set_syntax("proto3".into());
    file.options = Some(FileOptions { cc_generic_services: Some(true), ..Default::default() }).into();
    let message = |name: String| DescriptorProto { name: Some(name), ..Default::default() };
    for service in 0..SERVICES {
        let methods = (0..METHODS).map(|method| {
            let name = format!("Method{service}x{method}");
            file.message_type.push(message(format!("{name}Request")));
            file.message_type.push(message(format!("{name}Response")));
            MethodDescriptorProto {
                input_type: Some(format!(".large.{name}Request")),
                output_type: Some(format!(".large.{name}Response")),
                name: Some(name),
                ..Default::default()
            }
        });
        let method = methods.collect();
        let name = Some(format!("Large{service}ServiceRpc"));
        file.service.push(ServiceDescriptorProto { name, method, ..Default::default() });
    }
    CodeGeneratorRequest {
        file_to_generate: vec!["large.proto".into()],
        proto_file: vec![file],
        ..Default::default()
    }
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let bytes = request().write_to_bytes().expect("a request that serializes");
    criterion.bench_function("generator/300 methods", |b| {
        b.iter(|| {
            let request = CodeGeneratorRequest::parse_from_bytes(&bytes).expect("the bytes above");
            let generated = protoc_gen_mprpc::generate(&request).expect("a request as protoc makes it");
            assert!(generated.files[0].content.len() > 300 * 100);
            generated.files[0].content.len()
        });
    });
}
