//! What strangers may have written into ZooKeeper: read in full, or not believed.

use std::net::SocketAddr;

use self::nodes::{
    address, check_names, dialable, instance_addr, instance_id, instance_text, instances_dir, legacy_address,
    legacy_dir, mirror_text, read_instance, read_legacy,
};
use mprpc_runtime::registry::{Publication, ServiceName};

// The runtime's own file: its functions are nobody else's business, so they are not public.
#[allow(dead_code, reason = "what a target cannot reach is no concern of its crate")]
#[path = "../../../../mprpc-runtime/src/registry/zookeeper/nodes.rs"]
mod nodes;

/// The node's name, a line break, its data.
pub(crate) fn run(input: &[u8]) {
    let mut parts = input.splitn(2, |b| *b == b'\n');
    let name = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let data = parts.next().unwrap_or_default();
    let instance = instance_id(data);
    if let Ok(Some(endpoint)) = read_instance(&name, data) {
        assert!(dialable(endpoint.addr) && endpoint.weight <= 10_000);
        assert_eq!(instance_addr(data), Some(endpoint.addr));
        assert_eq!(endpoint.addr.to_string(), name);
        rewrite(endpoint.addr, instance.unwrap_or(1), endpoint.draining, &name);
    }
    if let Ok(Some(endpoint)) = read_legacy(&name, data) {
        assert_eq!(legacy_address(data), Some(endpoint.addr));
        assert!(dialable(endpoint.addr) && endpoint.addr.is_ipv4());
        let mirror = mirror_text(endpoint.addr).expect("an IPv4 address");
        assert_eq!(read_legacy(&name, &mirror), Ok(None), "a mirror of ours is no C++ provider");
    }
    if let Some(addr) = address(&name) {
        assert_eq!(addr.to_string(), name, "one spelling");
    }
    let service = ServiceName { full: name.clone(), short: name.clone(), methods: vec![name.clone()] };
    if check_names(&service).is_ok() {
        for (path, depth) in [(instances_dir(&service), 4), (legacy_dir(&service), 1)] {
            let parts: Vec<_> = path.split('/').skip(1).collect();
            assert!(
                parts.len() == depth && !parts.iter().any(|part| ["", ".", ".."].contains(part)),
                "{path}"
            );
        }
    }
}

fn rewrite(addr: SocketAddr, instance: u64, draining: bool, app: &str) {
    let of = Publication { addr, instance, services: Vec::new(), weight: 70, zone: app.into(), legacy: true };
    let text = instance_text(&of, draining, app, 5);
    let again = read_instance(&addr.to_string(), text.as_bytes());
    let endpoint = again.expect("what we write is read").expect("an endpoint");
    assert_eq!((endpoint.addr, endpoint.draining), (addr, draining));
    assert_eq!(instance_id(text.as_bytes()), Some(instance));
}
