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
    use super::proto::tricky::Nothing;
    use super::proto::tricky_mprpc::{
        CollisionsRpc, CollisionsRpc_Stub, EchoRpc_, EmptyRpc_Stub, SnakeCaseRpc, SnakeCaseRpc_Stub,
        TypesRpc_Stub,
    };
    use super::proto::user_mprpc::UserServiceRpc;
    use mprpc_runtime::{
        Controller, InProcessChannel, MethodDescriptor, MprpcController, Reply, Service, Status,
    };
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn descriptors_say_what_the_file_says() {
        let service = TypesRpc_Stub::descriptor();
        assert_eq!((service.full_name, service.name), ("tricky.v1.TypesRpc", "TypesRpc"));
        let names: Vec<_> = service.methods.iter().map(|method| method.name).collect();
        assert_eq!(names, ["Ping", "Struct", "Common", "Pool", "Old"]);

        let [ping, _, common, pool, _] = service.methods else { panic!("five methods") };
        assert_eq!(common.path(), "tricky.v1.TypesRpc/Common");
        assert_eq!(
            (common.request_type, common.response_type),
            ("tricky.common.Page", "tricky.common.Page.Entry")
        );
        assert_eq!(options(common), (true, true, false, Some(Duration::from_millis(200))));
        assert_eq!(options(pool), (false, false, false, None));
        assert_eq!(options(ping), (false, false, true, None));
        assert!(EmptyRpc_Stub::descriptor().methods.is_empty());
    }

    fn options(method: &MethodDescriptor) -> (bool, bool, bool, Option<Duration>) {
        (method.inline, method.idempotent, method.empty_response, method.timeout)
    }

    #[test]
    fn wire_names_stay_as_they_are_in_the_file() {
        let names: Vec<_> =
            CollisionsRpc_Stub::descriptor().methods.iter().map(|method| method.name).collect();
        for name in ["New", "XAsync", "X", "GetURL", "GetUrl", "get_url", "_1", "__"] {
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
        assert_eq!(names, ["fixbug.UserServiceRpc", "tricky.v1.Collisions", "tricky.v1.Echo"]);
    }

    /// Answers `call_me` late and from another thread, and `New` at once; the rest is left out.
    struct Half;

    impl SnakeCaseRpc for Half {
        fn call_me_deferred(&self, _: Controller, _: Nothing, reply: Reply<Nothing>) {
            std::thread::spawn(move || reply.send(Ok(Nothing::new())));
        }
    }

    impl CollisionsRpc for Half {
        fn new_(&self, _: &Controller, request: Nothing) -> Result<Nothing, Status> {
            Ok(request)
        }
    }

    #[test]
    fn every_form_of_a_call_reaches_its_handler() {
        let request = Nothing::new();

        let stub = SnakeCaseRpc_Stub::new(InProcessChannel::new(SnakeCaseRpc::service(Half)));
        assert_eq!(stub.call_me(&request).expect("blocking"), request);
        assert_eq!(stub.call_me_start(&request).wait().expect("pending"), request);
        let batch = stub.call_me_batch(&[request.clone(), request.clone()]);
        assert!(batch.len() == 2 && batch.iter().all(Result::is_ok), "{batch:?}");
        let (tell, told) = std::sync::mpsc::channel();
        stub.call_me_async(&request, move |result| {
            tell.send(result.is_ok()).expect("the test waits");
        });
        assert!(told.recv_timeout(Duration::from_secs(10)).expect("callback"));

        let stub = CollisionsRpc_Stub::new(InProcessChannel::new(CollisionsRpc::service(Arc::new(Half))));
        stub.new_(&request).expect("a name with an underscore");
        let mut controller = MprpcController::new();
        stub.controlled_by(&mut controller).x_async_(&request).expect_err("no handler");
        assert!(
            controller.failed()
                && controller.error_text().contains("tricky.v1.Collisions/XAsync is not implemented")
        );
    }
}
