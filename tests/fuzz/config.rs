//! Any text is a configuration or has a report in which everything has its place; nothing in it steers a terminal.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenweir::config::{self, Issue, Loaded};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let env = || [("KEY".to_owned(), "a-key-0123456789".to_owned())];
    match config::load(text, "f", env()) {
        Ok(loaded) => {
            assert!(toml::from_str::<toml::Table>(text).is_ok(), "what is no TOML was taken");
            assert!(!loaded.settings.pools.is_empty());
            let Loaded { warnings, .. } = &loaded;
            warnings.iter().for_each(|warning| placed(warning, text));
            assert!(warnings.iter().all(|warning| warning.message.starts_with("warning: ")));
            assert_eq!(config::load(text, "f", env()).as_ref(), Ok(&loaded));
        }
        Err(report) => {
            assert!(!report.issues().is_empty());
            report.issues().iter().for_each(|issue| placed(issue, text));
            let shown = report.to_string();
            assert!(!shown.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')), "{shown:?}");
        }
    }
    // A line of it as an argument of the command line.
    let line = text.lines().next().unwrap_or_default();
    if let Err(report) = config::from_urls(&[line.chars().take(100).collect()], env()) {
        assert!(!report.issues().is_empty());
    }
});

/// An issue is about a line that there is, and a place in it or right behind it.
fn placed(issue: &Issue, text: &str) {
    let line = text.split('\n').nth(issue.line - 1).expect("there is such a line");
    assert!((1..=line.chars().count() + 1).contains(&issue.column), "{issue}");
    assert!(issue.file == "f" && !issue.message.is_empty(), "{issue}");
    let lines = issue.message.lines().count() + issue.help.iter().flat_map(|help| help.lines()).count();
    assert_eq!(lines, 1 + usize::from(issue.help.is_some()), "{issue}");
}
