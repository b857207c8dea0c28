//! From names in a `.proto` file to names in Rust.

use heck::{ToShoutySnakeCase, ToSnakeCase, ToUpperCamelCase};
use std::collections::HashSet;

/// Whether `name` is an identifier of the protobuf language. Only such names reach the generated source.
pub(crate) fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The module of a file, as protobuf-codegen names it: the file's stem, other characters replaced, keywords not yet escaped.
pub(crate) fn module(proto: &str) -> String {
    let file = proto.rsplit(['/', '\\']).next().unwrap_or(proto);
    let stem = file.strip_suffix(".proto").unwrap_or(file);
    let valid = |(i, c): (usize, char)| c == '_' || c.is_ascii_alphabetic() || (i > 0 && c.is_ascii_digit());
    stem.chars().enumerate().map(|(i, c)| if valid((i, c)) { c } else { '_' }).collect()
}

/// A name as protobuf-codegen writes it: a keyword gets an underscore.
pub(crate) fn escaped(name: &str) -> String {
    if CODEGEN_KEYWORDS.contains(&name) { format!("{name}_") } else { name.to_owned() }
}

/// Whether protobuf-codegen writes `name` as it is although Rust reserves it, and since which edition.
pub(crate) fn unescaped(name: &str) -> Option<&'static str> {
    match name {
        "try" => Some("2018"),
        "gen" => Some("2024"),
        _ => None,
    }
}

/// The struct of a message: protobuf-codegen makes the first letter large.
pub(crate) fn message(name: &str) -> String {
    let mut chars = name.chars();
    let first = chars.next().map(|c| c.to_ascii_uppercase());
    escaped(&first.into_iter().chain(chars).collect::<String>())
}

/// The module of the types nested in a message, as protobuf-codegen names it, keywords not yet escaped.
pub(crate) fn nested_module(message: &str) -> String {
    protobuf_parse::snake_case(message)
}

/// Hands out names, each once: one that is taken gets underscores until it is free.
#[derive(Default)]
pub(crate) struct Names(HashSet<String>);

impl Names {
    pub(crate) fn take(&mut self, mut name: String) -> String {
        while !self.0.insert(name.clone()) {
            name.push('_');
        }
        name
    }
}

/// The trait of a service: its name with the suffix `Rpc`.
pub(crate) fn service(name: &str) -> String {
    let camel = name.starts_with(|c: char| c.is_ascii_uppercase()) && !name.contains('_');
    let name = if camel { name.to_owned() } else { name.to_upper_camel_case() };
    match name.strip_suffix("Rpc") {
        Some(_) => legal(name),
        None => legal(format!("{name}Rpc")),
    }
}

/// The static that describes the service of this trait.
pub(crate) fn constant(service: &str) -> String {
    legal(service.to_shouty_snake_case())
}

/// The functions that one method becomes, on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MethodNames {
    pub(crate) call: String,
    pub(crate) deferred: String,
    pub(crate) asynchronous: String,
    pub(crate) start: String,
    pub(crate) batch: String,
}

/// Names the methods of one service, in their order. A method that would take the name of a generated function gives way, whichever is
/// declared first: `XAsync` beside `X` becomes `x_async_`.
pub(crate) fn methods(wire_names: &[&str]) -> Vec<MethodNames> {
    let bases: Vec<String> = wire_names.iter().map(|name| base(name)).collect();
    let generated: HashSet<String> =
        bases.iter().flat_map(|base| SUFFIXES.map(|suffix| format!("{base}{suffix}"))).collect();
    let mut names =
        Names(RESERVED.iter().map(|&name| name.to_owned()).chain(generated.iter().cloned()).collect());
    let calls: Vec<String> = bases.iter().map(|base| names.take(base.clone())).collect();
    names.0.retain(|name| !generated.contains(name));
    let mut derive = |base: &str, suffix: &str| names.take(format!("{base}{suffix}"));
    calls
        .into_iter()
        .zip(&bases)
        .map(|(call, base)| MethodNames {
            call: raw(call),
            deferred: derive(base, "_deferred"),
            asynchronous: derive(base, "_async"),
            start: derive(base, "_start"),
            batch: derive(base, "_batch"),
        })
        .collect()
}

fn base(wire_name: &str) -> String {
    legal(wire_name.to_snake_case())
}

/// A name that lost its underscore in front of a digit, as `_1` does in every other spelling, gets it back.
fn legal(name: String) -> String {
    if is_identifier(&name) { name } else { format!("_{name}") }
}

/// A function name that may be a keyword.
fn raw(name: String) -> String {
    match name.as_str() {
        // These have no raw form, or are better known without it.
        "self" | "super" | "crate" | "extern" | "_" => name + "_",
        keyword if RUST_KEYWORDS.contains(&keyword) => format!("r#{name}"),
        _ => name,
    }
}

const SUFFIXES: [&str; 4] = ["_deferred", "_async", "_start", "_batch"];

/// Generated beside the methods, or methods of prelude traits that every type has and that would be hidden.
const RESERVED: [&str; 9] =
    ["new", "with", "controlled_by", "intercept", "descriptor", "service", "clone", "into", "try_into"];

const RUST_KEYWORDS: [&str; 47] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "do", "dyn", "else",
    "enum", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod",
    "move", "mut", "override", "priv", "pub", "ref", "return", "static", "struct", "trait", "true", "try",
    "type", "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
];

/// What protobuf-codegen 3.7.2 takes for keywords.
const CODEGEN_KEYWORDS: [&str; 56] = [
    "_", "as", "async", "await", "break", "crate", "dyn", "else", "enum", "extern", "false", "fn", "for",
    "if", "impl", "in", "let", "loop", "match", "mod", "move", "mut", "pub", "ref", "return", "static",
    "self", "Self", "struct", "super", "true", "trait", "type", "unsafe", "use", "while", "continue", "box",
    "const", "where", "virtual", "proc", "alignof", "become", "offsetof", "priv", "pure", "sizeof", "typeof",
    "unsized", "yield", "do", "abstract", "final", "override", "macro",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(wire_names: &[&str]) -> Vec<String> {
        methods(wire_names).into_iter().map(|names| names.call).collect()
    }

    #[test]
    fn modules_are_called_as_protobuf_codegen_calls_them() {
        for proto in [
            "user.proto",
            "a/b/user.proto",
            "my-file.v1.proto",
            "1st.proto",
            "type.proto",
            "mod.proto",
            "try.proto",
            "用户.proto",
        ] {
            assert_eq!(
                format!("{}.rs", escaped(&module(proto))),
                protobuf_codegen::proto_name_to_rs(proto),
                "{proto}"
            );
        }
    }

    #[test]
    fn services_get_the_suffix_once() {
        let names = ["UserServiceRpc", "Greeter", "snake_case", "lower", "HTTPGate"].map(service);
        assert_eq!(names, ["UserServiceRpc", "GreeterRpc", "SnakeCaseRpc", "LowerRpc", "HTTPGateRpc"]);
        assert_eq!(constant("UserServiceRpc"), "USER_SERVICE_RPC");
        assert_eq!(service("_2nd"), "_2ndRpc");
        assert_eq!(constant("_2ndRpc"), "_2ND_RPC");
    }

    #[test]
    fn keywords_become_raw_or_get_an_underscore() {
        assert_eq!(
            calls(&["Type", "Gen", "Try", "Self", "Super", "Crate"]),
            ["r#type", "r#gen", "r#try", "self_", "super_", "crate_"]
        );
        assert_eq!(methods(&["Type"])[0].asynchronous, "type_async");
    }

    #[test]
    fn a_method_gives_way_to_generated_functions_wherever_it_stands() {
        assert_eq!(calls(&["New", "With", "Intercept"]), ["new_", "with_", "intercept_"]);
        assert_eq!(calls(&["XAsync", "X"]), ["x_async_", "x"]);
        assert_eq!(calls(&["X", "XAsync"]), ["x", "x_async_"]);
        assert_eq!(calls(&["GetURL", "GetUrl", "get_url"]), ["get_url", "get_url_", "get_url__"]);
    }

    #[test]
    fn no_name_is_given_twice() {
        let names =
            methods(&["X", "x", "X_", "XAsync", "XAsyncAsync", "x_async", "XDeferred", "New", "NewAsync"]);
        let all: Vec<String> =
            names.into_iter().flat_map(|n| [n.call, n.deferred, n.asynchronous, n.start, n.batch]).collect();
        let distinct: HashSet<&String> = all.iter().collect();
        assert_eq!(distinct.len(), all.len(), "{all:?}");
    }
}
