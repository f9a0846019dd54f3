//! `docs/troubleshooting.md` has every error message that the router shows to clients and operators.

use std::fs;
use std::path::Path;

/// The files whose `#[error("...")]` texts are shown.
const ERROR_FILES: [&str; 5] = [
    "src/balance/error.rs",
    "src/fleet/pool/eligibility.rs",
    "src/fleet/routed_pools.rs",
    "src/server/response/error.rs",
    "src/server/start_error.rs",
];

fn read_file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("the file is readable")
}

/// Returns the constant beginnings of the error texts: up to the first value or code word.
fn error_texts(source: &str) -> Vec<String> {
    let texts = source.split("#[error(").skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
    let beginnings = texts.map(|text| text.split(['{', '`', '"', '\\']).next().unwrap_or_default().trim().to_owned());
    beginnings.filter(|text| !text.is_empty()).collect()
}

#[test]
fn troubleshooting_page_has_every_error_message() {
    let page = read_file("docs/troubleshooting.md");
    let mut count = 0;
    for file in ERROR_FILES {
        for text in error_texts(&read_file(file)) {
            assert!(page.contains(&text), "docs/troubleshooting.md has no row for `{text}` of {file}");
            count += 1;
        }
    }
    assert!(count > 35, "{count} messages were found in the source");
}
