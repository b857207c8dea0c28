//! mprpc as a peer, with `bytes` fields as they are by default: `Vec<u8>`.

mod load;
mod serve;

mod proto {
    include!(concat!(env!("OUT_DIR"), "/vec/mod.rs"));
}

/// What a `bytes` field holds.
type Field = Vec<u8>;

/// A field that always has the same value.
fn field(value: &'static [u8]) -> Field {
    value.to_vec()
}

fn main() -> Result<(), mprpc_runtime::Error> {
    serve::main()
}
