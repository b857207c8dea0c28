//! The service table: what a provider serves, and by which names a call finds its method.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    descriptor::MethodDescriptor, error::Error, registry::ServiceName, service::Service, wire::Wire,
};

/// The services of a provider, and for each name on a wire the method it means.
#[derive(Default)]
pub struct ServiceTable {
    services: Vec<Arc<dyn Service>>,
    /// Sorted by service and method, under full names.
    mux: Vec<Route>,
    /// The same under short names, without those that two services share.
    legacy: Vec<Route>,
    ambiguous: BTreeSet<&'static str>,
}

/// Where a name leads.
#[derive(Clone)]
pub struct Route {
    service_name: &'static str,
    /// What the .proto file says of the method.
    pub method: &'static MethodDescriptor,
    /// Who serves it.
    pub service: Arc<dyn Service>,
    /// Its place in the service's descriptor.
    pub index: usize,
    /// Whether it runs on the reactor's thread.
    pub inline: bool,
}

impl ServiceTable {
    /// Adds a service. Returns the other service with the same short name, if there is one: then
    /// the legacy wire serves neither.
    ///
    /// # Errors
    /// The service is there already.
    pub fn add(
        &mut self,
        service: Arc<dyn Service>,
        all_inline: bool,
    ) -> Result<Option<&'static str>, Error> {
        let new = service.descriptor();
        if self.services.iter().any(|known| known.descriptor().full_name == new.full_name) {
            return Err(Error::Usage(format!("{} was notified twice", new.full_name)));
        }
        let namesake =
            self.services.iter().map(|known| known.descriptor()).find(|known| known.name == new.name);
        if namesake.is_some() {
            self.ambiguous.insert(new.name);
        }
        for (index, method) in new.methods.iter().enumerate() {
            let inline = method.inline || all_inline;
            let route =
                |service_name| Route { service_name, method, service: service.clone(), index, inline };
            self.mux.push(route(new.full_name));
            self.legacy.push(route(new.name));
        }
        self.services.push(service);
        self.legacy.retain(|route| !self.ambiguous.contains(route.service_name));
        self.mux.sort_by_key(Route::key);
        self.legacy.sort_by_key(Route::key);
        Ok(namesake.map(|known| known.full_name))
    }

    /// The method that a name on `wire` means.
    pub fn find(&self, wire: Wire, service: &str, method: &str) -> Option<&Route> {
        let routes = if wire == Wire::Mux { &self.mux } else { &self.legacy };
        let at = routes.binary_search_by(|route| route.key().cmp(&(service, method))).ok()?;
        Some(&routes[at])
    }

    /// True if nothing was added.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// What the registry is to be told.
    pub fn names(&self) -> Vec<ServiceName> {
        self.services.iter().map(|service| service.descriptor().into()).collect()
    }
}

impl Route {
    fn key(&self) -> (&'static str, &'static str) {
        (self.service_name, self.method.name)
    }
}
