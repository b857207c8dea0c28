//! What readers copy works: each example folder on its own, and the quick start of the README.

use std::{
    collections::hash_map::DefaultHasher,
    env, fs,
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use mprpc_runtime::MprpcConfig;
use mprpc_tests::{Process, address_in, root};

const BUILD: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_secs(20);

#[test]
fn every_example_builds_where_it_is_copied_to() {
    let mut copied = 0;
    for entry in fs::read_dir(root().join("examples")).expect("the examples") {
        let folder = entry.expect("an entry").path();
        if folder.join("Cargo.toml").exists() {
            let copy = outside("examples").join(folder.file_name().expect("a folder has a name"));
            copy_folder(&folder, &copy);
            let manifest = fs::read_to_string(copy.join("Cargo.toml")).expect("it was just copied");
            assert!(!manifest.contains("workspace = true"), "{} needs this workspace", folder.display());
            // All that its comment asks for.
            let here = format!("path = \"{}/", root().display());
            write(&copy.join("Cargo.toml"), manifest.replace("path = \"../../", &here).as_bytes());
            cargo("check", &copy);
            copied += 1;
        }
    }
    assert!(copied >= 8, "only {copied} examples were found");
}

#[test]
fn the_quick_start_of_the_readme_leads_to_an_answer() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let (_, start) = readme.split_once("## Quick start\n").expect("a quick start");
    let start = start.split("\n## ").next().unwrap_or_default();
    let folder = outside("hello");
    let _ = fs::remove_dir_all(&folder);
    let mut names = Vec::new();
    for (name, content) in files(start) {
        let content = content.replace("../mprpc/", &format!("{}/", root().display()));
        write(&folder.join(name), content.as_bytes());
        names.push(name);
    }
    assert!(
        names.contains(&"Cargo.toml") && names.contains(&"build.rs"),
        "files of the quick start: {names:?}"
    );
    cargo("build", &folder);

    // A port that is free, unlike perhaps the one in hello.conf; the rest is as it stands there.
    let program = |name: &str, port: u16| {
        let mut command = Command::new(target().join("debug").join(name));
        command.current_dir(&folder).args(["-i", "hello.conf"]).env("MPRPC_RPCSERVERPORT", port.to_string());
        Process::start(command)
    };
    let mut callee = program("hello-callee", 0);
    let addr = address_in(&callee.wait_line("RpcProvider start service at", SOON));
    let said = program("hello-caller", addr.port()).succeed(SOON);
    assert!(start.contains(&format!("\n{}\n", said.join("\n"))), "the README does not say {said:?}");
    callee.terminate();
    callee.succeed(SOON);
}

#[test]
fn the_readme_has_every_setting_and_its_default() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let rows: Vec<Vec<&str>> = readme.lines().map(|line| line.split('|').collect()).collect();
    for line in MprpcConfig::default().describe() {
        let (setting, _) = line.split_once(" #").expect("key = value #meaning");
        let (key, default) = setting.split_once(" =").expect("key = value");
        let row = rows.iter().find(|row| row.len() == 5 && row[1].contains(&format!("`{key}`")));
        let row = row.unwrap_or_else(|| panic!("the table of the README lacks {key}"));
        let of_cores = ["io_threads", "client_threads", "worker_threads", "share_above"].contains(&key);
        assert!(of_cores || row[2].contains(default.trim()), "{setting}, but {row:?}");
    }
}

/// The files that a text has one writes: a line that is only a name, then a block.
fn files(text: &str) -> Vec<(&str, String)> {
    let mut files = Vec::new();
    let mut lines = text.lines().filter(|line| !line.is_empty());
    let mut before = "";
    while let Some(line) = lines.next() {
        let name = before.strip_prefix('`').and_then(|name| name.strip_suffix("`:"));
        if let Some(name) = name.filter(|_| line.starts_with("```")) {
            let content = lines.by_ref().take_while(|line| !line.starts_with("```"));
            files.push((name, content.flat_map(|line| [line, "\n"]).collect()));
        }
        before = line;
    }
    files
}

/// A folder outside of the workspace, the same in every run, so that Cargo knows what it built there.
fn outside(name: &str) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    root().hash(&mut hasher);
    let folder = env::temp_dir().join(format!("mprpc-copies-{:x}", hasher.finish())).join(name);
    assert!(!folder.starts_with(root()), "the directory for temporary files lies in the workspace");
    folder
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("an entry has a name"));
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            write(&target, &fs::read(&path).expect("a file"));
        }
    }
}

/// Leaves a file that has this content as it is: a new one would be built again.
fn write(path: &Path, content: &[u8]) {
    if fs::read(path).is_ok_and(|old| old == content) {
        return;
    }
    fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a writable folder");
    fs::write(path, content).expect("a writable folder");
}

/// With the versions of the workspace and what was built for it, without a registry.
fn cargo(command: &str, folder: &Path) {
    write(&folder.join("Cargo.lock"), &fs::read(root().join("Cargo.lock")).expect("Cargo.lock"));
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(folder).args([command, "--offline", "--quiet", "--target-dir"]).arg(target());
    Process::start(cargo).succeed(BUILD);
}

/// Where the running test was built.
fn target() -> PathBuf {
    let test = env::current_exe().expect("the running program has a path");
    test.ancestors().nth(3).expect("a test runs in target/debug/deps").to_path_buf()
}
