//! A host of its own: a network namespace with a wire to us. Needs root and `ip`.

use std::process::{Command, id};

use mprpc_tests::Process;

use crate::stage::Stage;

/// Gone, with its wire, on drop. Its processes end with their own values.
pub(crate) struct Namespace {
    name: String,
    ours: String,
    theirs: String,
    /// The ends of the wire: ours and theirs.
    ends: [String; 2],
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
        let ends = [near.clone(), far.clone()];
        let (address, _) = theirs.split_once('/').expect("a network");
        let this = Self { name: name.clone(), ours: ours.clone(), theirs: address.into(), ends };
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

    /// Its address on the wire.
    pub(crate) fn theirs(&self) -> &str {
        &self.theirs
    }

    /// Whether packets get across. If not, each side has a wrong hardware address for the other: packets
    /// leave, nobody takes them, and nobody is told.
    pub(crate) fn connect(&self, passes: bool) {
        let hardware = |of: &[&str]| {
            let shown = ip(of).unwrap_or_else(|why| panic!("ip {}: {why}", of.join(" ")));
            let mut words = shown.split_whitespace().skip_while(|word| *word != "link/ether");
            words.nth(1).expect("an interface has a hardware address").to_owned()
        };
        let [near, far] = &self.ends;
        let (mut here, mut there) = (NOBODY.to_owned(), NOBODY.to_owned());
        if passes {
            here = hardware(&["link", "show", near]);
            there = hardware(&["-n", &self.name, "link", "show", far]);
        }
        for args in [
            format!("neigh replace {} lladdr {there} dev {near} nud permanent", self.theirs),
            format!("-n {} neigh replace {} lladdr {here} dev {far} nud permanent", self.name, self.ours),
        ] {
            let args: Vec<_> = args.split(' ').collect();
            ip(&args).unwrap_or_else(|why| panic!("ip {}: {why}", args.join(" ")));
        }
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

fn ip(args: &[&str]) -> Result<String, String> {
    let output = Command::new("ip").args(args).output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(said).ok_or(text)
}

/// A hardware address that no interface has.
const NOBODY: &str = "02:00:00:00:00:99";
