//! A host of its own: a network namespace with a wire to us. Needs root and `ip`.

use std::process::{Command, id};

use mprpc_tests::Process;

use crate::stage::Stage;

/// Gone, with its wire, on drop. Its processes end with their own values.
pub(crate) struct Namespace {
    name: String,
    ours: String,
}

impl Namespace {
    /// Whether one can be made here.
    pub(crate) fn possible() -> bool {
        let name = format!("mprpc-try-{}", id());
        let made = ip(&["netns", "add", &name]).is_ok();
        let _ = ip(&["netns", "del", &name]);
        made
    }

    /// Host `n`, below 60, reaches us at [`ours`](Self::ours), and has `also` on its loopback.
    pub(crate) fn new(n: u8, also: &str) -> Self {
        let name = format!("mprpc-{}-{n}", id());
        // From the block for benchmarks between networks, RFC 2544.
        let (ours, theirs) = (format!("198.18.99.{}", 4 * n + 1), format!("198.18.99.{}/30", 4 * n + 2));
        let (near, far) = (format!("mf{}a{n}", id() % 100_000), format!("mf{}b{n}", id() % 100_000));
        let this = Self { name: name.clone(), ours: ours.clone() };
        for args in [
            format!("netns add {name}"),
            format!("link add {near} type veth peer name {far} netns {name}"),
            format!("addr add {ours}/30 dev {near}"),
            format!("link set {near} up"),
            format!("-n {name} addr add {theirs} dev {far}"),
            format!("-n {name} link set {far} up"),
            format!("-n {name} link set lo up"),
            format!("-n {name} addr add {also}/32 dev lo"),
        ] {
            let args: Vec<_> = args.split(' ').collect();
            ip(&args).unwrap_or_else(|why| panic!("ip {}: {why}", args.join(" ")));
        }
        this
    }

    /// Our address on the wire.
    pub(crate) fn ours(&self) -> &str {
        &self.ours
    }

    /// Starts a role of this program there.
    pub(crate) fn role(&self, stage: &Stage, role: &str, name: &str, settings: &[(&str, &str)]) -> Process {
        stage.role_by(&["ip", "netns", "exec", &self.name], role, name, settings)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&["netns", "del", &self.name]); // and with it its end of the wire, and with that ours
    }
}

fn ip(args: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(args).output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    output.status.success().then_some(()).ok_or(text)
}
