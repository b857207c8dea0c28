//! The configuration: a file of `key = value` lines, the environment over it, typed settings out of both.
//!
//! What counts, first to last: [`MprpcConfig::set`], the environment (`MPRPC_<KEY>`), the file, the
//! default. Every key with its default and meaning stands in one table, in `settings`.

mod settings;
mod value;

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fmt, fs,
    io::Read,
    path::{Path, PathBuf},
};

use configparser::ini::{Ini, IniDefault};

use crate::error::Error;
use settings::{KEYS, Key};

pub use settings::Settings;
pub use value::{LegacyClose, LegacyEmpty, LegacyEnd, LegacyMirror, LogLevel, Protocol, ZooKeeperAddress};

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
    /// Where it was read from.
    file: Option<PathBuf>,
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
    /// looked at. Without a file the settings are the environment's and the defaults; if then an
    /// argument ends in `.conf`, that is worth a warning.
    ///
    /// # Errors
    /// `-i` without a file, and all that [`from_file`](Self::from_file) refuses.
    pub fn from_args(args: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Self, Error> {
        let mut args = args.into_iter().map(Into::into).skip(1);
        let (mut file, mut stray) = (None, None);
        while let Some(arg) = args.next().filter(|arg| arg != "--") {
            let text = arg.to_string_lossy();
            let glued = text.strip_prefix("--config=").or_else(|| text.strip_prefix("-i"));
            let name = match (&*text, glued) {
                ("-i" | "--config", _) => args.next().unwrap_or_default(),
                (_, Some(name)) => name.into(),
                (_, None) => {
                    stray = stray.or_else(|| text.ends_with(".conf").then(|| value::visible(&text)));
                    continue;
                }
            };
            if name.is_empty() {
                let want = "needs the name of the configuration file, as in -i test.conf";
                return wrong(format!("command line: {text} {want}"));
            }
            file = Some(name);
        }
        let mut config = file.map_or_else(|| Self::default().with_environment(), Self::from_file)?;
        let stray = stray.filter(|_| config.file.is_none());
        let warning = |arg| format!("command line: {arg} is not read; -i {arg} makes it the configuration");
        config.warnings.extend(stray.map(warning));
        Ok(config)
    }

    /// Reads a file, then the environment over it.
    ///
    /// # Errors
    /// [`Error::Config`] if the file cannot be read, is over 1 MiB, or as [`parse`](Self::parse) says.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        let name = value::visible(&path.as_ref().to_string_lossy());
        let mut bytes = Vec::new();
        let read = fs::File::open(path.as_ref()).and_then(|f| f.take(MAX_FILE + 1).read_to_end(&mut bytes));
        match read {
            Err(e) => wrong(format!("{name}: {e}; -i FILE names the configuration file")),
            Ok(n) if n as u64 > MAX_FILE => wrong(format!("{name}: want less than 1 MiB")),
            Ok(_) => {
                let mut config = Self::parse(&String::from_utf8_lossy(&bytes), &name)?;
                config.file = Some(path.as_ref().into());
                config.with_environment()
            }
        }
    }

    /// The file it was read from.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Reads the same file again, and the environment; what the program set stays. Without a file the
    /// result is equal to this configuration.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file).
    pub fn reread(&self) -> Result<Self, Error> {
        let Some(file) = &self.file else { return Ok(self.clone()) };
        let mut new = Self::from_file(file)?;
        let own = self.values.iter().filter(|(_, given)| given.origin == PROGRAM);
        new.values.extend(own.map(|(key, given)| (key.clone(), given.clone())));
        new.rebuilt()
    }

    /// The keys of ours whose values differ in `new`, each with `key = value, was value`.
    pub(crate) fn changes(&self, new: &Self) -> Vec<(&'static str, String)> {
        let value =
            |config: &Self, key: &Key| config.get(key.names[0]).map_or_else(key.default, str::to_owned);
        let change = |key: &Key| {
            let (name, before, after) = (key.names[0], value(self, key), value(new, key));
            let text = if name == SECRET { String::new() } else { format!(" = {after}, was {before}") };
            (before != after).then(|| (name, format!("{name}{text}")))
        };
        KEYS.iter().filter_map(change).collect()
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
        // Line by line, because the parser says neither where a key stood nor that it stood twice.
        for (line, number) in text.trim_start_matches('\u{feff}').lines().zip(1..) {
            let origin = format!("{file_name}:{number}");
            let line = uncommented(line);
            let shown = value::visible(line.split('=').next().unwrap_or_default().trim());
            if line.contains(is_garbage) {
                return wrong(format!("{origin}: {shown}: want UTF-8 text without control characters"));
            }
            let Ok(sections) = ini.read(line.to_owned()) else {
                return wrong(format!("{origin}: {shown}: want a line key = value"));
            };
            for (key, value) in sections.into_values().flatten() {
                match value {
                    Some(value) => config.add(&key, value, origin.clone()),
                    None => config.warnings.push(format!("{origin}: {shown}: ignored, it has no '='")),
                }
            }
        }
        config.rebuilt()
    }

    /// The value of any key, ours or the application's, as it was written; `None` if nobody wrote it.
    /// Case does not matter and both spellings of a key find it. Defaults are in [`settings`](Self::settings).
    pub fn get(&self, key: &str) -> Option<&str> {
        Some(&self.values.get(&canonical(key))?.text)
    }

    /// Sets a key from the program, over file and environment. Nothing changes on failure.
    ///
    /// # Errors
    /// [`Error::Config`] if the value does not suit the key.
    pub fn set(&mut self, key: &str, value: impl Into<String>) -> Result<(), Error> {
        let (text, origin) = (value.into(), PROGRAM.into());
        let mut changed = self.clone();
        changed.values.insert(canonical(key), Given { text, origin });
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
            let value = match self.get(key.names[0]) {
                Some(_) if key.names[0] == SECRET => String::new(), // printing it would be telling
                Some(given) => given.to_owned(),
                None => (key.default)(),
            };
            let blank = if value.starts_with('#') { "" } else { " " }; // behind a blank it starts a comment
            format!("{} ={blank}{value} #{}", key.names[0], key.meaning)
        };
        KEYS.iter().map(line).collect()
    }

    fn with_environment(mut self) -> Result<Self, Error> {
        let mut over = Self::default();
        let mut variables: Vec<_> = env::vars_os().collect();
        variables.sort();
        for (name, value) in variables {
            let name = name.to_string_lossy();
            if let Some(key) = name.strip_prefix("MPRPC_") {
                over.add(key, value.to_string_lossy().into(), name.to_string());
            }
        }
        self.values.append(&mut over.values);
        self.warnings.append(&mut over.warnings);
        self.rebuilt()
    }

    /// Takes a value unless the key has one.
    fn add(&mut self, key: &str, text: String, origin: String) {
        let (shown, key) = (value::visible(key), canonical(key));
        if let Some(Given { origin: first, .. }) = self.values.get(&key) {
            return self.warnings.push(format!("{origin}: {shown} is ignored, it was set before ({first})"));
        }
        if let Some(known) = nearly_known(&key) {
            self.warnings.push(format!("{origin}: {shown} is unknown here; is {known} meant?"));
        }
        self.values.insert(key, Given { text, origin });
    }

    fn rebuilt(mut self) -> Result<Self, Error> {
        let text = |key: &Key| Some(self.values.get(key.names[0])?.text.clone());
        self.settings = Settings::build(text).map_err(|(key, want)| {
            let Given { text, origin } = &self.values[key]; // the defaults are right
            let shown = if key == SECRET { "(hidden)".into() } else { value::visible(text) };
            Error::Config(format!("{origin}: {key} = {shown}: want {want}"))
        })?;
        Ok(self)
    }
}

impl fmt::Debug for MprpcConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f) // the values as written hold secrets
    }
}

/// The first spelling of a key of ours, or the key in lower case.
fn canonical(key: &str) -> String {
    let key = key.to_lowercase();
    let known = KEYS.iter().find(|known| known.names.contains(&&*key));
    known.map_or(key, |known| known.names[0].to_owned())
}

/// The known key that an unknown one differs from in one place, as by a slip of the keyboard.
fn nearly_known(key: &str) -> Option<&'static str> {
    let slip = if key.len() < 6 { 1..=1 } else { 1..=2 };
    let names = KEYS.iter().flat_map(|known| known.names);
    let nearest = names.min_by_key(|name| difference(key, name))?;
    slip.contains(&difference(key, nearest)).then_some(nearest)
}

/// How many characters lie between what two keys begin with and what they end with in common.
fn difference(a: &str, b: &str) -> usize {
    let start = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a.as_bytes()[start..], &b.as_bytes()[start..]);
    let end = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
    a.len().max(b.len()) - end
}

/// The line up to a `#` at its start or behind a blank: one inside a word or password stays.
fn uncommented(line: &str) -> &str {
    let starts = |before: &str| before.is_empty() || before.ends_with([' ', '\t']);
    let mut hashes = line.match_indices('#').map(|(at, _)| &line[..at]);
    hashes.find(|before| starts(before)).unwrap_or(line)
}

fn wrong<T>(text: String) -> Result<T, Error> {
    Err(Error::Config(text))
}

/// A character that no value has: a control character, or what stands for a byte that is not UTF-8.
fn is_garbage(c: char) -> bool {
    (c.is_control() && c != '\t') || c == char::REPLACEMENT_CHARACTER
}

const MAX_FILE: u64 = 1 << 20;
const PROGRAM: &str = "set by the program";
const SECRET: &str = "zookeeperauth";
