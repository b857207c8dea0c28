//! Descriptors: what the .proto file says of services and methods, as generated code carries it.

use std::time::Duration;

use crate::registry::ServiceName;

/// What the .proto file says of a service.
#[derive(Debug)]
#[non_exhaustive]
pub struct ServiceDescriptor {
    /// `package.Service`, its name on the mux wire and in the registry.
    pub full_name: &'static str,
    /// `Service`, its name on the legacy wire.
    pub name: &'static str,
    /// In the order of the .proto file.
    pub methods: &'static [MethodDescriptor],
}

/// What the .proto file says of a method.
#[derive(Debug)]
#[non_exhaustive]
pub struct MethodDescriptor {
    /// The full name of its service.
    pub service: &'static str,
    /// The name as the .proto file spells it.
    pub name: &'static str,
    /// The full name of the request's message type.
    pub request_type: &'static str,
    /// The full name of the response's message type.
    pub response_type: &'static str,
    /// It runs on the reactor's thread instead of a worker's and must not block.
    pub inline: bool,
    /// Running it twice does what running it once does.
    pub idempotent: bool,
    /// The response type has no fields, so that a legacy reply of no bytes is one.
    pub empty_response: bool,
    /// The time a call is allowed unless the caller says otherwise.
    pub timeout: Option<Duration>,
}

impl ServiceDescriptor {
    /// For generated code.
    pub const fn new(
        full_name: &'static str,
        name: &'static str,
        methods: &'static [MethodDescriptor],
    ) -> Self {
        Self { full_name, name, methods }
    }
}

impl MethodDescriptor {
    /// For generated code.
    pub const fn new(
        service: &'static str,
        name: &'static str,
        request_type: &'static str,
        response_type: &'static str,
    ) -> Self {
        Self {
            service,
            name,
            request_type,
            response_type,
            inline: false,
            idempotent: false,
            empty_response: false,
            timeout: None,
        }
    }

    /// The method runs on the reactor's thread.
    #[must_use]
    pub const fn inline(mut self) -> Self {
        self.inline = true;
        self
    }

    /// The method may be repeated.
    #[must_use]
    pub const fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// The response type has no fields.
    #[must_use]
    pub const fn empty_response(mut self) -> Self {
        self.empty_response = true;
        self
    }

    /// The method's own time-out, in milliseconds.
    #[must_use]
    pub const fn timeout_ms(mut self, ms: u64) -> Self {
        self.timeout = Some(Duration::from_millis(ms));
        self
    }

    /// The short name of its service, as the legacy wire has it.
    pub fn short_service(&self) -> &'static str {
        self.service.rsplit('.').next().unwrap_or(self.service)
    }

    /// `package.Service/Method`, as errors and logs have it.
    pub fn path(&self) -> String {
        format!("{}/{}", self.service, self.name)
    }
}

impl From<&ServiceDescriptor> for ServiceName {
    fn from(descriptor: &ServiceDescriptor) -> Self {
        Self {
            full: descriptor.full_name.to_owned(),
            short: descriptor.name.to_owned(),
            methods: descriptor.methods.iter().map(|method| method.name.to_owned()).collect(),
        }
    }
}
