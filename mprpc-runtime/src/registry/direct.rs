//! Direct mode: the configuration names the endpoints, nobody is asked.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use super::{Endpoint, Publication, Registry, ServiceName, Snapshot};
use crate::error::Error;

/// A registry without a server: every service is taken to be served by the same fixed endpoints.
#[derive(Debug)]
pub struct DirectRegistry {
    snapshot: Arc<Snapshot>,
    source: String,
}

impl DirectRegistry {
    /// A registry that knows these endpoints and no others. They are sorted by address; of two
    /// with one address the first is kept. `source` is where they stand, for the text of a call that
    /// finds none.
    pub fn new(mut endpoints: Vec<Endpoint>, source: String) -> Self {
        endpoints.sort_by_key(|endpoint| endpoint.addr);
        endpoints.dedup_by_key(|endpoint| endpoint.addr);
        let snapshot = Arc::new(Snapshot { endpoints });
        Self { snapshot, source }
    }
}

impl Registry for DirectRegistry {
    fn publish(&self, publication: Publication) -> Result<(), Error> {
        publication.check()
    }

    fn drain(&self, _addr: SocketAddr, _deadline: Instant) {}

    fn withdraw(&self, _addr: SocketAddr, _deadline: Instant) {}

    fn lookup(&self, _service: &ServiceName, _deadline: Instant) -> Result<Arc<Snapshot>, Error> {
        Ok(Arc::clone(&self.snapshot))
    }

    fn source(&self, _service: &ServiceName) -> String {
        self.source.clone()
    }

    fn edition(&self) -> Option<u64> {
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Wire;

    #[test]
    fn every_service_is_served_by_the_given_endpoints_in_order_of_address() {
        let endpoint =
            |port, weight| Endpoint { weight, ..Endpoint::new(([127, 0, 0, 1], port).into(), Wire::Mux) };
        let registry = DirectRegistry::new(
            vec![endpoint(9001, 100), endpoint(9000, 50), endpoint(9001, 7)],
            "a test".into(),
        );
        let service = ServiceName {
            full: "fixbug.UserServiceRpc".into(),
            short: "UserServiceRpc".into(),
            methods: vec!["Login".into()],
        };
        let first = registry.lookup(&service, Instant::now()).expect("direct");
        assert_eq!(first.endpoints, [endpoint(9000, 50), endpoint(9001, 100)]);
        let again = registry.lookup(&service, Instant::now()).expect("direct");
        assert!(Arc::ptr_eq(&first, &again));
    }
}
