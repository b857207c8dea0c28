//! Where protobuf-codegen 3 puts the types of a request, and which names it gets wrong.

use crate::model::Message;
use crate::{Error, names};
use protobuf::descriptor::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto};
use std::collections::HashMap;

/// All messages of a request, by full name with the leading dot.
pub(crate) struct Types(HashMap<String, Message>);

impl Types {
    pub(crate) fn new(files: &[FileDescriptorProto]) -> Result<Self, Error> {
        let mut types = Self(HashMap::new());
        for file in files {
            let module = match crate_module(file.name()) {
                Some(module) => format!("::protobuf::{module}"),
                None => format!("super::{}", names::escaped(&names::module(file.name()))),
            };
            let package =
                if file.package().is_empty() { String::new() } else { format!(".{}", file.package()) };
            for message in &file.message_type {
                types
                    .add(message, &package, &module)
                    .map_err(|text| Error::new(format!("{}: {text}", file.name())))?;
            }
        }
        Ok(types)
    }

    pub(crate) fn get(&self, name: &str) -> Option<Message> {
        self.0.get(name).cloned()
    }

    fn add(&mut self, message: &DescriptorProto, scope: &str, module: &str) -> Result<(), String> {
        let name = message.name();
        if !names::is_identifier(name) {
            return Err(format!("{name:?} is not a name for a message"));
        }
        let full_name = format!("{scope}.{name}");
        let nested = format!("{module}::{}", names::escaped(&names::nested_module(name)));
        for inner in &message.nested_type {
            self.add(inner, &full_name, &nested)?;
        }
        let info = Message {
            full_name: full_name.trim_start_matches('.').to_owned(),
            path: format!("{module}::{}", names::message(name)),
            empty: message.field.is_empty() && message.extension_range.is_empty(),
        };
        self.0.insert(full_name, info);
        Ok(())
    }
}

/// The module below `::protobuf` that has the types of a file, if the protobuf crate brings them.
pub(crate) fn crate_module(proto: &str) -> Option<String> {
    match proto.strip_prefix("google/protobuf/")?.strip_suffix(".proto")? {
        "descriptor" => Some("descriptor".to_owned()),
        stem if WELL_KNOWN.contains(&stem) => Some(format!("well_known_types::{}", names::escaped(stem))),
        _ => None,
    }
}

/// A name that protobuf-codegen should have escaped.
pub(crate) struct Unescaped {
    /// What bears the name: "field try of fixbug.LoginRequest" without the name itself.
    pub(crate) what: String,
    pub(crate) name: String,
    pub(crate) edition: &'static str,
}

/// Finds the names in a file that protobuf-codegen writes as they are although Rust reserves them.
pub(crate) fn unescaped_names(file: &FileDescriptorProto) -> Vec<Unescaped> {
    let mut found = Vec::new();
    look("the module of the file", &names::module(file.name()), &mut found);
    for message in &file.message_type {
        look_into(message, file.package(), &mut found);
    }
    for enumeration in &file.enum_type {
        look_into_enum(enumeration, file.package(), &mut found);
    }
    found
}

fn look_into(message: &DescriptorProto, scope: &str, found: &mut Vec<Unescaped>) {
    let full_name = join(scope, message.name());
    for field in &message.field {
        look(&format!("a field of {full_name}"), field.name(), found);
    }
    for oneof in &message.oneof_decl {
        look(&format!("a oneof of {full_name}"), oneof.name(), found);
    }
    let is_module =
        !message.nested_type.is_empty() || !message.enum_type.is_empty() || !message.oneof_decl.is_empty();
    if is_module {
        look(
            &format!("the module of the types in {full_name}"),
            &names::nested_module(message.name()),
            found,
        );
    }
    for nested in &message.nested_type {
        look_into(nested, &full_name, found);
    }
    for enumeration in &message.enum_type {
        look_into_enum(enumeration, &full_name, found);
    }
}

fn look_into_enum(enumeration: &EnumDescriptorProto, scope: &str, found: &mut Vec<Unescaped>) {
    let full_name = join(scope, enumeration.name());
    for value in &enumeration.value {
        look(&format!("a value of {full_name}"), value.name(), found);
    }
}

fn look(what: &str, name: &str, found: &mut Vec<Unescaped>) {
    if let Some(edition) = names::unescaped(name) {
        found.push(Unescaped { what: what.to_owned(), name: name.to_owned(), edition });
    }
}

fn join(scope: &str, name: &str) -> String {
    if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") }
}

const WELL_KNOWN: [&str; 10] = [
    "any",
    "api",
    "duration",
    "empty",
    "field_mask",
    "source_context",
    "struct",
    "timestamp",
    "type",
    "wrappers",
];
