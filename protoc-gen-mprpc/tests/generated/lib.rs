//! Generated code in a crate that turns on every lint it can think of and refuses what they find.
//!
//! Once public, once private: the lints on unused and on unreachable items see different things. `generated-2021` is the same crate in an
//! older edition.

#![deny(
    warnings,
    elided_lifetimes_in_paths,
    keyword_idents,
    let_underscore_drop,
    missing_debug_implementations,
    missing_docs,
    rust_2018_idioms,
    rust_2024_compatibility,
    single_use_lifetimes,
    trivial_casts,
    unreachable_pub,
    unused_lifetimes,
    unused_qualifications,
    clippy::nursery,
    clippy::pedantic,
    clippy::unwrap_used,
    rustdoc::all
)]

/// What other crates see.
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/mprpc/mod.rs"));
}

mod private {
    include!(concat!(env!("OUT_DIR"), "/mprpc/mod.rs"));
}

#[cfg(test)]
mod tests {
    use super::proto::tricky_mprpc::{
        CollisionsRpc, CollisionsRpc_Stub, EchoRpc_, EmptyRpc_Stub, TypesRpc_Stub,
    };
    use super::proto::user_mprpc::UserServiceRpc;
    use mprpc_runtime::{MethodDescriptor, Service};
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn descriptors_say_what_the_file_says() {
        let service = TypesRpc_Stub::descriptor();
        assert_eq!(
            (service.full_name, service.name),
            ("tricky.v1.TypesRpc", "TypesRpc")
        );
        let names: Vec<_> = service.methods.iter().map(|method| method.name).collect();
        assert_eq!(names, ["Ping", "Struct", "Common", "Pool", "Old"]);

        let [ping, _, common, pool, _] = service.methods else {
            panic!("five methods")
        };
        assert_eq!(common.path(), "tricky.v1.TypesRpc/Common");
        assert_eq!(
            (common.request_type, common.response_type),
            ("tricky.common.Page", "tricky.common.Page.Entry")
        );
        assert_eq!(
            options(common),
            (true, true, false, Some(Duration::from_millis(200)))
        );
        assert_eq!(options(pool), (false, false, false, None));
        assert_eq!(options(ping), (false, false, true, None));
        assert!(EmptyRpc_Stub::descriptor().methods.is_empty());
    }

    fn options(method: &MethodDescriptor) -> (bool, bool, bool, Option<Duration>) {
        (
            method.inline,
            method.idempotent,
            method.empty_response,
            method.timeout,
        )
    }

    #[test]
    fn wire_names_stay_as_they_are_in_the_file() {
        let names: Vec<_> = CollisionsRpc_Stub::descriptor()
            .methods
            .iter()
            .map(|method| method.name)
            .collect();
        for name in [
            "New", "XAsync", "X", "GetURL", "GetUrl", "get_url", "_1", "__",
        ] {
            assert!(names.contains(&name), "{name}");
        }
    }

    #[derive(Clone)]
    struct Everything;

    impl UserServiceRpc for Everything {}
    impl CollisionsRpc for Everything {}
    impl EchoRpc_ for Everything {}

    #[test]
    fn one_type_may_be_several_services_and_stand_behind_an_arc() {
        let services: [Box<dyn Service>; 3] = [
            Box::new(UserServiceRpc::service(Everything)),
            Box::new(CollisionsRpc::service(Arc::new(Everything))),
            Box::new(EchoRpc_::service(Everything)),
        ];
        let names = services.map(|service| service.descriptor().full_name);
        assert_eq!(
            names,
            [
                "fixbug.UserServiceRpc",
                "tricky.v1.Collisions",
                "tricky.v1.Echo"
            ]
        );
    }
}
