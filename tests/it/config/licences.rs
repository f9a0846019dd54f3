//! Licences of dependencies: deny.toml allows the licence of every crate.

use std::process::Command;

use serde_json::Value;

/// Returns whether the `allowed` licences satisfy an SPDX expression. `AND` binds closer than `OR`; `/` is an old form
/// of `OR`.
fn is_satisfied(expression: &str, allowed: &[String]) -> bool {
    let mut tokens = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    // From the innermost parentheses outward.
    while let Some(close) = tokens.find(')') {
        let open = tokens[..close].rfind('(').unwrap();
        let word = if is_flat_satisfied(&tokens[open + 1..close], allowed) { "yes" } else { "no" };
        tokens.replace_range(open..=close, word);
    }
    is_flat_satisfied(&tokens, allowed)
}

fn is_flat_satisfied(expression: &str, allowed: &[String]) -> bool {
    let has = |name: &str| name == "yes" || allowed.iter().any(|known| known == name);
    expression.split(" OR ").any(|all| all.split(" AND ").all(|name| has(name.trim())))
}

#[test]
fn every_crate_has_an_allowed_licence() {
    let text = include_str!("../../../deny.toml");
    let line = text.lines().find_map(|line| line.strip_prefix("allow = ")).unwrap();
    let allowed: Vec<String> = serde_json::from_str(line).unwrap();
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let rustc =
        Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned())).arg("-vV").output().unwrap();
    let rustc = String::from_utf8(rustc.stdout).unwrap();
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    // The crates are already on this machine, so nothing is downloaded.
    let args = ["metadata", "--offline", "--locked", "--format-version", "1", "--filter-platform", host];
    let output = Command::new(cargo).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let crates = metadata["packages"].as_array().unwrap();
    let built = crates.iter().filter(|package| nodes.iter().any(|node| node["id"] == package["id"]));
    let mut seen = 0;
    let mut needed = vec![false; allowed.len()];
    for package in built {
        let (name, licence) = (&package["name"], package["license"].as_str().unwrap_or_default());
        assert!(is_satisfied(licence, &allowed), "{name} is under `{licence}`, and deny.toml allows {allowed:?}");
        for (at, needed) in needed.iter_mut().enumerate() {
            let others: Vec<String> =
                allowed.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, n)| n.clone()).collect();
            *needed |= !is_satisfied(licence, &others);
        }
        seen += 1;
    }
    assert!(seen > 100, "{seen}");
    let idle: Vec<_> = allowed.iter().zip(needed).filter(|(_, needed)| !needed).map(|(name, _)| name).collect();
    assert!(idle.is_empty(), "no crate needs {idle:?}");
}

#[test]
fn licence_expression_is_read_as_spdx_defines() {
    let allowed = ["MIT".to_owned(), "ISC".to_owned()];
    for (expression, wanted) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT OR GPL-3.0", true),
        ("GPL-3.0/MIT", true),
        ("MIT AND GPL-3.0", false),
        ("MIT AND GPL-3.0 OR ISC", true),
        ("(MIT OR GPL-3.0) AND ISC", true),
        ("MIT OR GPL-3.0 AND ISC", true),
        ("(GPL-3.0 OR MPL-2.0) AND ISC", false),
        ("", false),
    ] {
        assert_eq!(is_satisfied(expression, &allowed), wanted, "{expression}");
    }
}
