//! The plugin: `protoc --mprpc_out=. user.proto` runs this program, which reads a request and writes a response.

use protobuf::Message;
use protobuf::plugin::code_generator_response::{Feature, File};
use protobuf::plugin::{CodeGeneratorRequest, CodeGeneratorResponse};
use protoc_gen_mprpc::generate;
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().len() > 1 {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("protoc-gen-mprpc: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is wrong with a `.proto` file goes into the response; only a request that is none is an error here.
fn run() -> Result<(), Box<dyn std::error::Error>> {
    let request = CodeGeneratorRequest::parse_from_reader(&mut io::stdin().lock())
        .map_err(|error| format!("standard input is not a request of protoc: {error}"))?;
    let mut response = CodeGeneratorResponse::new();
    // No edition bit: protoc refuses editions, which protobuf 3.7 does not know.
    response.set_supported_features(Feature::FEATURE_PROTO3_OPTIONAL as u64);
    match generate(&request) {
        Ok(generated) => {
            for warning in generated.warnings {
                eprintln!("mprpc: warning: {warning}");
            }
            response.file =
                generated.files.into_iter().map(|file| response_file(file.name, file.content)).collect();
        }
        Err(error) => response.set_error(error.to_string()),
    }
    let mut out = io::stdout().lock();
    out.write_all(&response.write_to_bytes()?)?;
    Ok(out.flush()?)
}

fn response_file(name: String, content: String) -> File {
    let mut file = File::new();
    file.set_name(name);
    file.set_content(content);
    file
}

const USAGE: &str = "protoc-gen-mprpc is a plugin; protoc runs it:
  protoc --plugin=protoc-gen-mprpc=PATH --mprpc_out=DIR user.proto
  --mprpc_opt=generic_services=warn|require|ignore   what to do with services without `option cc_generic_services = true;`";
