//! Micro-benchmarks: `cargo bench --manifest-path tests/bench/Cargo.toml -p bench-micro [-- NAME]`.

mod codec;
mod connection;
mod generator;
mod logger;
mod routes;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    codec::bench(&mut criterion);
    connection::bench(&mut criterion);
    routes::bench(&mut criterion);
    logger::bench(&mut criterion);
    generator::bench(&mut criterion);
    criterion.final_summary();
}
