//! The fault matrix: breaks things under running programs and measures what they do.
//!
//! `faults registry|calls|server [--quick] [ROW...]` runs the rows of a group; `scripts/faults.sh` builds it and
//! calls it. The other sub-commands are the programs that a row starts, each a process of its own.

use std::process::ExitCode;

mod black_hole;
mod calls;
mod ledger;
mod namespace;
mod nodes;
mod proxy;
mod registry;
mod role;
mod row;
mod server;
mod stage;
mod usage;
mod zk;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((command, rest)) = args.split_first() else { return usage() };
    match &**command {
        "registry" => row::run(registry::ROWS, rest),
        "calls" => row::run(calls::ROWS, rest),
        "server" => row::run(server::ROWS, rest),
        "soak" => row::run(server::SOAK, rest),
        "provider" => role::run(role::provider),
        "caller" => role::run(role::caller),
        "crowd" => role::run(registry::crowd),
        "looker" => role::run(registry::looker),
        "serve" => role::run(server::serve),
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: faults registry|calls|server|soak [--quick] [ROW...]");
    ExitCode::from(2)
}
