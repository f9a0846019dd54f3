//! Any text is imported as a configuration that loads and has only hosts of nginx's files, or has errors. Every error and
//! remark has a place in nginx's files.

#![no_main]

use std::io;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use tokenweir::config;
use tokenweir::import::{self, FileAccess};

const MAIN: &str = "nginx.conf";
const OTHER: &str = "conf.d/a.conf";

// The text after a zero byte is a second file.
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
    match import::from_nginx(Path::new(MAIN), &FileAccess { read: &read, list: &list }) {
        Ok(imported) => {
            let loaded = config::load(&imported.toml, "router.toml", []).expect("an import loads");
            for member in loaded.settings.pools.iter().flat_map(|pool| &pool.members) {
                // The host of a Unix socket is always `localhost`.
                let socket = member.origin.socket().map(Path::display);
                let address = socket.map_or_else(|| member.origin.host().to_owned(), |path| path.to_string());
                let plain = |text: &str| text.replace('\\', "").to_ascii_lowercase();
                assert!(plain(text).contains(&plain(&address)), "{address} is not in the files");
            }
            let exists = |file: &str, line: usize| find_line(file, line, main, other).is_some();
            assert!(imported.remarks.iter().all(|remark| exists(&remark.file, remark.line)), "{:?}", imported.remarks);
        }
        Err(report) => {
            assert!(!report.diagnostics().is_empty());
            for error in report.diagnostics() {
                let line = find_line(&error.file, error.line, main, other).expect("the line exists");
                assert!((1..=line.chars().count() + 1).contains(&error.column), "{error}");
            }
            let shown = report.to_string();
            assert!(!shown.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')), "{shown:?}");
        }
    }
});

/// Returns a line of one of the files, counted from 1.
fn find_line<'a>(file: &str, line: usize, main: &'a str, other: &'a str) -> Option<&'a str> {
    let text = match file {
        MAIN => main,
        OTHER => other,
        _ => return None,
    };
    text.split('\n').nth(line.checked_sub(1)?)
}
