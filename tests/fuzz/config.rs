//! Configurations: any text loads or has errors with positions, and no error has control characters.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenweir::config::{self, Diagnostic, LoadedConfig};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let env = || [("KEY".to_owned(), "a-key-0123456789".to_owned())];
    match config::load(text, "f", env()) {
        Ok(loaded) => {
            assert!(toml::from_str::<toml::Table>(text).is_ok(), "invalid TOML is accepted");
            assert!(!loaded.settings.pools.is_empty());
            let LoadedConfig { warnings, .. } = &loaded;
            warnings.iter().for_each(|warning| assert_has_place(warning, text));
            assert!(warnings.iter().all(|warning| warning.message.starts_with("warning: ")));
            assert_eq!(config::load(text, "f", env()).as_ref(), Ok(&loaded));
        }
        Err(report) => {
            assert!(!report.diagnostics().is_empty());
            report.diagnostics().iter().for_each(|error| assert_has_place(error, text));
            let shown = report.to_string();
            assert!(!shown.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')), "{shown:?}");
        }
    }
    // The first line as a command-line argument.
    let line = text.lines().next().unwrap_or_default();
    if let Err(report) = config::from_urls(&[line.chars().take(100).collect()], env()) {
        assert!(!report.diagnostics().is_empty());
    }
});

/// Asserts that a diagnostic names an existing line, and a position in it or right after it.
fn assert_has_place(diagnostic: &Diagnostic, text: &str) {
    let line = text.split('\n').nth(diagnostic.line - 1).expect("the line exists");
    assert!((1..=line.chars().count() + 1).contains(&diagnostic.column), "{diagnostic}");
    assert!(diagnostic.file == "f" && !diagnostic.message.is_empty(), "{diagnostic}");
    let lines = diagnostic.message.lines().count() + diagnostic.help.iter().flat_map(|help| help.lines()).count();
    assert_eq!(lines, 1 + usize::from(diagnostic.help.is_some()), "{diagnostic}");
}
