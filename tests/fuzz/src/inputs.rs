//! Inputs that may be right, or nearly: bytes that get past the first check and reach the others.

use mprpc_runtime::wire::{
    Dialect, legacy,
    mux::{Hello, Kind, RequestMeta, ResponseMeta, finish_frame, start_frame},
};
use protobuf::{
    Message,
    descriptor::{
        DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
        FileDescriptorProto, MethodDescriptorProto, OneofDescriptorProto, ServiceDescriptorProto,
        field_descriptor_proto::{Label, Type},
    },
    plugin::CodeGeneratorRequest,
};

use crate::random::Random;

/// Every way to write a legacy length.
pub const DIALECTS: [Dialect; 3] = [Dialect::LittleEndian, Dialect::BigEndian, Dialect::Varint];

/// A schedule and what a peer sends: perhaps an honest beginning, then anything.
pub fn connection(random: &mut Random) -> Vec<u8> {
    let mut bytes = random.next().to_le_bytes().to_vec();
    if !random.one_in(4) {
        hello(random, &mut bytes);
    }
    for _ in 0..random.below(20) {
        frame(random, &mut bytes);
    }
    bytes
}

/// A frame of either wire that may be right, or nearly, or noise.
pub fn frame(random: &mut Random, out: &mut Vec<u8>) {
    let (start, id) = (out.len(), random.next() % 12);
    match random.below(12) {
        0..4 => request(random, id, out),
        4 | 5 => response(random, id, out),
        6 => hello(random, out),
        7 => {
            let kind = random.pick(&[Kind::Cancel, Kind::Ping, Kind::Pong, Kind::GoAway]);
            let start = start_frame(out, kind, 0, id, |_| ());
            out.extend(random.bytes(40));
            finish_frame(out, start);
        }
        8 => {
            let kind = random.pick(&[Kind::Request, Kind::Response, Kind::Data, Kind::Hello]);
            let flags = random.next() as u8;
            let start = start_frame(out, kind, flags, id, |out| out.extend(random.bytes(40)));
            out.resize(out.len() + random.below(20_000), 0);
            finish_frame(out, start);
        }
        9 => out.extend(legacy(random)),
        10 => out.extend(random.bytes(60)),
        _ => {
            // A header that lies about what follows.
            let start = start_frame(out, Kind::Request, 1, id, |_| ());
            out[start + 4] = random.next() as u8;
            let lie = (random.next() as u32) >> random.below(32);
            out[start + 8..start + 12].copy_from_slice(&lie.to_le_bytes());
        }
    }
    if random.one_in(5) {
        let mut tail = out.split_off(start);
        random.mutate(&mut tail);
        out.extend(tail);
    }
}

fn hello(random: &mut Random, out: &mut Vec<u8>) {
    let sizes = [0, 1, 256, 65_535, u32::MAX];
    let hello = Hello {
        version: if random.one_in(6) { random.next() as u32 } else { 1 },
        instance: random.next(),
        max_header: random.pick(&sizes),
        max_body: random.pick(&sizes),
        min_ping_interval_ms: random.pick(&sizes),
        max_calls: random.pick(&sizes),
    };
    hello.write(out);
}

fn request(random: &mut Random, id: u64, out: &mut Vec<u8>) {
    let body = random.bytes(300);
    let meta = RequestMeta {
        service: random.pick(&["pkg.Svc", "Svc", "", "../../etc", "a\u{0}b"]),
        method: random.pick(&["Echo", "Later", "Drop", "Big", "Nope", ""]),
        timeout_us: random.pick(&[None, Some(0), Some(1), Some(50_000), Some(u64::MAX)]),
        metadata: if random.one_in(3) { vec![("k", b"v"), ("k", b"w"), ("", b"")] } else { Vec::new() },
        compression: u32::from(random.one_in(20)),
        attachment_size: if random.one_in(4) { random.below(400) as u32 } else { 0 },
    };
    let flags = u8::from(!random.one_in(20));
    let start = start_frame(out, Kind::Request, flags, id, |out| meta.encode(out));
    out.extend(body);
    finish_frame(out, start);
}

fn response(random: &mut Random, id: u64, out: &mut Vec<u8>) {
    let details = random.bytes(20);
    let meta = ResponseMeta {
        code: if random.one_in(3) { random.next() as u32 % 20 } else { 0 },
        message: random.pick(&["", "no", "\u{1b}[2J\n"]),
        details: &details,
        retryable: random.one_in(3),
        attachment_size: if random.one_in(4) { random.below(400) as u32 } else { 0 },
        stages_us: vec![1; random.below(3)],
        ..Default::default()
    };
    let start = start_frame(out, Kind::Response, 1, id, |out| meta.encode(out));
    out.extend(random.bytes(300));
    finish_frame(out, start);
}

/// The meta of one of the three frames that have one.
pub fn meta(random: &mut Random) -> Vec<u8> {
    let mut frame = Vec::new();
    match random.below(3) {
        0 => hello(random, &mut frame),
        1 => request(random, 1, &mut frame),
        _ => response(random, 1, &mut frame),
    }
    let len = usize::from(u16::from_le_bytes([frame[6], frame[7]]));
    frame[20..20 + len].to_vec()
}

/// How connections begin, ours and others'.
pub fn first_bytes(random: &mut Random) -> Vec<u8> {
    let known: [&[u8]; 8] = [
        b"MRPC\x00",
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00",
        b"PRI * HTTP/2.0",
        b"\x18\0\0\0\x0a\x08",
        b"\0\0\0\x18\x0a\x08",
        b"\x18\x0a\x08UserServ",
        b"\x98\x01\x0a\x90\x01",
    ];
    random.pick(&known).to_vec()
}

/// A request of the C++ framework.
pub fn legacy(random: &mut Random) -> Vec<u8> {
    let (mut bytes, body) = (Vec::new(), random.bytes(200));
    let lie = if random.one_in(6) { random.next() as u32 } else { body.len() as u32 };
    let dialect = random.pick(&DIALECTS);
    let name = random.pick(&["Svc", "UserServiceRpc", "", "\u{1b}[2J"]);
    legacy::write_request_head(&mut bytes, dialect, name, random.pick(&["Echo", "Later", ""]), lie);
    bytes.extend(body);
    bytes
}

/// Lines of a configuration file.
pub fn config(random: &mut Random) -> Vec<u8> {
    let keys = [
        "rpcserverip",
        "rpcServerPort",
        "zookeeperip",
        "zkPort",
        "zookeeperauth",
        "zookeepertimeout",
        "peers",
        "advertise",
        "protocol",
        "legacy",
        "legacy_mirror",
        "io_threads",
        "timeout",
        "max_body",
        "max_header",
        "log_dir",
        "log_level",
        "log_max_size",
        "spin_us",
        "[section]",
        "# key",
        "application_key",
        "timeuot",
    ];
    let values = [
        "127.0.0.1",
        "8000",
        "0",
        "65536",
        "-1",
        "10s",
        "5",
        "1h",
        "4M",
        "1G",
        "99999999999999999999",
        "on",
        "off",
        "mux",
        "legacy-be",
        "::1",
        "[::1]:80",
        "10.0.0.5:8000, 10.0.0.6:8000",
        "h1:2181,h2/chroot",
        "digest:user:pa#ss",
        "",
        "\u{202e}x",
        "a\tb",
        "\"quoted\"",
        "info",
        "1ms",
    ];
    let mut text = if random.one_in(6) { "\u{feff}".to_owned() } else { String::new() };
    for _ in 0..random.below(10) {
        text += random.pick(&keys);
        text += random.pick(&["=", " = ", "\t=", "", " == "]);
        text += random.pick(&values);
        text += random.pick(&["\n", "\r\n", " # comment\n", "\n\n", "\r", " "]);
    }
    text.into_bytes()
}

/// A node's name and its data.
pub fn znode(random: &mut Random) -> Vec<u8> {
    let addresses = [
        "10.0.0.5:8000",
        "[2001:db8::1]:80",
        "1.2.3.4:0",
        "0.0.0.0:80",
        "224.0.0.1:80",
        "1.2.3.4:080",
        "host:80",
        "[::ffff:10.0.0.1]:80",
        "1.2.3.4:99999",
        ":",
    ];
    let name = random.pick(&addresses);
    let addr = if random.one_in(4) { random.pick(&addresses) } else { name };
    let mut text = match random.below(3) {
        0 => format!("{name}\n{addr}{}", random.pick(&["", "\0", "\0mprpc", ";w=1", "\n", " "])),
        _ => {
            let proto = random.pick(&["mux", "mux,legacy", "legacy", "morse", ""]);
            let weight = random.pick(&["100", "0", "10000", "10001", "-1", "x"]);
            let state = random.pick(&["up", "draining", "dead", ""]);
            format!(
                "{name}\nv=1\nid=00000000feedbeef\naddr={addr}\nproto={proto}\nweight={weight}\nstate={state}\n"
            )
        }
    };
    if random.one_in(8) {
        text += &"x".repeat(random.below(2000));
    }
    text.into_bytes()
}

/// A request to the generator about files that protoc would make, and some that it would not.
pub fn generator(random: &mut Random) -> Vec<u8> {
    let mut request = CodeGeneratorRequest::new();
    let files = 1 + random.below(3);
    let mut types: Vec<String> = Vec::new();
    for n in 0..files {
        let mut file = FileDescriptorProto::new();
        file.set_name(format!("{}{n}.proto", random.pick(&["user", "dir/a-b", "type", "9", "Self"])));
        if !random.one_in(20) {
            file.set_syntax(random.pick(&["proto3", "proto2"]).into());
        }
        file.set_package(random.pick(&["", "pkg", "a.b_c", "fn.type"]).into());
        let generic = !random.one_in(6);
        file.options.mut_or_insert_default().set_cc_generic_services(generic);
        for _ in 0..random.below(4) {
            let message = message(random, 2);
            let package = file.package();
            let dot = if package.is_empty() { "" } else { "." };
            types.push(format!("{dot}{package}.{}", message.name()));
            file.message_type.push(message);
        }
        if random.one_in(3) {
            let mut kind = EnumDescriptorProto::new();
            kind.set_name(name(random));
            for number in 0..random.below(3) {
                let mut value = EnumValueDescriptorProto::new();
                value.set_name(name(random));
                value.set_number(number as i32);
                kind.value.push(value);
            }
            file.enum_type.push(kind);
        }
        for _ in 0..random.below(3) {
            file.service.push(service(random, &types));
        }
        if n > 0 && random.one_in(2) {
            file.dependency.push(request.proto_file[n - 1].name().to_owned());
        }
        if !random.one_in(4) {
            request.file_to_generate.push(file.name().to_owned());
        }
        request.proto_file.push(file);
    }
    if random.one_in(4) {
        request.set_parameter(
            random
                .pick(&[
                    "generic_services=warn",
                    "generic_services=require",
                    "generic_services=ignore",
                    "x=y",
                ])
                .into(),
        );
    }
    request.write_to_bytes().unwrap_or_default()
}

fn name(random: &mut Random) -> String {
    if random.one_in(60) {
        return random.pick(&["r#fn", "1a", "", "\u{e4}", "x y", "try", "gen"]).to_owned();
    }
    let names = [
        "User",
        "Login",
        "login",
        "Get_Friends",
        "getFriends",
        "Self",
        "self",
        "type",
        "async",
        "New",
        "With",
        "ControlledBy",
        "Call",
        "Echo",
        "EchoAsync",
        "EchoStart",
        "echo_deferred",
        "UserServiceRpc",
        "UserServiceRpc_Stub",
        "Result",
        "Option",
        "String",
        "Box",
        "Vec",
        "Status",
        "Controller",
        "Reply",
        "crate",
        "super",
        "union",
        "fn",
        "_",
        "__",
        "a1",
        "A",
        "Message",
        "descriptor",
        "service",
    ];
    random.pick(&names).to_owned()
}

fn message(random: &mut Random, depth: usize) -> DescriptorProto {
    let mut message = DescriptorProto::new();
    message.set_name(name(random));
    for number in 1..random.below(5) {
        let mut field = FieldDescriptorProto::new();
        field.set_name(name(random));
        field.set_number(number as i32);
        field.set_label(random.pick(&[Label::LABEL_OPTIONAL, Label::LABEL_REPEATED, Label::LABEL_REQUIRED]));
        field.set_type(random.pick(&[
            Type::TYPE_STRING,
            Type::TYPE_INT32,
            Type::TYPE_BYTES,
            Type::TYPE_GROUP,
        ]));
        if random.one_in(6) {
            field.set_oneof_index(random.below(3) as i32 - 1);
        }
        message.field.push(field);
    }
    if random.one_in(5) {
        let mut oneof = OneofDescriptorProto::new();
        oneof.set_name(name(random));
        message.oneof_decl.push(oneof);
    }
    if depth > 0 && random.one_in(3) {
        message.nested_type.push(self::message(random, depth - 1));
    }
    message
}

fn service(random: &mut Random, types: &[String]) -> ServiceDescriptorProto {
    let mut service = ServiceDescriptorProto::new();
    service.set_name(name(random));
    let type_name = |random: &mut Random| match types.len() {
        0 => ".pkg.Nothing".to_owned(),
        n if !random.one_in(20) => types[random.below(n)].clone(),
        _ => name(random),
    };
    let most = if random.one_in(20) { 300 } else { 6 };
    for _ in 0..random.below(most) {
        let mut method = MethodDescriptorProto::new();
        method.set_name(name(random));
        method.set_input_type(type_name(random));
        method.set_output_type(type_name(random));
        if random.one_in(30) {
            method.set_server_streaming(true);
        }
        service.method.push(method);
    }
    service
}
