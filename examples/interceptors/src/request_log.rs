//! A line in the log for every call that the provider answers, also for those that others refused.

use mprpc_runtime::{Answered, ServerInterceptor};

pub struct RequestLog;

impl ServerInterceptor for RequestLog {
    fn answered(&self, call: &Answered<'_>) {
        let peer = call.peer.map_or("this process".into(), |peer| peer.to_string());
        let (method, took) = (call.method.path(), call.elapsed);
        match call.failure {
            None => log::info!("{peer} {method} OK {took:.1?}"),
            Some(status) => log::warn!("{peer} {method} {status} {took:.1?}"),
        }
    }
}
