//! Runs protoc, which makes descriptors of `.proto` files.

use crate::Error;
use protobuf::Message;
use protobuf::descriptor::{FileDescriptorProto, FileDescriptorSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// protoc with its include folders.
pub(super) struct Protoc {
    program: PathBuf,
    /// The caller's folders: what is found there is watched.
    includes: Vec<PathBuf>,
    /// Holds `mprpc/options.proto` and the descriptor set.
    temporary: TempDir,
    /// `google/protobuf/*.proto`
    well_known: PathBuf,
}

/// What protoc says about one file.
pub(super) struct Described {
    /// Of the file: relative to its include folder.
    pub(super) name: String,
    /// The file's imports, then the file.
    pub(super) files: Vec<FileDescriptorProto>,
    /// Where the caller's files are.
    pub(super) inputs: Vec<PathBuf>,
    pub(super) warnings: Vec<String>,
}

impl Protoc {
    pub(super) fn new(includes: &[PathBuf]) -> Result<Self, Error> {
        let missing = |e: protoc_bin_vendored::Error| Error::new(e.to_string());
        let temporary = TempDir::new().map_err(|e| Error::new(format!("no temporary folder: {e}")))?;
        let options = temporary.path().join("mprpc");
        let written =
            fs::create_dir(&options).and_then(|()| fs::write(options.join("options.proto"), OPTIONS_PROTO));
        written.map_err(|e| Error::new(format!("{}: {e}", options.display())))?;
        Ok(Self {
            program: protoc_bin_vendored::protoc_bin_path().map_err(missing)?,
            includes: includes.to_vec(),
            temporary,
            well_known: protoc_bin_vendored::include_path().map_err(missing)?,
        })
    }

    pub(super) fn describe(&self, proto: &Path) -> Result<Described, Error> {
        let set = self.temporary.path().join("descriptors");
        let mut command = Command::new(&self.program);
        let own = [self.temporary.path(), self.well_known.as_path()];
        for include in self.includes.iter().map(PathBuf::as_path).chain(own) {
            command.arg("-I").arg(include);
        }
        command
            .args(["--include_imports", "--include_source_info", "--descriptor_set_out"])
            .arg(&set)
            .arg(proto);
        let run = command
            .output()
            .map_err(|e| Error::new(format!("cannot run {}: {e}", self.program.display())))?;
        let said = String::from_utf8_lossy(&run.stderr);
        if !run.status.success() {
            return Err(Error::new(format!("protoc refuses {}:\n{}", proto.display(), said.trim_end())));
        }
        let bytes = fs::read(&set).map_err(|e| Error::new(format!("{}: {e}", set.display())))?;
        let files = FileDescriptorSet::parse_from_bytes(&bytes)
            .map_err(|e| Error::new(format!("{}: {e}", proto.display())))?
            .file;
        let name = files.last().map(|file| file.name().to_owned());
        Ok(Described {
            name: name
                .ok_or_else(|| Error::new(format!("protoc has nothing to say about {}", proto.display())))?,
            inputs: files.iter().filter_map(|file| self.find(file.name())).collect(),
            files,
            // That cc_generic_services is deprecated helps nobody whose C++ programs need it.
            warnings: said
                .lines()
                .filter(|line| !line.is_empty() && !line.contains("cc_generic_services"))
                .map(str::to_owned)
                .collect(),
        })
    }

    fn find(&self, name: &str) -> Option<PathBuf> {
        self.includes.iter().map(|include| include.join(name)).find(|path| path.exists())
    }
}

const OPTIONS_PROTO: &str = include_str!("options.proto");
