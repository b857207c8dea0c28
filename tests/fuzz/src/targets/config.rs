//! A configuration file: accepted, and then it describes itself as a file that means the same; or
//! refused in one line that can be printed.

use mprpc_runtime::{Error, MprpcConfig};

pub(crate) fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match MprpcConfig::parse(&text, "fuzz.conf") {
        Ok(config) => {
            let again = config.describe().join("\n");
            let secret = config.get("zookeeperauth").is_some_and(|auth| !auth.is_empty());
            let same = MprpcConfig::parse(&again, "again.conf").expect("what we print can be read");
            if !secret {
                assert_eq!(format!("{:?}", same.settings()), format!("{:?}", config.settings()));
            }
            printable(config.warnings());
        }
        Err(Error::Config(text)) => {
            assert!(text.starts_with("fuzz.conf"), "{text:?} says where");
            printable(&[text]);
        }
        Err(other) => panic!("{other}: not an error of a configuration"),
    }
}

fn printable(texts: &[String]) {
    for text in texts {
        assert!(!text.chars().any(char::is_control), "{text:?} is one harmless line");
    }
}
