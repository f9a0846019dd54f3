//! Imports of nginx configurations: each `tests/import/*.conf` has the expected `.toml`, or the `.txt` of its errors.
//! `UPDATE=1 cargo test --test it config::import` rewrites them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use tokenweir::config;
use tokenweir::import::{self, FileAccess, ImportedConfig, RemarkKind};

fn fixture_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import")
}

/// Imports a fixture. Paths are relative to the folder, and no file outside of it is visible.
fn import_fixture(name: &str) -> Result<ImportedConfig, config::Diagnostics> {
    let inside =
        |path: &Path| if path.is_absolute() { Err(io::ErrorKind::NotFound) } else { Ok(fixture_dir().join(path)) };
    let read = |path: &Path| fs::read_to_string(inside(path)?).map_err(|error| error.kind().into());
    let list = |path: &Path| {
        let names = fs::read_dir(inside(path)?)?.flatten();
        Ok(names.filter_map(|entry| entry.file_name().into_string().ok()).collect())
    };
    import::from_nginx(Path::new(name), &FileAccess { read: &read, list: &list })
}

fn fixture_names() -> Vec<String> {
    let names = fs::read_dir(fixture_dir()).expect("tests/import is readable").flatten();
    let mut names: Vec<String> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| name.ends_with(".conf"));
    names.sort();
    assert!(names.len() >= 15);
    names
}

#[test]
fn nginx_configuration_gives_its_golden_file() {
    let mut differing = Vec::new();
    for name in fixture_names() {
        let (output, wanted, other) = match import_fixture(&name) {
            Ok(imported) => (format!("{}# {imported}\n", imported.toml), "toml", "txt"),
            Err(report) => (report.to_string(), "txt", "toml"),
        };
        let recorded = fixture_dir().join(&name).with_extension(wanted);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&recorded, output).expect("tests/import is writable");
            let _ = fs::remove_file(recorded.with_extension(other));
        } else if fs::read_to_string(&recorded).unwrap_or_default() != output {
            differing.push(format!("{name}:\n{output}"));
        }
    }
    assert!(differing.is_empty(), "not as recorded (UPDATE=1 records):\n{}", differing.join("\n"));
}

#[test]
fn imported_configuration_loads() {
    for name in fixture_names() {
        let Ok(imported) = import_fixture(&name) else { continue };
        let loaded = config::load(&imported.toml, "router.toml", []);
        assert!(loaded.is_ok(), "{name}: {}", loaded.expect_err("the configuration does not load"));
    }
}

/// The examples of published load-balancing articles import without a missing feature.
#[test]
fn configuration_of_articles_is_carried_over() {
    for name in fixture_names().iter().filter(|name| name.starts_with("article")) {
        let imported = import_fixture(name).expect("the fixture imports");
        for remark in imported.remarks {
            let fine = match remark.kind {
                RemarkKind::NotNeeded | RemarkKind::Note => true,
                RemarkKind::Unsupported => false,
                RemarkKind::Impossible => remark.subject == "TLSv1, TLSv1.1",
            };
            assert!(fine, "{name}: {remark:?}");
        }
    }
}

/// Debian's nginx 1.22 accepts the same configurations. The test runs `nginx -t` only and starts no server.
#[test]
#[ignore = "needs nginx, as root"]
fn nginx_accepts_the_tested_configurations() {
    for name in fixture_names() {
        let path = fixture_dir().join(&name);
        let text = fs::read_to_string(&path).expect("a configuration is UTF-8");
        if text.starts_with("# not for nginx -t") {
            continue;
        }
        let done = Command::new("/usr/sbin/nginx").arg("-t").arg("-c").arg(&path).output().expect("nginx runs");
        let output = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.success(), import_fixture(&name).is_ok(), "{name}: {output}");
    }
}
