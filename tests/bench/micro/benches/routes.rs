//! Route look-up: a method by its names, in a table of one service and in one of a hundred.

use std::{hint::black_box, sync::Arc};

use criterion::Criterion;
use mprpc_runtime::{
    MethodDescriptor, ServerCall, Service, ServiceDescriptor, table::ServiceTable, wire::Wire,
};

/// A service that is only looked up.
struct Named(&'static ServiceDescriptor);

impl Service for Named {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        self.0
    }

    fn call_method(&self, _: usize, call: ServerCall<'_>) {
        call.unimplemented();
    }
}

/// Services `bench.Service00` and so on, of five methods each. Their names live as long as the process.
fn table(services: usize) -> ServiceTable {
    let mut table = ServiceTable::default();
    for n in 0..services {
        let full: &str = format!("bench.Service{n:02}").leak();
        let methods: Vec<_> = ["Login", "Logout", "Register", "Rename", "Remove"]
            .map(|name| MethodDescriptor::new(full, name, "bench.Request", "bench.Response"))
            .into();
        let descriptor = ServiceDescriptor::new(full, &full["bench.".len()..], methods.leak());
        table.add(Arc::new(Named(Box::leak(Box::new(descriptor)))), false).expect("names that differ");
    }
    table
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("routes");
    for services in [1, 100] {
        let table = table(services);
        let name = format!("bench.Service{:02}", services / 2);
        assert!(table.find(Wire::Mux, &name, "Register").is_some());
        group.bench_function(format!("one of {services} services"), |b| {
            b.iter(|| black_box(table.find(Wire::Mux, black_box(&name), black_box("Register")).is_some()));
        });
    }
    group.finish();
}
