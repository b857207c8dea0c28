//! mprpc as a peer, with `bytes` fields that are not copied: `Bytes`.

mod load;
mod serve;

mod proto {
    include!(concat!(env!("OUT_DIR"), "/bytes/mod.rs"));
}

/// What a `bytes` field holds.
type Field = bytes::Bytes;

/// A field that always has the same value.
fn field(value: &'static [u8]) -> Field {
    Field::from_static(value)
}

fn main() -> Result<(), mprpc_runtime::Error> {
    serve::main()
}
