//! Wrong configurations and what is said about them: `tests/config/*.toml`, each beside the `.txt` it must give.
//! `UPDATE=1 cargo test --test it config_errors` writes the texts anew.

use std::fs;
use std::path::Path;

use tokenweir::config;

/// What `tokenweir check` would say: the errors, else the warnings.
fn check_output(text: &str, file: &str) -> String {
    let env = [("GOOD_KEY".to_owned(), "sk-1".to_owned())];
    match config::load(text, file, env) {
        Ok(loaded) => loaded.warnings.iter().map(|warning| format!("{warning}\n")).collect(),
        Err(report) => report.to_string(),
    }
}

#[test]
fn every_mistake_is_explained_as_recorded() {
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
        let said = check_output(&text, "router.toml");
        let recorded = path.with_extension("txt");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&recorded, said).expect("tests/config is writable");
        } else if fs::read_to_string(&recorded).unwrap_or_default() != said {
            differing.push(format!("{}:\n{said}", path.display()));
        }
    }
    assert!(differing.is_empty(), "not as recorded (UPDATE=1 records):\n{}", differing.join("\n"));
    assert!(seen >= 12);
}
