//! What an engine says of itself is read the same however it is cut, and its numbers are such as can be.

#![no_main]

#[path = "../../src/discover/exposition.rs"]
mod exposition;

use exposition::Exposition;
use libfuzzer_sys::fuzz_target;
use tokenweir::fleet::{self, Vitals};
use tokenweir::units;

// The first byte says how the text is cut.
fuzz_target!(|data: &[u8]| {
    let [size, text @ ..] = data else { return };
    let said = read(text.chunks(text.len().max(1)));
    assert_eq!(read(text.chunks(1 + usize::from(*size))), said);
    // A line that is nobody's is nothing.
    assert_eq!(read([text, b"\nx:y 1\n# TYPE vllm:z gauge\n"].into_iter()), said);
    if let Some(Vitals { kv_usage, .. }) = said {
        assert!(kv_usage.is_none_or(|usage| (0.0..=1.0).contains(&usage)), "{kv_usage:?}");
    }
});

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Option<Vitals> {
    let mut exposition = Exposition::default();
    pieces.for_each(|piece| exposition.push(piece));
    exposition.finish()
}
