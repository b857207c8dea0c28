//! The head of a C++ request in every dialect: what is read is written and read again as the same,
//! and a part of it is never taken for the whole.

use mprpc_runtime::wire::legacy::{decode_head, write_request_head};

use crate::inputs::DIALECTS;

pub(crate) fn run(input: &[u8]) {
    for dialect in DIALECTS {
        let Ok(Some((head, end))) = decode_head(dialect, input, 65_535) else { continue };
        assert!(end <= input.len());
        for cut in 0..end {
            let part = decode_head(dialect, &input[..cut], 65_535);
            assert_eq!(part, Ok(None), "cut at {cut} of {end}");
        }
        let mut bytes = Vec::new();
        write_request_head(&mut bytes, dialect, head.service, head.method, head.args_size);
        assert_eq!(decode_head(dialect, &bytes, 65_535), Ok(Some((head, bytes.len()))));
    }
}
