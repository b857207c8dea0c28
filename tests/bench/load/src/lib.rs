//! The load generator: what a peer of the benchmark does not have to write itself.
//!
//! A peer is one program with two sides, which `main` learns from [`role`]:
//!
//! ```text
//! PEER serve 127.0.0.1:PORT [key=value ...]                 prints READY, serves until it is killed
//! PEER load  127.0.0.1:PORT scenario=B pid=SERVER warmup=1 secs=3 [key=value ...]
//! ```
//!
//! The load side keeps a closed loop going: every finished call is at once followed by the next. Once [`Load::begin`] has been
//! called, a thread of this crate opens and closes the measured window, prints one line of JSON and ends the process.

pub mod clock;
mod job;
mod role;
mod scenario;
mod usage;
mod window;

pub use job::{Job, NAME, OK, PWD, login_is_right};
pub use role::{Load, Options, Role, role};
pub use scenario::Scenario;

/// A server calls this once it accepts connections.
pub fn ready() {
    println!("READY");
}

/// Leaves the thread to others for good; the window ends the process.
pub fn park() -> ! {
    loop {
        std::thread::park();
    }
}
