//! What the plugin and the build helper say about files that are not as they should be.

mod common;

use common::{protoc, repository};
use protobuf::descriptor::{
    DescriptorProto, FileDescriptorProto, MethodDescriptorProto, ServiceDescriptorProto,
};
use protobuf::plugin::CodeGeneratorRequest;
use protoc_gen_mprpc::GenericServices;
use protoc_gen_mprpc::build::Config;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const TRIGGER: &str = "option cc_generic_services = true;";
const CHAT: &str = "message M {} service ChatRpc { rpc Say(M) returns (M); }";

#[test]
fn a_file_without_trigger_gets_a_comment_and_a_warning() {
    let files = Files::new(&[("chat.proto", &proto3(CHAT))]);
    let run = files.plugin("chat.proto", "");
    assert!(run.status.success());
    let said = stderr(&run);
    assert_eq!(said.lines().count(), 1, "{said}");
    for part in ["warning", "chat.proto", "ChatRpc", "cc_generic_services", "mprpc.service"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let made = files.read("chat_mprpc.rs");
    assert!(made.lines().all(|line| line.starts_with("//")), "{made}");
    assert!(made.contains("ChatRpc"), "{made}");
}

#[test]
fn a_file_without_services_gets_no_warning() {
    let files = Files::new(&[("chat.proto", &proto3("message M {}"))]);
    assert_eq!(stderr(&files.plugin("chat.proto", "")), "");
    assert_eq!(files.read("chat_mprpc.rs").lines().count(), 1);
}

#[test]
fn the_parameter_decides_about_a_missing_trigger() {
    let files = Files::new(&[("chat.proto", &proto3(CHAT))]);
    let run = files.plugin("chat.proto", "generic_services=require");
    assert!(!run.status.success());
    assert!(
        stderr(&run).contains("chat.proto: service ChatRpc not generated: add `option cc_generic_services"),
        "{}",
        stderr(&run)
    );

    let run = files.plugin("chat.proto", "generic_services=ignore");
    assert!(run.status.success() && run.stderr.is_empty(), "{}", stderr(&run));
    assert!(files.read("chat_mprpc.rs").contains("pub trait ChatRpc"));

    for wrong in ["generic_services=perhaps", "speed=high", "generic_services"] {
        let run = files.plugin("chat.proto", wrong);
        assert!(!run.status.success());
        assert!(stderr(&run).contains(&format!("unknown parameter `{wrong}`")), "{}", stderr(&run));
    }
}

#[test]
fn the_second_trigger_needs_no_deprecated_option() {
    let files = Files::new(&[(
        "chat.proto",
        &proto3(&format!("import \"mprpc/options.proto\"; option (mprpc.service) = true; {CHAT}")),
    )]);
    let run = files.plugin("chat.proto", "");
    assert_eq!(stderr(&run), "");
    assert!(files.read("chat_mprpc.rs").contains("pub trait ChatRpc"));
    files.helper(&["chat.proto"]).expect("the helper brings mprpc/options.proto along");
    assert!(files.read("chat_mprpc.rs").contains("pub trait ChatRpc"));
    assert!(!files.read("mod.rs").contains("options"), "{}", files.read("mod.rs"));
    assert!(!files.read("chat.rs").contains("super::options"));
}

#[test]
fn the_options_file_does_not_take_a_name_from_the_user() {
    let chat = proto3(&format!(
        "import \"mprpc/options.proto\"; import \"options.proto\"; option (mprpc.service) = true; {CHAT} message N {{ O o = 1; }}"
    ));
    let files = Files::new(&[("chat.proto", &chat), ("options.proto", &proto3("message O {}"))]);
    files.helper(&["chat.proto"]).expect("an options.proto of the user's own");
    assert!(files.read("mod.rs").contains("pub mod options;"));
}

#[test]
fn streaming_methods_are_refused_by_name() {
    let text = format!(
        "package talk; {TRIGGER} message M {{}} service Chat {{ rpc Say(M) returns (M); rpc Watch(M) returns (stream M); }}"
    );
    let files = Files::new(&[("chat.proto", &proto3(&text))]);
    let run = files.plugin("chat.proto", "");
    assert!(!run.status.success());
    for said in [stderr(&run), files.helper(&["chat.proto"]).expect_err("refused")] {
        for part in ["chat.proto", "talk.Chat.Watch", "streaming"] {
            assert!(said.contains(part), "{part} in {said}");
        }
    }
}

#[test]
fn editions_are_refused() {
    let files = Files::new(&[
        ("chat.proto", &format!("edition = \"2023\"; {TRIGGER} {CHAT}")),
        ("user.proto", &proto3("import \"chat.proto\"; message N { M m = 1; }")),
    ]);
    assert!(!files.plugin("chat.proto", "").status.success());
    for root in ["chat.proto", "user.proto"] {
        let said = files.helper(&[root]).expect_err("refused");
        assert!(said.contains("chat.proto: editions are not supported"), "{said}");
    }
}

#[test]
fn equal_module_names_are_refused() {
    let b = proto3("package b; message M {}");
    let files = Files::new(&[
        ("a/user.proto", &proto3("package a; message M {}")),
        ("b/user.proto", &b),
        (
            "both.proto",
            &proto3("import \"a/user.proto\"; import \"b/user.proto\"; message N { a.M a = 1; b.M b = 2; }"),
        ),
    ]);
    let run = files.plugin("both.proto", "");
    assert!(!run.status.success());
    for said in [
        stderr(&run),
        files.helper(&["both.proto"]).expect_err("imports"),
        files.helper(&["a/user.proto", "b/user.proto"]).expect_err("roots"),
    ] {
        for part in ["a/user.proto", "b/user.proto", "module `user`"] {
            assert!(said.contains(part), "{part} in {said}");
        }
    }
    let files = Files::new(&[
        ("user.proto", &proto3("import \"user_mprpc.proto\"; message N { M m = 1; }")),
        ("user_mprpc.proto", &proto3("message M {}")),
    ]);
    assert!(
        files.helper(&["user.proto"]).expect_err("services and messages").contains("module `user_mprpc`")
    );
}

#[test]
fn names_that_protobuf_codegen_does_not_escape_are_reported() {
    let files = Files::new(&[
        ("chat.proto", &proto3("package p; message M { string try = 1; }")),
        ("soft.proto", &proto3("package p; message M { string gen = 1; }")),
    ]);
    for said in [stderr(&files.plugin("chat.proto", "")), files.helper(&["chat.proto"]).expect_err("refused")]
    {
        assert!(said.contains("chat.proto: a field of p.M is called `try`"), "{said}");
    }
    let run = files.plugin("soft.proto", "");
    assert!(run.status.success());
    assert!(stderr(&run).contains("soft.proto: a field of p.M is called `gen`"), "{}", stderr(&run));
    files.helper(&["soft.proto"]).expect("edition 2021 takes it");
}

#[test]
fn a_timeout_of_zero_is_refused() {
    let text = format!(
        "import \"mprpc/options.proto\"; {TRIGGER} message M {{}} service Chat {{ rpc Say(M) returns (M) {{ option (mprpc.timeout_ms) = 0; }} }}"
    );
    let files = Files::new(&[("chat.proto", &proto3(&text))]);
    assert!(
        files
            .helper(&["chat.proto"])
            .expect_err("refused")
            .contains("chat.proto: method Chat.Say: (mprpc.timeout_ms) must be at least 1")
    );
}

#[test]
fn what_protoc_refuses_is_told_in_its_words() {
    let files = Files::new(&[("chat.proto", "syntax = \"proto3\"; message M { Nowhere n = 1; }")]);
    let said = files.helper(&["chat.proto"]).expect_err("refused");
    assert!(said.contains("chat.proto:1:") && said.contains("\"Nowhere\" is not defined"), "{said}");
    let said = files.helper(&["missing.proto"]).expect_err("refused");
    assert!(said.contains("missing.proto"), "{said}");
}

#[test]
fn bytes_fields_can_be_shared() {
    let files = Files::new(&[("blob.proto", &proto3("message Blob { bytes data = 1; }"))]);
    files.helper(&["blob.proto"]).expect("compiles");
    assert!(files.read("blob.rs").contains("pub data: ::std::vec::Vec<u8>"));
    let config =
        Config::new().out_dir(files.out()).tokio_bytes(true).generic_services(GenericServices::Require);
    config.compile(&[files.folder().join("blob.proto")], &[files.folder()]).expect("compiles");
    assert!(files.read("blob.rs").contains("pub data: ::bytes::Bytes"), "{}", files.read("blob.rs"));
}

#[test]
fn messages_have_the_reflection_that_the_runtime_needs() {
    let text = format!(
        "import \"mprpc/options.proto\"; option (mprpc.service) = true; option optimize_for = LITE_RUNTIME; {CHAT}"
    );
    let files = Files::new(&[("chat.proto", &proto3(&text))]);
    files.helper(&["chat.proto"]).expect("compiles");
    assert!(files.read("chat.rs").contains("impl ::protobuf::MessageFull for M"));
}

#[test]
fn an_import_gets_its_messages_and_no_services() {
    let files = Files::new(&[
        ("chat.proto", &proto3(&format!("{TRIGGER} {CHAT}"))),
        (
            "user.proto",
            &proto3(
                "import \"chat.proto\"; import \"google/protobuf/empty.proto\"; message N { M m = 1; google.protobuf.Empty e = 2; }",
            ),
        ),
    ]);
    files.helper(&["user.proto"]).expect("compiles");
    let modules: Vec<String> =
        files.read("mod.rs").lines().filter(|line| line.starts_with("pub mod")).map(str::to_owned).collect();
    assert_eq!(modules, ["pub mod chat;", "pub mod user;", "pub mod user_mprpc;"]);
    files.helper(&["user.proto", "chat.proto"]).expect("compiles");
    assert!(files.read("mod.rs").contains("pub mod chat_mprpc;"));
}

#[test]
fn input_that_is_no_request_is_an_error_of_the_plugin() {
    let mut plugin = Command::new(env!("CARGO_BIN_EXE_protoc-gen-mprpc"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the plugin");
    plugin.stdin.take().expect("its input").write_all(&[0xff; 64]).expect("bytes");
    let run = plugin.wait_with_output().expect("ends");
    assert!(!run.status.success() && run.stdout.is_empty());
    assert!(stderr(&run).contains("not a request"), "{}", stderr(&run));
}

#[test]
fn only_identifiers_become_source() {
    let evil = "x() {} } fn main() { std::process::exit(1) } trait Y { fn y";
    let mut good = FileDescriptorProto::new();
    good.set_name("dir/evil\n.proto".to_owned());
    good.set_package("p".to_owned());
    good.message_type.push(DescriptorProto { name: Some("M".to_owned()), ..Default::default() });
    let mut service = ServiceDescriptorProto { name: Some("Chat".to_owned()), ..Default::default() };
    let m = Some(".p.M".to_owned());
    service.method.push(MethodDescriptorProto {
        name: Some("Say".to_owned()),
        input_type: m.clone(),
        output_type: m,
        ..Default::default()
    });
    good.service.push(service);
    let content = generated(good.clone()).expect("names as they should be");
    assert!(
        content.starts_with("// @generated by protoc-gen-mprpc from dir/evil .proto. Do not edit.\n\n"),
        "{content}"
    );

    let spoilt: [fn(&mut FileDescriptorProto, String); 5] = [
        |file, evil| file.set_package(evil),
        |file, evil| file.service[0].set_name(evil),
        |file, evil| file.service[0].method[0].set_name(evil),
        |file, evil| file.service[0].method[0].set_input_type(format!(".p.{evil}")),
        |file, evil| file.message_type[0].set_name(evil),
    ];
    for spoil in spoilt {
        let mut file = good.clone();
        spoil(&mut file, evil.to_owned());
        generated(file).expect_err("refused");
    }
}

fn generated(file: FileDescriptorProto) -> Result<String, protoc_gen_mprpc::Error> {
    let mut request = CodeGeneratorRequest::new();
    request.file_to_generate.push(file.name().to_owned());
    request.set_parameter("generic_services=ignore".to_owned());
    request.proto_file.push(file);
    Ok(protoc_gen_mprpc::generate(&request)?.files.remove(0).content)
}

/// Some `.proto` files in a folder, and another folder for the output.
struct Files(TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let files_and_out = Self(tempfile::tempdir().expect("a folder"));
        fs::create_dir(files_and_out.out()).expect("a folder");
        for (name, text) in files {
            let path = files_and_out.folder().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
        files_and_out
    }

    fn folder(&self) -> &Path {
        self.0.path()
    }

    fn out(&self) -> std::path::PathBuf {
        self.0.path().join("out")
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.out().join(name)).expect(name)
    }

    fn plugin(&self, file: &str, parameter: &str) -> Output {
        protoc(&[self.folder(), &repository().join("proto")], file, &self.out(), parameter)
    }

    fn helper(&self, roots: &[&str]) -> Result<(), String> {
        let roots: Vec<_> = roots.iter().map(|root| self.folder().join(root)).collect();
        Config::new().out_dir(self.out()).compile(&roots, &[self.folder()]).map_err(|e| format!("{e:?}"))
    }
}

fn proto3(text: &str) -> String {
    format!("syntax = \"proto3\";\n{text}\n")
}

fn stderr(run: &Output) -> String {
    // protoc's own word on cc_generic_services is not ours.
    String::from_utf8_lossy(&run.stderr)
        .lines()
        .filter(|line| !line.contains("java_generic_services"))
        .map(|line| format!("{line}\n"))
        .collect()
}
