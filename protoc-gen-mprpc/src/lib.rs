//! Services of a `.proto` file as Rust: a trait to implement and a stub to call.
//!
//! The crate is a `protoc` plugin (`protoc --mprpc_out=. user.proto`, see `main.rs`) and a build-script helper ([`build`])
//! over the same [`generate`]. Messages come from protobuf-codegen 3; what is written here names them `super::user::LoginRequest`,
//! so the module of a file and that of its services are neighbours.

pub mod build;
mod check;
mod docs;
mod emit;
mod error;
mod model;
mod names;
mod options;
mod types;

pub use error::Error;
pub use options::GenericServices;
use protobuf::plugin::CodeGeneratorRequest;

/// What [`generate`] makes of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generated {
    /// One file for each file of the request, in its order.
    pub files: Vec<GeneratedFile>,
    /// What the author of the `.proto` file should know, one line each.
    pub warnings: Vec<String>,
}

/// One Rust source file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneratedFile {
    /// File name without a directory: `user_mprpc.rs` for `any/where/user.proto`.
    pub name: String,
    /// Rust source, the same bytes for the same request.
    pub content: String,
}

/// Generates the services of all files that `request` asks for.
///
/// The request's parameter may be `generic_services=warn` (the default: a file without a trigger gets a file that holds only a
/// comment, and a warning), `require` (such a file is an error) or `ignore` (its services are generated anyway).
///
/// # Errors
///
/// An unknown parameter, a streaming method, a file of an edition, two files with one module name, a name that cannot be used in
/// Rust, or a request that protoc would not have made. Nothing is generated then.
pub fn generate(request: &CodeGeneratorRequest) -> Result<Generated, Error> {
    let generic_services = options::parameter(request.parameter())?;
    let model = model::Model::new(request, generic_services)?;
    let files = model.files.iter().map(emit::file).collect::<Result<_, _>>()?;
    Ok(Generated { files, warnings: model.warnings })
}
