//! A request to the generator, of any descriptors: an error, or Rust that parses, the same twice.

use protobuf::{Message, plugin::CodeGeneratorRequest};
use protoc_gen_mprpc::generate;

pub(crate) fn run(input: &[u8]) {
    let Ok(request) = CodeGeneratorRequest::parse_from_bytes(input) else { return };
    match generate(&request) {
        Ok(made) => {
            for file in &made.files {
                if let Err(error) = syn::parse_file(&file.content) {
                    panic!("{} does not parse: {error}\n{}", file.name, file.content);
                }
                assert!(!file.name.contains(['/', '\\']), "{} stays in its directory", file.name);
            }
            assert_eq!(generate(&request).ok().as_ref(), Some(&made), "the same bytes twice");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
