//! The mailbox, the worker pool, the quotas and the cancel token of mprpc-runtime under shuttle, which
//! runs them one step at a time, in many orders, and connections between them. `tests/` has the models; `build.rs` makes the copy.
//!
//! Shuttle knows no time and no memory orderings: nothing times out, all atomics are sequential.
#![allow(dead_code, clippy::all, reason = "a part of the runtime, copied: its own crate is linted")]

include!(concat!(env!("OUT_DIR"), "/runtime/mod.rs"));

/// `std` as the copied files see it.
pub mod modelled {
    pub use std::*;

    /// `std::sync`, with what blocks or races replaced.
    pub mod sync {
        pub use shuttle::sync::{Condvar, Mutex, MutexGuard, atomic};
        pub use std::sync::*;
    }

    /// `std::thread`, with what starts one replaced.
    pub mod thread {
        pub use shuttle::thread::{Builder, JoinHandle, spawn, yield_now};

        /// Two: fewer than the workers of the models.
        ///
        /// # Errors
        /// None.
        pub fn available_parallelism() -> std::io::Result<std::num::NonZero<usize>> {
            Ok(std::num::NonZero::new(2).unwrap_or(std::num::NonZero::<usize>::MIN))
        }
    }
}
