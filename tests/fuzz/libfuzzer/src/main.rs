//! Runs the target that `MPRPC_FUZZ_TARGET` names.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mprpc_fuzz::Target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("MPRPC_FUZZ_TARGET").expect("MPRPC_FUZZ_TARGET names a target");
    Target::named(&name).expect("a target of mprpc-fuzz")
});

fuzz_target!(|input: &[u8]| (TARGET.run)(input));
