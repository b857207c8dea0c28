//! The build-script helper: from `.proto` files to the modules of a crate.
//!
//! ```no_run
//! // the body of `main` in build.rs
//! protoc_gen_mprpc::build::compile(&["proto/user.proto"], &["proto"]).expect("protos");
//! ```
//!
//! The crate includes the result: `mod proto { include!(concat!(env!("OUT_DIR"), "/mprpc/mod.rs")); }` gives
//! `proto::user::LoginRequest` and `proto::user_mprpc::UserServiceRpc`. protoc comes with this crate, and so does
//! `mprpc/options.proto`.

mod messages;
mod protoc;

use crate::check::{check_messages, is_built_in, same_module};
use crate::{Error, GenericServices, generate, names};
use protobuf::plugin::CodeGeneratorRequest;
use protoc::{Described, Protoc};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Compiles `protos`, found below `includes`, into `OUT_DIR/mprpc`, with the defaults of [`Config`].
///
/// # Errors
///
/// As [`Config::compile`].
pub fn compile(protos: &[impl AsRef<Path>], includes: &[impl AsRef<Path>]) -> Result<(), Error> {
    Config::new().compile(protos, includes)
}

/// How to compile.
#[derive(Clone, Debug, Default)]
pub struct Config {
    out_dir: Option<PathBuf>,
    tokio_bytes: bool,
    generic_services: GenericServices,
}

impl Config {
    /// The defaults: into `OUT_DIR/mprpc`, `bytes` fields are `Vec<u8>`, services without a trigger are skipped with a warning.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes into this folder, which is made if it is missing, instead of `OUT_DIR/mprpc`.
    pub fn out_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.out_dir = Some(folder.into());
        self
    }

    /// Makes `bytes` fields `bytes::Bytes`, which are decoded without copying. Large ones leave without a copy, too, if their
    /// message is not a part of another and consists of little else. The crate then needs `bytes = "1"` and the feature
    /// `with-bytes` of protobuf.
    pub fn tokio_bytes(mut self, yes: bool) -> Self {
        self.tokio_bytes = yes;
        self
    }

    /// What to do with services that nothing asks for.
    pub fn generic_services(mut self, rule: GenericServices) -> Self {
        self.generic_services = rule;
        self
    }

    /// Compiles `protos`, each in a run of its own: two that define the same name may stand side by side.
    ///
    /// Writes the messages of these files and of what they import, the services of these files, and one `mod.rs`. Tells Cargo which
    /// files it read, and repeats warnings as `cargo::warning`.
    ///
    /// # Errors
    ///
    /// What protoc refuses, in protoc's words; what [`generate`] refuses; two files with one module name; a folder that cannot be
    /// written.
    pub fn compile(&self, protos: &[impl AsRef<Path>], includes: &[impl AsRef<Path>]) -> Result<(), Error> {
        let out = match (&self.out_dir, env::var_os("OUT_DIR")) {
            (Some(folder), _) => folder.clone(),
            (None, Some(folder)) => Path::new(&folder).join("mprpc"),
            (None, None) => {
                return Err(Error::new(
                    "OUT_DIR is not set: this is no build script, so Config::out_dir must say where to write",
                ));
            }
        };
        let includes: Vec<PathBuf> = includes.iter().map(|include| include.as_ref().to_owned()).collect();
        let mut run = Run {
            config: self,
            out,
            modules: BTreeMap::new(),
            messages: BTreeSet::new(),
            report: Report::default(),
        };
        let protoc = Protoc::new(&includes)?;
        fs::create_dir_all(&run.out).map_err(|e| Error::new(format!("{}: {e}", run.out.display())))?;
        for proto in protos {
            run.root(protoc.describe(proto.as_ref())?)?;
        }
        run.write("mod.rs", &mod_rs(&run.modules))?;
        run.report.print();
        Ok(())
    }
}

/// One call of [`Config::compile`].
struct Run<'a> {
    config: &'a Config,
    out: PathBuf,
    /// What each module holds, of which file.
    modules: BTreeMap<String, (Holds, String)>,
    /// Files whose messages are written.
    messages: BTreeSet<String>,
    report: Report,
}

impl Run<'_> {
    fn root(&mut self, described: Described) -> Result<(), Error> {
        let Described { name, files, inputs, warnings } = described;
        self.report.inputs.extend(inputs);
        self.report.warn(warnings);
        let mut request = CodeGeneratorRequest::new();
        request.file_to_generate.push(name.clone());
        request.set_parameter(self.config.generic_services.to_parameter());
        request.proto_file = files;
        let generated = generate(&request)?;
        self.report.warn(generated.warnings);

        let mut new = Vec::new();
        for file in request.proto_file.iter().filter(|file| !is_built_in(file.name())) {
            if self.messages.insert(file.name().to_owned()) {
                self.report.warn(check_messages(file)?);
                self.module(&names::escaped(&names::module(file.name())), Holds::Messages, file.name())?;
                new.push(file.name().to_owned());
            }
        }
        messages::write(request.proto_file, &new, &self.out, self.config.tokio_bytes)?;
        for file in generated.files {
            self.module(file.name.trim_end_matches(".rs"), Holds::Services, &name)?;
            self.write(&file.name, &file.content)?;
        }
        Ok(())
    }

    fn module(&mut self, module: &str, holds: Holds, proto: &str) -> Result<(), Error> {
        let held = (holds, proto.to_owned());
        match self.modules.insert(module.to_owned(), held.clone()) {
            Some(other) if other != held => Err(same_module(&other.1, proto, module)),
            _ => Ok(()),
        }
    }

    fn write(&self, name: &str, content: &str) -> Result<(), Error> {
        let path = self.out.join(name);
        fs::write(&path, content).map_err(|e| Error::new(format!("{}: {e}", path.display())))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Messages,
    Services,
}

/// What Cargo and the author should know, each line once.
#[derive(Default)]
struct Report {
    inputs: BTreeSet<PathBuf>,
    warnings: Vec<String>,
}

impl Report {
    fn warn(&mut self, lines: impl IntoIterator<Item = String>) {
        for line in lines {
            if !self.warnings.contains(&line) {
                self.warnings.push(line);
            }
        }
    }

    fn print(&self) {
        for input in &self.inputs {
            println!("cargo::rerun-if-changed={}", input.display());
        }
        for warning in &self.warnings {
            println!("cargo::warning={warning}");
        }
    }
}

/// The module that a crate includes. `mod` lines in an included file are found beside that file.
fn mod_rs(modules: &BTreeMap<String, (Holds, String)>) -> String {
    let mut text = String::from("// @generated by protoc-gen-mprpc. Do not edit.\n");
    for (module, (holds, proto)) in modules {
        text.push_str(&format!("\n/// {holds:?} of `{proto}`.\n{ALLOW}pub mod {module};\n"));
    }
    text
}

/// Lints that protobuf-codegen's output cannot please in every crate.
const ALLOW: &str = r#"#[rustfmt::skip]
#[allow(clippy::all, clippy::nursery, clippy::pedantic, clippy::restriction, elided_lifetimes_in_paths, let_underscore_drop,
    unreachable_pub, unused_qualifications, reason = "generated code")]
"#;
