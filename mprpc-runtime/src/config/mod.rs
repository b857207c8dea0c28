//! The configuration: a file of `key = value` lines, the environment over it, typed settings out of both.
//!
//! What counts, first to last: [`MprpcConfig::set`], the environment (`MPRPC_<KEY>`), the file, the
//! default. Every key with its default and meaning stands in one table, in `settings`.

mod settings;
mod value;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    env,
    ffi::OsString,
    fmt, fs,
    io::Read,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
};

use configparser::ini::{Ini, IniDefault};

use crate::error::Error;
use settings::{KEYS, Key};

pub use settings::Settings;
pub use value::{
    LegacyClose, LegacyEmpty, LegacyEnd, LegacyMirror, LogLevel, Protocol, ZooKeeperAddress,
};

/// What a program was configured with: every key as it was written, and the typed [`Settings`].
///
/// ```
/// use mprpc_runtime::MprpcConfig;
/// let config = MprpcConfig::parse("rpcServerPort = 8000 # ours\nshop.name = Emma", "test.conf")?;
/// assert_eq!(config.settings().rpcserverport, 8000);
/// assert_eq!(config.get("shop.name"), Some("Emma"));
/// # Ok::<(), mprpc_runtime::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct MprpcConfig {
    /// By the first, lower-case spelling of the key.
    values: BTreeMap<String, Given>,
    settings: Settings,
    warnings: Vec<String>,
}

/// A value as somebody wrote it, and where: `test.conf:3`, or a variable of the environment.
#[derive(Clone)]
struct Given {
    text: String,
    origin: String,
}

impl MprpcConfig {
    /// Reads the file that the command line names: `-i FILE`, `-iFILE`, `--config FILE` or
    /// `--config=FILE`, of several the last. `args` starts with the program's name, as
    /// [`env::args_os`] does; other arguments are the application's, and nothing behind `--` is
    /// looked at. Without a file the settings are the environment's and the defaults.
    ///
    /// # Errors
    /// `-i` without a file, and all that [`from_file`](Self::from_file) refuses.
    pub fn from_args(args: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Self, Error> {
        let mut args = args.into_iter().map(Into::into).skip(1);
        let mut file: Option<OsString> = None;
        while let Some(arg) = args.next() {
            let bytes = arg.as_bytes();
            let glued = bytes
                .strip_prefix(b"--config=")
                .or_else(|| bytes.strip_prefix(b"-i"));
            if bytes == b"--" {
                break;
            } else if bytes == b"-i" || bytes == b"--config" {
                file = Some(args.next().unwrap_or_default());
            } else if let Some(name) = glued {
                file = Some(OsString::from_vec(name.to_vec()));
            } else {
                continue;
            }
            if file.as_ref().is_some_and(|name| name.is_empty()) {
                let arg = arg.display();
                return Err(Error::Config(format!(
                    "command line: {arg} needs the name of the configuration file, as in -i test.conf"
                )));
            }
        }
        file.map_or_else(|| Self::default().with_environment(), Self::from_file)
    }

    /// Reads a file, then the environment over it.
    ///
    /// # Errors
    /// [`Error::Config`] if the file cannot be read, is over 1 MiB, or as [`parse`](Self::parse) says.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let mut bytes = Vec::new();
        fs::File::open(path)
            .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
            .map_err(|e| {
                Error::Config(format!(
                    "{}: cannot be read ({e}); -i FILE names a readable configuration file",
                    value::visible(&name)
                ))
            })?;
        if bytes.len() as u64 > MAX_FILE {
            let text = format!("{name}: is over 1 MiB; a configuration file is a short text");
            return Err(Error::Config(text));
        }
        Self::parse(&String::from_utf8_lossy(&bytes), &name)?.with_environment()
    }

    /// Reads a text; `file_name` is what errors and warnings call it. The environment is left out.
    ///
    /// `#` starts a comment at the start of a line and behind a blank. Keys ignore case. Byte order
    /// mark, CRLF and tabs are accepted; a `[section]` means nothing; of equal keys the first wins.
    ///
    /// # Errors
    /// [`Error::Config`], one line: file, line, key, value, and what would be right.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, Error> {
        let mut config = Self::default();
        let mut syntax = IniDefault::default();
        syntax.comment_symbols = vec!['#'];
        syntax.delimiters = vec!['='];
        syntax.enable_inline_comments = false; // they would cut a password at its '#'
        let mut ini = Ini::new_from_defaults(syntax);
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        // Line by line, because the parser says neither where a key stood nor that it stood twice.
        for (line, number) in text.lines().zip(1..) {
            let line = line.find([' ', '\t']).map_or(line, |_| uncommented(line));
            let origin = format!("{}:{number}", value::visible(file_name));
            let wrong = |what: &str| {
                let line = value::visible(line.split('=').next().unwrap_or_default().trim());
                Error::Config(format!(
                    "{origin}: {line}: {what}; want a line of the form key = value"
                ))
            };
            if !line.trim_start().starts_with('#') && line.contains(is_garbage) {
                return Err(wrong("is no UTF-8 text or has control characters"));
            }
            let sections = ini
                .read(line.to_owned())
                .map_err(|_| wrong("has a key or a bracket missing"))?;
            for (key, value) in sections.into_values().flatten() {
                match value {
                    Some(value) => config.add(&key, value, origin.clone()),
                    None => config.warnings.push(format!(
                        "{origin}: {}: ignored, there is no '=' in it",
                        value::visible(&key)
                    )),
                }
            }
        }
        config.rebuilt()
    }

    /// The value of any key, ours or the application's, as it was written; `None` if nobody wrote it.
    /// Case does not matter and both spellings of a key find it. Defaults are in [`settings`](Self::settings).
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values
            .get(&canonical(key))
            .map(|given| given.text.as_str())
    }

    /// Sets a key from the program, over file and environment. Nothing changes on failure.
    ///
    /// # Errors
    /// [`Error::Config`] if the value does not suit the key.
    pub fn set(&mut self, key: &str, value: impl Into<String>) -> Result<(), Error> {
        let mut changed = self.clone();
        let given = Given {
            text: value.into(),
            origin: "set by the program".into(),
        };
        changed.values.insert(canonical(key), given);
        *self = changed.rebuilt()?;
        Ok(())
    }

    /// [`set`](Self::set), for chains: `MprpcConfig::default().with("timeout", "1s")?`.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Result<Self, Error> {
        self.set(key, value)?;
        Ok(self)
    }

    /// The settings, every one with its effective value.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What looked wrong and was accepted: keys that are nearly known, or that stand twice. To be
    /// logged by whoever starts the logger, which does not run yet when these arise.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// One line for each key of ours, `key = effective value # meaning`, without secrets: a file
    /// that says the same as this configuration.
    pub fn describe(&self) -> Vec<String> {
        let line = |key: &Key| {
            let given = self.values.get(key.names[0]);
            let value = match given {
                Some(_) if key.names[0] == SECRET => "", // printing it would be telling
                Some(given) => &given.text,
                None => &(key.default)(),
            };
            format!("{} = {value} # {}", key.names[0], key.meaning.trim())
        };
        KEYS.iter().map(line).collect()
    }

    fn with_environment(mut self) -> Result<Self, Error> {
        let mut over = Self::default();
        let mut variables: Vec<_> = env::vars_os().collect();
        variables.sort();
        for (name, value) in variables {
            let name = name.to_string_lossy();
            if let Some(key) = name.strip_prefix("MPRPC_").filter(|key| !key.is_empty()) {
                over.add(key, value.to_string_lossy().into(), name.to_string());
            }
        }
        self.values.append(&mut over.values);
        self.warnings.append(&mut over.warnings);
        self.rebuilt()
    }

    /// Takes a value unless the key has one.
    fn add(&mut self, key: &str, text: String, origin: String) {
        let shown = value::visible(key);
        let warning = match self.values.entry(canonical(key)) {
            Entry::Occupied(first) => {
                let first = &first.get().origin;
                Some(format!(
                    "{origin}: {shown} is ignored, it was set before ({first})"
                ))
            }
            Entry::Vacant(entry) => {
                let known = nearly_known(entry.key());
                let warning = known
                    .map(|known| format!("{origin}: {shown} is unknown here; is {known} meant?"));
                entry.insert(Given { text, origin });
                warning
            }
        };
        self.warnings.extend(warning);
    }

    fn rebuilt(mut self) -> Result<Self, Error> {
        let text = |key: &Key| Some(self.values.get(key.names[0])?.text.clone());
        self.settings = Settings::build(text).map_err(|(key, want)| {
            let (text, origin) = self.values.get(key).map_or(("", ""), |given| {
                (given.text.as_str(), given.origin.as_str())
            });
            let text = if key == SECRET { "(hidden)" } else { text };
            Error::Config(format!(
                "{origin}: {key} = {}: want {want}",
                value::visible(text)
            ))
        })?;
        Ok(self)
    }
}

impl fmt::Debug for MprpcConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MprpcConfig")
            .field("settings", &self.settings)
            .field("warnings", &self.warnings)
            .finish_non_exhaustive()
    }
}

/// The first spelling of a key of ours, or the key in lower case.
fn canonical(key: &str) -> String {
    let key = key.to_lowercase();
    let known = KEYS.iter().find(|known| known.names.contains(&&*key));
    known.map_or(key, |known| known.names[0].to_owned())
}

/// The known key that an unknown one differs from by a slip or two of the keyboard.
fn nearly_known(key: &str) -> Option<&'static str> {
    let mut names = KEYS.iter().flat_map(|known| known.names);
    if names.clone().any(|name| *name == key) || key.len() > 64 {
        return None;
    }
    let slips = if key.len() < 6 { 1 } else { 2 };
    names
        .find(|name| edit_distance(key, name) <= slips)
        .copied()
}

/// How many characters to insert, delete or replace, to make `b` of `a` (Levenshtein, row by row).
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// The line up to a `#` that follows a blank, so that one inside a word or password stays.
fn uncommented(line: &str) -> &str {
    let cut = [" #", "\t#"].iter().filter_map(|mark| line.find(mark));
    cut.min().map_or(line, |at| &line[..at])
}

/// A character that no value has: a control character, or what stands for a byte that is not UTF-8.
fn is_garbage(c: char) -> bool {
    (c.is_control() && c != '\t') || c == char::REPLACEMENT_CHARACTER
}

const MAX_FILE: u64 = 1 << 20;
const SECRET: &str = "zookeeperauth";
