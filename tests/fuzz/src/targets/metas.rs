//! The metas of mux frames: what is read is written and read again as the same.

use mprpc_runtime::wire::mux::{Header, Hello, RequestMeta, ResponseMeta};

pub(crate) fn run(input: &[u8]) {
    if let Ok(hello) = Hello::decode(input) {
        let mut bytes = Vec::new();
        hello.encode(&mut bytes);
        assert_eq!(Hello::decode(&bytes), Ok(hello));
    }
    if let Ok(meta) = RequestMeta::decode(input) {
        let mut bytes = Vec::new();
        meta.encode(&mut bytes);
        assert_eq!(RequestMeta::decode(&bytes), Ok(meta));
    }
    if let Ok(meta) = ResponseMeta::decode(input) {
        let mut bytes = Vec::new();
        meta.encode(&mut bytes);
        assert_eq!(ResponseMeta::decode(&bytes), Ok(meta));
    }
    if let Ok(Some(header)) = Header::decode(input) {
        assert_eq!(header.encode(), input[..20]);
    }
    let _ = Header::large(input);
}
