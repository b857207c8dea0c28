//! The service table: what a provider serves, and by which names a call finds its method.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    connection::Quota, descriptor::MethodDescriptor, error::Error, registry::ServiceName, service::Service,
    wire::Wire,
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
    methods: Vec<&'static MethodDescriptor>,
    caps: Vec<Cap>,
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
    /// Its number among all methods of the table.
    pub number: usize,
    /// The limits that its calls count towards.
    pub caps: Vec<Cap>,
}

/// How many calls of a service or method may be open at once.
#[derive(Clone)]
pub struct Cap {
    /// `package.Service` or `package.Service/Method`.
    pub name: Arc<str>,
    /// The calls.
    pub quota: Arc<Quota>,
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
            let number = self.methods.len();
            self.methods.push(method);
            let route = |service_name| {
                let (service, caps) = (service.clone(), Vec::new());
                Route { service_name, method, service, index, inline, number, caps }
            };
            self.mux.push(route(new.full_name));
            self.legacy.push(route(new.name));
        }
        self.services.push(service);
        self.legacy.retain(|route| !self.ambiguous.contains(route.service_name));
        self.mux.sort_by_key(Route::key);
        self.legacy.sort_by_key(Route::key);
        Ok(namesake.map(|known| known.full_name))
    }

    /// Limits how many calls of a service, `package.Service`, or of one method,
    /// `package.Service/Method`, may be open at once. Returns whether there is such a name.
    pub fn cap(&mut self, name: &str, limit: usize) -> bool {
        if let Some(known) = self.caps.iter().find(|cap| &*cap.name == name) {
            known.quota.set_limit(limit);
            return true;
        }
        let cap = Cap { name: name.into(), quota: Quota::new(limit) };
        let mut found = false;
        for route in self.mux.iter_mut().chain(&mut self.legacy) {
            if route.method.service == name || route.method.path() == name {
                route.caps.push(cap.clone());
                found = true;
            }
        }
        self.caps.extend(found.then_some(cap));
        found
    }

    /// The limits that were set.
    pub fn caps(&self) -> &[Cap] {
        &self.caps
    }

    /// `package.Service/Method` of each method, by its number.
    pub fn paths(&self) -> Vec<String> {
        self.methods.iter().map(|method| method.path()).collect()
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
