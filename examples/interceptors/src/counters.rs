//! How many calls ended how, and how long they took, on either side.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mprpc_runtime::{Answered, ClientInterceptor, Code, Ended, ServerInterceptor};

/// Clones count into one table.
#[derive(Clone, Default)]
pub struct Counters(Arc<Mutex<BTreeMap<(&'static str, &'static str), Count>>>);

#[derive(Default)]
struct Count {
    calls: u32,
    longest: Duration,
}

impl Counters {
    fn count(&self, method: &'static str, code: Code, took: Duration) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = table.entry((method, code.name())).or_default();
        count.calls += 1;
        count.longest = count.longest.max(took);
    }

    pub fn print(&self, title: &str) {
        for ((method, code), Count { calls, longest }) in
            &*self.0.lock().unwrap_or_else(PoisonError::into_inner)
        {
            println!("{title}: {method} {code} {calls} (longest {longest:.1?})");
        }
    }
}

impl ClientInterceptor for Counters {
    fn ended(&self, call: &Ended<'_>) {
        self.count(call.method.name, call.code(), call.elapsed);
    }
}

impl ServerInterceptor for Counters {
    fn answered(&self, call: &Answered<'_>) {
        self.count(call.method.name, call.code(), call.elapsed);
    }
}
