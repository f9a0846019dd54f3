//! Imports: any text gives a loadable configuration without invented replicas, or a report whose entries have
//! positions.

#![no_main]

use std::io;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use tokenweir::config;
use tokenweir::import::{self, Files};

const MAIN: &str = "nginx.conf";
const OTHER: &str = "conf.d/a.conf";

// A zero byte starts a second file.
fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (main, other) = text.split_once('\0').unwrap_or((text, ""));
    let read = |path: &Path| match path.to_str() {
        Some(MAIN) => Ok(main.to_owned()),
        Some(OTHER) => Ok(other.to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let list = |folder: &Path| match folder.to_str() {
        Some("") => Ok(vec![MAIN.to_owned(), "conf.d".to_owned()]),
        Some("conf.d") => Ok(vec!["a.conf".to_owned()]),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    match import::nginx(Path::new(MAIN), &Files { read: &read, list: &list }) {
        Ok(imported) => {
            let loaded = config::load(&imported.toml, "router.toml", []).expect("an import loads");
            for member in loaded.settings.pools.iter().flat_map(|pool| &pool.members) {
                let host = member.origin.host().to_ascii_lowercase();
                assert!(text.to_ascii_lowercase().contains(&host), "the input has no {host}");
            }
            let known = |file: &str, line: usize| placed(file, line, main, other).is_some();
            assert!(imported.remarks.iter().all(|remark| known(&remark.file, remark.line)), "{:?}", imported.remarks);
        }
        Err(report) => {
            assert!(!report.issues().is_empty());
            for issue in report.issues() {
                let line = placed(&issue.file, issue.line, main, other).expect("the line exists");
                assert!((1..=line.chars().count() + 1).contains(&issue.column), "{issue}");
            }
            let shown = report.to_string();
            assert!(!shown.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')), "{shown:?}");
        }
    }
});

fn placed<'a>(file: &str, line: usize, main: &'a str, other: &'a str) -> Option<&'a str> {
    let text = match file {
        MAIN => main,
        OTHER => other,
        _ => return None,
    };
    text.split('\n').nth(line.checked_sub(1)?)
}
