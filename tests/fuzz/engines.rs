//! The metrics parser: the result does not depend on chunks, and its numbers are in range.

#![no_main]

#[path = "../../src/discover/metrics_parser.rs"]
mod metrics_parser;

use libfuzzer_sys::fuzz_target;
use metrics_parser::MetricsParser;
use tokenweir::fleet::{self, EngineStats};
use tokenweir::units;

// The first byte is the chunk size.
fuzz_target!(|data: &[u8]| {
    let [size, text @ ..] = data else { return };
    let stats = parse(text.chunks(text.len().max(1)));
    assert_eq!(parse(text.chunks(1 + usize::from(*size))), stats);
    // Other metrics and comments change nothing.
    assert_eq!(parse([text, b"\nx:y 1\n# TYPE vllm:z gauge\n"].into_iter()), stats);
    if let Some(EngineStats { kv_usage, .. }) = stats {
        assert!(kv_usage.is_none_or(|usage| (0.0..=1.0).contains(&usage)), "{kv_usage:?}");
    }
});

fn parse<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Option<EngineStats> {
    let mut parser = MetricsParser::default();
    chunks.for_each(|chunk| parser.push(chunk));
    parser.finish()
}
