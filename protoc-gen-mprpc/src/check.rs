//! What a request must not contain, because its messages would not compile or could not be told apart.

use crate::types::{crate_module, unescaped_names};
use crate::{Error, names};
use protobuf::descriptor::FileDescriptorProto;
use protobuf::plugin::CodeGeneratorRequest;
use std::collections::HashMap;

/// Refuses what protobuf-codegen would turn into wrong or broken code; warns of what breaks in newer editions.
pub(crate) fn check_messages(proto: &FileDescriptorProto) -> Result<Vec<String>, Error> {
    let file = proto.name();
    if proto.syntax() == "editions" {
        return Err(Error::new(format!(
            "{file}: editions are not supported, because protobuf 3.7, which makes the messages, does not know them; \
             write `syntax = \"proto3\";` (or proto2) instead of `edition`"
        )));
    }
    let mut warnings = Vec::new();
    for name in unescaped_names(proto) {
        let text = format!(
            "{file}: {} is called `{}`, which protobuf-codegen 3 writes as it is and Rust reserves since edition {}; rename it",
            name.what, name.name, name.edition
        );
        match name.edition {
            "2018" => return Err(Error::new(text)),
            _ => warnings.push(text),
        }
    }
    Ok(warnings)
}

/// Refuses two files that would be one module: protobuf-codegen ignores directories.
pub(crate) fn distinct_modules(request: &CodeGeneratorRequest) -> Result<(), Error> {
    let mut seen: HashMap<String, &str> = HashMap::new();
    for proto in request.proto_file.iter().map(FileDescriptorProto::name).filter(|name| !is_built_in(name)) {
        let stem = names::module(proto);
        if stem.is_empty() {
            return Err(Error::new(format!("{proto:?}: no module can be named after this file")));
        }
        let services =
            request.file_to_generate.iter().any(|name| name == proto).then(|| format!("{stem}_mprpc"));
        for module in [Some(names::escaped(&stem)), services].into_iter().flatten() {
            if let Some(other) = seen.insert(module.clone(), proto) {
                return Err(same_module(other, proto, &module));
            }
        }
    }
    Ok(())
}

pub(crate) fn same_module(one: &str, other: &str, module: &str) -> Error {
    Error::new(format!(
        "{one} and {other} both make the module `{module}`, which is named after the file without its directory; rename one"
    ))
}

/// Whether no module is made for a file: its types come with the protobuf crate, or it only holds options.
pub(crate) fn is_built_in(proto: &str) -> bool {
    crate_module(proto).is_some() || proto == "mprpc/options.proto" || proto == "rustproto.proto"
}
