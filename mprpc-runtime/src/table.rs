//! The service table: what a provider serves, and by which names a call finds its method.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    connection::{Known, Quota},
    descriptor::MethodDescriptor,
    error::Error,
    registry::ServiceName,
    service::Service,
    wire::{Wire, mux::RequestMeta},
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
    methods: Vec<(Arc<dyn Service>, usize)>,
    caps: Vec<Cap>,
    /// The names of `mux` as they stand at the front of a request's meta, sorted by that, with their places there.
    encoded: Vec<(Vec<u8>, usize)>,
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
    /// What the program allows; the configuration goes over it.
    own: usize,
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
            self.methods.push((service.clone(), index));
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
        self.encoded = self.mux.iter().enumerate().map(|(place, route)| (route.encoded(), place)).collect();
        self.encoded.sort();
        self.legacy.sort_by_key(Route::key);
        Ok(namesake.map(|known| known.full_name))
    }

    /// Limits how many calls of a service, `package.Service`, or of one method,
    /// `package.Service/Method`, may be open at once. Returns whether there is such a name.
    pub fn cap(&mut self, name: &str, limit: usize) -> bool {
        if let Some(known) = self.caps.iter_mut().find(|cap| &*cap.name == name) {
            known.quota.set_limit(limit);
            known.own = limit;
            return true;
        }
        let cap = Cap { name: name.into(), quota: Quota::new(limit), own: limit };
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

    /// Whether calls of this name are counted.
    pub fn is_capped(&self, name: &str) -> bool {
        self.caps.iter().any(|cap| &*cap.name == name)
    }

    /// Sets the limits that the configuration has, of names that are counted, and takes back those that
    /// it no longer has.
    pub fn set_caps(&self, limits: &[(String, usize)]) {
        for cap in &self.caps {
            let limit = limits.iter().rev().find(|(name, _)| **name == *cap.name);
            cap.quota.set_limit(limit.map_or(cap.own, |(_, limit)| *limit));
        }
    }

    /// `package.Service/Method` of each method, by its number.
    pub fn paths(&self) -> Vec<String> {
        self.methods.iter().map(|(service, index)| service.descriptor().methods[*index].path()).collect()
    }

    /// The service of the method with this number, and its place in there.
    pub fn method(&self, number: usize) -> (&dyn Service, usize) {
        let (service, index) = &self.methods[number];
        (&**service, *index)
    }

    /// Recognizes the method whose names `meta`, of a mux request, begins with; looks at `last` first.
    pub fn recognize(&self, meta: &[u8], last: usize) -> Option<Known> {
        let hit = self.encoded.get(last).is_some_and(|(names, _)| meta.starts_with(names));
        let at = if hit {
            last
        } else {
            // Texts with a length before them: none is the beginning of another.
            let front = |names: &[u8]| &meta[..meta.len().min(names.len())];
            self.encoded.binary_search_by(|(names, _)| names.as_slice().cmp(front(names))).ok()?
        };
        let (names, place) = &self.encoded[at];
        let route = &self.mux[*place];
        Some(Known { service: route.service_name, method: route.method.name, len: names.len(), at })
    }

    /// The route that was recognized at this place. Who decorates the dispatch may have changed the
    /// names since: then there is none.
    pub fn recognized(&self, at: usize, service: &str, method: &str) -> Option<&Route> {
        let route = &self.mux[self.encoded.get(at)?.1];
        let same = std::ptr::eq(route.service_name, service) && std::ptr::eq(route.method.name, method);
        same.then_some(route)
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
    /// The names as they stand at the front of a request's meta.
    fn encoded(&self) -> Vec<u8> {
        let mut names = Vec::new();
        let (service, method) = self.key();
        RequestMeta { service, method, ..Default::default() }.encode(&mut names);
        names
    }

    fn key(&self) -> (&'static str, &'static str) {
        (self.service_name, self.method.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{descriptor::ServiceDescriptor, service::ServerCall};

    struct Fake(&'static ServiceDescriptor);

    impl Service for Fake {
        fn descriptor(&self) -> &'static ServiceDescriptor {
            self.0
        }

        fn call_method(&self, _method: usize, call: ServerCall<'_>) {
            call.unimplemented();
        }
    }

    const fn method(service: &'static str, name: &'static str) -> MethodDescriptor {
        MethodDescriptor::new(service, name, "Q", "R")
    }

    #[test]
    fn names_are_recognized_at_the_front_of_a_meta_and_nowhere_else() {
        static LONG: ServiceDescriptor = ServiceDescriptor::new(
            "p.LongRpc",
            "LongRpc",
            &[method("p.LongRpc", "A"), method("p.LongRpc", "AB")],
        );
        static SHORT: ServiceDescriptor = ServiceDescriptor::new("S", "S", &[method("S", "AB")]);
        let mut table = ServiceTable::default();
        for descriptor in [&LONG, &SHORT] {
            table.add(Arc::new(Fake(descriptor)), false).unwrap();
        }
        let meta = |service, method| {
            let mut meta = Vec::new();
            RequestMeta { service, method, timeout_us: Some(7), ..Default::default() }.encode(&mut meta);
            meta
        };
        for (service, method) in [("p.LongRpc", "A"), ("p.LongRpc", "AB"), ("S", "AB")] {
            let meta = meta(service, method);
            for last in 0..4 {
                let known = table.recognize(&meta, last).unwrap();
                assert_eq!((known.service, known.method), (service, method));
                assert_eq!(meta[known.len..], [0x18, 7], "what is left is the timeout");
                let route = table.recognized(known.at, known.service, known.method).unwrap();
                assert_eq!(route.method.path(), format!("{service}/{method}"));
                assert!(table.recognized(known.at, "other", known.method).is_none());
            }
            for cut in 0..meta.len() - 2 {
                assert!(table.recognize(&meta[..cut], 0).is_none(), "cut after {cut}");
            }
        }
        assert!(table.recognize(&meta("S", "A"), 2).is_none());
        // The other order, which protobuf allows, is left to the decoder.
        assert!(table.recognize(&[0x12, 2, b'A', b'B', 0x0A, 1, b'S'], 0).is_none());
    }
}
