//! ttrpc over TCP, with its blocking (`mode=sync`) and its asynchronous interface. `TTRPC_TCP_NODELAY_ENABLED` must be set.

mod asynchronous;
mod blocking;

use bench_load::Role;

/// Messages and service for the interface of that name.
macro_rules! generated {
    ($name:literal) => {
        #[allow(
            clippy::all,
            clippy::nursery,
            clippy::pedantic,
            clippy::restriction,
            elided_lifetimes_in_paths,
            missing_docs,
            unreachable_pub,
            unused,
            unused_qualifications,
            reason = "generated code"
        )]
        mod generated {
            include!(concat!(env!("OUT_DIR"), "/", $name, "/mod.rs"));
        }
    };
}
use generated;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match bench_load::role() {
        Role::Serve(addr, options) if options.is("mode", "sync") => blocking::serve(addr),
        Role::Serve(addr, options) => asynchronous::serve(addr, &options),
        Role::Load(load) if load.options.is("mode", "sync") => blocking::load(load),
        Role::Load(load) => asynchronous::load(load),
    }
}
