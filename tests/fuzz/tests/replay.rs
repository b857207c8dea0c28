//! The corpus of every target, its truncations, and a few thousand inputs that are likely.

use mprpc_fuzz::{TARGETS, Target, frames, random::Random};
use protobuf::{Message, plugin::CodeGeneratorRequest};

fn target(name: &str) -> &'static Target {
    Target::named(name).expect("a target")
}

/// Every file whole, cut at up to 64 places, and mutated; then inputs made up for the occasion.
fn replay(name: &str, made_up: u64) {
    let target = target(name);
    let corpus = target.corpus().expect("every target has a corpus");
    assert!(corpus.len() >= 8, "{name} has a corpus of {}", corpus.len());
    let mut random = Random::new(1);
    for (path, input) in &corpus {
        println!("{}", path.display());
        (target.run)(input);
        let step = input.len() / 64 + 1;
        (0..input.len()).step_by(step).for_each(|cut| (target.run)(&input[..cut]));
        for _ in 0..64 {
            let mut input = input.clone();
            random.mutate(&mut input);
            (target.run)(&input);
        }
    }
    for seed in 0..made_up {
        let mut random = Random::new(seed);
        let mut input = (target.likely)(&mut random);
        if random.one_in(2) {
            random.mutate(&mut input);
        }
        (target.run)(&input);
    }
}

#[test]
fn a_server_survives_its_corpus() {
    replay("server", 3000);
}

#[test]
fn a_client_survives_its_corpus() {
    replay("client", 3000);
}

#[test]
fn metas_are_read_or_refused() {
    replay("metas", 20_000);
}

#[test]
fn first_bytes_get_one_verdict() {
    replay("sniff", 20_000);
}

#[test]
fn legacy_heads_are_read_or_refused() {
    replay("legacy", 3000);
}

#[test]
fn configuration_files_are_read_or_refused() {
    replay("config", 3000);
}

#[test]
fn znodes_are_believed_or_not() {
    replay("znode", 20_000);
}

#[test]
fn descriptors_give_rust_that_parses_or_an_error() {
    replay("generator", 600);
}

#[test]
fn a_hundred_thousand_random_frames_do_no_harm() {
    frames::feed(3, 100_000, |_| ());
}

#[test]
fn every_corpus_belongs_to_a_target() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");
    for entry in std::fs::read_dir(dir).expect("the corpus") {
        let name = entry.expect("an entry").file_name();
        assert!(TARGETS.iter().any(|target| *target.name == *name), "{name:?}");
    }
}

/// Or the target would mostly test how requests are refused.
#[test]
fn many_made_up_descriptors_give_traits() {
    let gives_a_trait = |seed: &u64| {
        let input = (target("generator").likely)(&mut Random::new(*seed));
        let request = CodeGeneratorRequest::parse_from_bytes(&input).expect("a request");
        let made = protoc_gen_mprpc::generate(&request);
        made.is_ok_and(|made| made.files.iter().any(|file| file.content.contains("pub trait")))
    };
    let good = (0..300).filter(gives_a_trait).count();
    assert!(good > 60, "{good} of 300");
}
