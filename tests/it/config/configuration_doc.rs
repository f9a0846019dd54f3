//! docs/configuration.md is generated from the key tables. `UPDATE=1 cargo test --test it configuration_doc` writes it.

use std::fs;
use std::path::Path;

use tokenweir::config;

#[test]
fn configuration_page_matches_the_key_tables() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = config::key_reference();
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().expect("in a folder")).expect("docs can be created");
        fs::write(&path, &page).expect("docs is writable");
    }
    let recorded = fs::read_to_string(&path).unwrap_or_default();
    assert!(recorded == page, "docs/configuration.md is out of date: UPDATE=1 writes it");
}
