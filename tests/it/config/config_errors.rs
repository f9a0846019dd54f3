//! Errors for invalid configurations: each `tests/config/*.toml` has its expected output in a `.txt`. `UPDATE=1 cargo
//! test --test it config_errors` rewrites the texts.

use std::fs;
use std::path::Path;

use tokenweir::config;

/// Returns the output of `tokenweir check`: the errors, else the warnings.
fn check_output(text: &str, file: &str) -> String {
    let env = [("GOOD_KEY".to_owned(), "sk-1".to_owned())];
    match config::load(text, file, env) {
        Ok(loaded) => loaded.warnings.iter().map(|warning| format!("{warning}\n")).collect(),
        Err(report) => report.to_string(),
    }
}

#[test]
fn errors_match_the_recorded_texts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let mut differing = Vec::new();
    let mut seen = 0;
    for entry in fs::read_dir(folder).expect("tests/config is readable").flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        seen += 1;
        let text = fs::read_to_string(&path).expect("a configuration is UTF-8");
        let output = check_output(&text, "router.toml");
        let recorded = path.with_extension("txt");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&recorded, output).expect("tests/config is writable");
        } else if fs::read_to_string(&recorded).unwrap_or_default() != output {
            differing.push(format!("{}:\n{output}", path.display()));
        }
    }
    assert!(differing.is_empty(), "not as recorded (UPDATE=1 records):\n{}", differing.join("\n"));
    assert!(seen >= 12);
}
