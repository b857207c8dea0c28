//! The floor: the same calls with nothing around them.
//!
//! `kind=mio` (peer `floor`) is one thread with one epoll instance on each side, which answers all requests of a read with one
//! write. `kind=threads` (peer `floor-threads`) is a thread per connection on each side, which writes and reads by turns.
//! Neither finds a service by name, keeps a deadline, or survives a bad peer.

mod client;
mod frame;
mod link;
mod messages;
mod server;
mod threads;

use bench_load::Role;

fn main() -> std::io::Result<()> {
    match bench_load::role() {
        Role::Serve(addr, options) if options.is("kind", "threads") => threads::serve(addr),
        Role::Serve(addr, _) => server::serve(addr),
        Role::Load(load) if load.options.is("kind", "threads") => threads::load(&load),
        Role::Load(load) => client::load(&load),
    }
}
