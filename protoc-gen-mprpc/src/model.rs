//! What will be generated: the files of a request, checked, with every name settled.

use crate::Error;
use crate::check::{check_messages, distinct_modules};
use crate::docs::Comments;
use crate::names::{self, MethodNames, Names};
use crate::options::{self, GenericServices, MethodExtras};
use crate::types::Types;
use protobuf::descriptor::{FileDescriptorProto, MethodDescriptorProto, ServiceDescriptorProto};
use protobuf::plugin::CodeGeneratorRequest;
use std::collections::HashMap;

pub(crate) struct Model {
    pub(crate) files: Vec<File>,
    pub(crate) warnings: Vec<String>,
}

pub(crate) struct File {
    /// As protoc knows it: `dir/user.proto`.
    pub(crate) proto: String,
    /// Module of the services, also the stem of the output: `user_mprpc`.
    pub(crate) module: String,
    pub(crate) services: Vec<Service>,
    /// Services that nothing asked for.
    pub(crate) skipped: Vec<String>,
}

pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) full_name: String,
    /// The trait; the structs are named after it.
    pub(crate) rust: String,
    pub(crate) constant: String,
    pub(crate) docs: Vec<String>,
    pub(crate) deprecated: bool,
    pub(crate) methods: Vec<Method>,
}

pub(crate) struct Method {
    pub(crate) name: String,
    pub(crate) rust: MethodNames,
    pub(crate) docs: Vec<String>,
    pub(crate) deprecated: bool,
    pub(crate) input: Message,
    pub(crate) output: Message,
    pub(crate) extras: MethodExtras,
}

#[derive(Clone)]
pub(crate) struct Message {
    /// Without the leading dot: `fixbug.LoginRequest`.
    pub(crate) full_name: String,
    /// From the module of the services: `super::user::LoginRequest`.
    pub(crate) path: String,
    /// Whether it has no fields, so that zero bytes are its only encoding.
    pub(crate) empty: bool,
}

impl Model {
    pub(crate) fn new(request: &CodeGeneratorRequest, rule: GenericServices) -> Result<Self, Error> {
        let protos: HashMap<&str, &FileDescriptorProto> =
            request.proto_file.iter().map(|file| (file.name(), file)).collect();
        distinct_modules(request)?;
        let types = Types::new(&request.proto_file)?;
        let mut model = Self { files: Vec::new(), warnings: Vec::new() };
        for name in &request.file_to_generate {
            let proto =
                protos.get(name.as_str()).ok_or_else(|| Error::new(format!("{name}: not in the request")))?;
            model.warnings.extend(check_messages(proto)?);
            let file = File::new(proto, &types, rule)?;
            model.warnings.extend(file.skipped_warning());
            model.files.push(file);
        }
        Ok(model)
    }
}

impl File {
    fn new(proto: &FileDescriptorProto, types: &Types, rule: GenericServices) -> Result<Self, Error> {
        let triggered = options::triggered(proto.options.get_or_default());
        let names: Vec<String> = proto.service.iter().map(|service| service.name().to_owned()).collect();
        let package = proto.package();
        if !package.is_empty() && !package.split('.').all(names::is_identifier) {
            return Err(Error::new(format!("{}: {package:?} is not a name for a package", proto.name())));
        }
        if let Some(name) = names.iter().find(|name| !names::is_identifier(name)) {
            return Err(Error::new(format!("{}: {name:?} is not a name for a service", proto.name())));
        }
        let mut file = Self {
            proto: proto.name().to_owned(),
            module: format!("{}_mprpc", names::module(proto.name())),
            services: Vec::new(),
            skipped: Vec::new(),
        };
        if !triggered && rule == GenericServices::Warn {
            file.skipped = names;
        } else if !triggered && rule == GenericServices::Require && !names.is_empty() {
            return Err(Error::new(format!("{}: {} not generated: {ADD_TRIGGER}", file.proto, list(&names))));
        } else {
            file.services = services(proto, types)?;
        }
        Ok(file)
    }

    fn skipped_warning(&self) -> Option<String> {
        (!self.skipped.is_empty())
            .then(|| format!("{}: {} skipped: {ADD_TRIGGER}", self.proto, list(&self.skipped)))
    }
}

fn services(proto: &FileDescriptorProto, types: &Types) -> Result<Vec<Service>, Error> {
    let comments = Comments::new(proto);
    // A service that has the suffix keeps its name, whatever its neighbours would like to be called.
    let mut order: Vec<usize> = (0..proto.service.len()).collect();
    order.sort_by_key(|&i| names::service(proto.service[i].name()) != proto.service[i].name());
    let mut traits = Names::default();
    let mut rust = vec![String::new(); order.len()];
    for i in order {
        rust[i] = traits.take(names::service(proto.service[i].name()));
    }
    let mut constants = Names::default();
    let parts = proto.service.iter().zip(rust).enumerate();
    parts
        .map(|(i, (service, rust))| {
            let constant = constants.take(names::constant(&rust));
            let path = [SERVICE, i32::try_from(i).unwrap_or(i32::MAX)];
            let file_deprecated = proto.options.deprecated();
            Ok(Service {
                name: service.name().to_owned(),
                full_name: full_name(proto, service.name()),
                rust,
                constant,
                docs: comments.lines(&path),
                deprecated: file_deprecated || service.options.deprecated(),
                methods: methods(proto, service, path, &comments, types)?,
            })
        })
        .collect()
}

fn methods(
    proto: &FileDescriptorProto,
    service: &ServiceDescriptorProto,
    path: [i32; 2],
    comments: &Comments<'_>,
    types: &Types,
) -> Result<Vec<Method>, Error> {
    let wire_names: Vec<&str> = service.method.iter().map(MethodDescriptorProto::name).collect();
    let refuse = |name: &str, why: &str| {
        Error::new(format!("{}: method {}.{name}: {why}", proto.name(), full_name(proto, service.name())))
    };
    let names = names::methods(&wire_names);
    let methods = service.method.iter().zip(names).enumerate();
    methods
        .map(|(i, (method, rust))| {
            let name = method.name();
            if !names::is_identifier(name) {
                return Err(refuse(name, "this is not a name for a method"));
            }
            if method.client_streaming() || method.server_streaming() {
                return Err(refuse(
                    name,
                    "streaming methods are not supported; remove `stream`, or return a list",
                ));
            }
            let message = |name: &str| {
                types.get(name).ok_or_else(|| refuse(method.name(), "its types are not in the request"))
            };
            Ok(Method {
                name: name.to_owned(),
                rust,
                docs: comments.lines(&[path[0], path[1], METHOD, i32::try_from(i).unwrap_or(i32::MAX)]),
                deprecated: method.options.deprecated(),
                input: message(method.input_type())?,
                output: message(method.output_type())?,
                extras: MethodExtras::new(method.options.get_or_default())
                    .map_err(|why| refuse(name, why))?,
            })
        })
        .collect()
}

fn full_name(proto: &FileDescriptorProto, name: &str) -> String {
    match proto.package() {
        "" => name.to_owned(),
        package => format!("{package}.{name}"),
    }
}

fn list(services: &[String]) -> String {
    let plural = if services.len() == 1 { "service" } else { "services" };
    format!("{plural} {}", services.join(", "))
}

const ADD_TRIGGER: &str = "add `option cc_generic_services = true;` to the file \
                           (or import \"mprpc/options.proto\" and add `option (mprpc.service) = true;`)";

// Field numbers in descriptor.proto, which make the paths of comments.
const SERVICE: i32 = 6;
const METHOD: i32 = 2;
