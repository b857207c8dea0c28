//! The messages of a file, by protobuf-codegen.

use crate::Error;
use protobuf::descriptor::FileDescriptorProto;
use protobuf_codegen::{Customize, CustomizeCallback, gen_and_write::gen_and_write};
use protobuf_parse::ProtoPathBuf;
use std::path::Path;

/// Writes the messages of the files called `names`.
///
/// From the descriptors at hand: a second run of protoc would repeat its warnings and might see other files.
pub(super) fn write(
    mut files: Vec<FileDescriptorProto>,
    names: &[String],
    out: &Path,
    tokio_bytes: bool,
) -> Result<(), Error> {
    let paths: Vec<ProtoPathBuf> = names
        .iter()
        .map(|name| ProtoPathBuf::new(name.clone()))
        .collect::<Result<_, _>>()
        .map_err(|e| Error::new(format!("{e:#}")))?;
    files.retain(|file| file.name() != OPTIONS);
    for file in &mut files {
        // protobuf-codegen puts the descriptor into the program, where comments are of no use.
        file.source_code_info.clear();
        forget_options(file);
    }
    let customize = Customize::default()
        .gen_mod_rs(false)
        // The runtime needs reflection, whatever a file written for C++ says of LITE_RUNTIME.
        .lite_runtime(false)
        .tokio_bytes(tokio_bytes);
    gen_and_write(&files, "protoc-gen-mprpc", &paths, out, &customize, &NoCallback)
        .map_err(|e| Error::new(format!("messages of {}: {e:#}", names.join(", "))))
}

/// Drops the import of `mprpc/options.proto`, for which no module is made; the options themselves stay, by number.
fn forget_options(file: &mut FileDescriptorProto) {
    let Some(dropped) = file.dependency.iter().position(|name| name == OPTIONS) else {
        return;
    };
    file.dependency.remove(dropped);
    for indexes in [&mut file.public_dependency, &mut file.weak_dependency] {
        indexes.retain(|&i| usize::try_from(i) != Ok(dropped));
        indexes.iter_mut().filter(|i| usize::try_from(**i).is_ok_and(|i| i > dropped)).for_each(|i| *i -= 1);
    }
}

struct NoCallback;

impl CustomizeCallback for NoCallback {}

const OPTIONS: &str = "mprpc/options.proto";
