//! The house rules that the compiler does not know: who may import whom, and which crate belongs on which floor.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Top-level modules by floor. A module may use its own floor and lower ones; modules of one floor never in a circle.
const FLOORS: [&[&str]; 6] = [
    &["units"],
    &["affinity", "balance", "eject", "engine", "prompt", "sse", "tenants"],
    &["fleet"],
    &["clock", "config", "discover", "emulate", "import", "replay", "resolve", "telemetry", "tls", "upstream"],
    &["serve"],
    &["cli", "lib", "main"],
];

/// Where each fenced crate may be used outside tests, and whether it must be.
const CRATE_FENCES: &[(&str, &[&str])] = &[
    ("axum", &["serve", "emulate"]),
    ("clap", &["cli"]),
    ("dashmap", &["serve"]),
    ("eventsource_stream", &["emulate"]),
    ("flate2", &["serve", "replay"]),
    ("hickory_resolver", &["resolve"]),
    ("httpdate", &["upstream"]),
    ("hyper", &["serve", "upstream", "emulate"]),
    ("hyper_util", &["serve", "upstream", "emulate"]),
    ("memmap2", &["serve"]),
    ("metrics", &["telemetry"]),
    ("metrics_exporter_prometheus", &["telemetry"]),
    ("mio", &["serve"]),
    ("reqwest", &["discover", "emulate"]),
    ("ring", &["tenants"]),
    ("rustls", &["tls"]),
    ("rustls_native_certs", &["tls"]),
    ("serde", &["prompt", "sse", "serve", "discover", "emulate", "telemetry", "replay"]),
    ("serde_json", &["prompt", "sse", "serve", "discover", "emulate", "telemetry", "replay"]),
    ("socket2", &["serve"]),
    ("subtle", &["tenants"]),
    ("tiktoken_rs", &["prompt"]),
    ("tokio_rustls", &["tls"]),
    ("toml", &["config"]),
    ("twox_hash", &["prompt"]),
    ("tz", &["telemetry"]),
];

struct SourceFile {
    module: String,
    path: PathBuf,
    code: String,
}

/// Every file under `src`, its tests and comments cut off.
fn read_sources() -> Vec<SourceFile> {
    fn collect_files(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("src is readable").flatten() {
            let path = entry.path();
            if path.is_dir() {
                collect_files(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    collect_files(&root, &mut found);
    found.sort();
    let module = |path: &Path| {
        let first = path.strip_prefix(&root).expect("under src").iter().next().expect("a name");
        first.to_string_lossy().trim_end_matches(".rs").to_owned()
    };
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("source is UTF-8");
        let text = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned();
        let code = text.lines().map(|l| l.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
        SourceFile { module: module(&path), path, code }
    };
    found.into_iter().filter(|p| !p.ends_with("tests.rs") && !p.ends_with("laws.rs")).map(read).collect()
}

fn module_floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn leading_ident(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The top-level modules that `code` names after `crate::`, groups (`crate::{a, b::c}`) included.
fn used_modules(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        match after.strip_prefix('{') {
            None => {
                used.insert(leading_ident(after));
            }
            Some(group) => {
                let mut depth = 0usize;
                let mut item = String::new();
                for c in group.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => {
                            used.insert(leading_ident(item.trim()));
                            item.clear();
                            continue;
                        }
                        _ => {}
                    }
                    item.push(c);
                }
                used.insert(leading_ident(item.trim()));
            }
        }
    }
    used.remove("");
    used
}

#[test]
fn every_module_has_a_floor() {
    for source in read_sources() {
        assert!(
            module_floor(&source.module).is_some(),
            "{} is on no floor: add `{}`",
            source.path.display(),
            source.module
        );
    }
}

#[test]
fn no_file_uses_a_higher_floor() {
    for source in read_sources() {
        for used in used_modules(&source.code) {
            let Some(theirs) = module_floor(&used) else { continue };
            let ours = module_floor(&source.module).expect("every module has a floor");
            assert!(theirs <= ours, "{} (floor {ours}) uses `{used}` (floor {theirs})", source.path.display());
        }
    }
}

#[test]
fn modules_of_a_floor_do_not_use_each_other_in_a_circle() {
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in read_sources() {
        let used = used_modules(&source.code).into_iter().filter(|u| module_floor(u).is_some() && *u != source.module);
        edges.entry(source.module.clone()).or_default().extend(used);
    }
    // Kahn: take away modules that use nothing that is left, until none is left or a circle is.
    while let Some(free) = edges.iter().find(|(_, used)| used.is_empty()).map(|(m, _)| m.clone()) {
        edges.remove(&free);
        edges.values_mut().for_each(|used| {
            used.remove(&free);
        });
    }
    assert!(edges.is_empty(), "these use each other in a circle: {edges:?}");
}

#[test]
fn third_party_crates_stay_behind_their_fences_and_are_used_there() {
    let sources = read_sources();
    for (name, places) in CRATE_FENCES {
        let direct = format!("{name}::");
        let mut used = false;
        for source in &sources {
            let boundary =
                |at: usize| !source.code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            if source.code.match_indices(&direct).any(|(at, _)| boundary(at)) {
                used = true;
                let allowed = places.contains(&source.module.as_str());
                assert!(allowed, "{} uses {name}, which belongs in {places:?}", source.path.display());
            }
        }
        assert!(used, "{name} has no use outside tests: use it in {places:?} or drop it");
    }
}

#[test]
fn pure_floors_know_no_async_no_sockets_and_no_unordered_maps() {
    let banned = ["tokio::", "async fn", ".await", "std::net::Tcp", "std::fs", "HashMap<", "HashSet<", "std::thread"];
    for source in read_sources().iter().filter(|s| module_floor(&s.module).is_some_and(|f| f <= 2)) {
        for word in banned {
            // `.awaits(..)` is a method like any other.
            let code = source.code.replace(".awaits(", "");
            assert!(!code.contains(word), "{} is on a pure floor and has `{word}`", source.path.display());
        }
    }
}

#[test]
fn files_stay_small() {
    for source in read_sources() {
        let lines = source.code.lines().count();
        assert!(lines <= 400, "{} has {lines} lines without tests; 400 is the limit", source.path.display());
    }
}
