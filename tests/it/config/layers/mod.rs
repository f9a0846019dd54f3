//! Rules of the source tree that the compiler does not check: layers, circles, folder sizes, and uses of each crate.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use source::{SourceTree, used_modules};

/// Top-level modules by layer. A module uses its own layer and lower ones; modules of one layer form no circle.
const LAYERS: [&[&str]; 6] = [
    &["units"],
    &[
        "balance",
        "dialect",
        "eject",
        "engine",
        "http",
        "log_format",
        "prefix_index",
        "prompt",
        "routes",
        "sse",
        "tenants",
    ],
    &["fleet"],
    &["clock", "config", "discover", "dns", "emulate", "import", "replay", "telemetry", "tls", "upstream"],
    &["server"],
    &["cli", "lib", "main"],
];

/// The modules that may use each fenced crate outside tests, and whether they must use it.
const FENCES: &[(&str, &[&str])] = &[
    ("axum", &["server", "emulate"]),
    ("base64", &["server"]),
    ("clap", &["cli"]),
    ("crc32fast", &["balance"]),
    ("dashmap", &["server"]),
    ("eventsource_stream", &["emulate"]),
    ("flate2", &["http", "server", "replay"]),
    ("hickory_resolver", &["dns"]),
    ("httpdate", &["upstream"]),
    ("hyper", &["server", "upstream", "emulate"]),
    ("hyper_util", &["server", "upstream", "emulate"]),
    ("memmap2", &["server"]),
    ("metrics", &["telemetry"]),
    ("metrics_exporter_prometheus", &["telemetry"]),
    ("mio", &["server"]),
    ("regex", &["routes"]),
    ("reqwest", &["discover", "emulate", "cli"]),
    ("ring", &["tenants", "tls"]),
    ("rustls", &["tls"]),
    ("rustls_native_certs", &["tls"]),
    ("ruzstd", &["http"]),
    ("send_wrapper", &["server"]),
    ("serde", &["dialect", "prompt", "server", "discover", "emulate", "telemetry", "replay", "cli"]),
    ("serde_json", &["dialect", "prompt", "sse", "server", "discover", "emulate", "telemetry", "replay", "cli"]),
    ("socket2", &["server", "upstream"]),
    ("strsim", &["config"]),
    ("subtle", &["tenants"]),
    ("tiktoken_rs", &["prompt"]),
    ("tokio_rustls", &["tls"]),
    ("toml", &["config"]),
    ("twox_hash", &["prompt"]),
    ("tz", &["telemetry"]),
];

/// Maximum number of files in a folder.
const MAX_FOLDER_FILES: usize = 15;
/// Maximum number of lines in a file, without tests.
const MAX_FILE_LINES: usize = 400;
/// Modules whose files still form a circle. The list only shrinks.
const MODULES_WITH_CIRCLES: &[&str] = &[];
/// Files that are still too long. The list only shrinks.
const LONG_FILES: &[&str] = &[];

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Repeatedly removes nodes without outgoing edges; the rest is a circle or leads into one.
fn remove_leaves<T: Ord + Clone>(edges: &mut BTreeMap<T, BTreeSet<T>>) {
    while let Some(free) = edges.iter().find(|(_, used)| used.is_empty()).map(|(name, _)| name.clone()) {
        edges.remove(&free);
        edges.values_mut().for_each(|used| {
            used.remove(&free);
        });
    }
}

#[test]
fn every_module_has_a_layer() {
    for file in SourceTree::read().files() {
        let top_module = file.top_module();
        assert!(layer_of(top_module).is_some(), "{} has no layer: add `{top_module}`", file.path.display());
    }
}

#[test]
fn no_file_uses_a_higher_layer() {
    for file in SourceTree::read().files() {
        let ours = layer_of(file.top_module()).expect("every module has a layer");
        for used in used_modules(&file.code) {
            let Some(theirs) = layer_of(&used) else { continue };
            assert!(theirs <= ours, "{} (layer {ours}) uses `{used}` (layer {theirs})", file.path.display());
        }
    }
}

#[test]
fn modules_of_a_layer_form_no_circle() {
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in SourceTree::read().files() {
        let used = used_modules(&file.code).into_iter().filter(|u| layer_of(u).is_some() && u != file.top_module());
        edges.entry(file.top_module().to_owned()).or_default().extend(used);
    }
    remove_leaves(&mut edges);
    assert!(edges.is_empty(), "these use each other in a circle: {edges:?}");
}

#[test]
fn files_of_a_room_form_no_circle() {
    let circles = SourceTree::read().circles();
    for (top_module, files) in &circles {
        assert!(
            MODULES_WITH_CIRCLES.contains(&top_module.as_str()),
            "these files use each other in a circle: {files:#?}"
        );
    }
    for top_module in MODULES_WITH_CIRCLES {
        assert!(
            circles.iter().any(|(found, _)| found == top_module),
            "`{top_module}` has no circle any more: remove it here"
        );
    }
}

#[test]
fn folders_stay_small_and_have_a_mod_file() {
    let tree = SourceTree::read();
    let mut folders: BTreeMap<&Path, usize> = BTreeMap::new();
    for file in tree.files() {
        let folder = file.path.parent().expect("a file has a folder");
        *folders.entry(folder).or_default() += 1;
        let same_name = file.path.with_extension("");
        assert!(!same_name.is_dir(), "{}: write it as {}/mod.rs", file.path.display(), same_name.display());
    }
    for (folder, count) in folders.into_iter().filter(|(folder, _)| !folder.ends_with("src")) {
        assert!(count <= MAX_FOLDER_FILES, "{} has {count} files, {MAX_FOLDER_FILES} at most", folder.display());
    }
}

#[test]
fn third_party_crates_stay_behind_their_fences_and_are_used_there() {
    let tree = SourceTree::read();
    for (name, places) in FENCES {
        let direct = format!("{name}::");
        let mut used = false;
        for file in tree.files() {
            let boundary =
                |start: usize| !file.code[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            if file.code.match_indices(&direct).any(|(start, _)| boundary(start)) {
                used = true;
                assert!(
                    places.contains(&file.top_module()),
                    "{} uses {name}, fenced in {places:?}",
                    file.path.display()
                );
            }
        }
        assert!(used, "{name} has no use outside tests: use it in {places:?} or drop it");
    }
}

#[test]
fn pure_layers_have_no_async_no_sockets_and_no_unordered_maps() {
    let banned = ["tokio::", "async fn", ".await", "std::net::Tcp", "std::fs", "HashMap<", "HashSet<", "std::thread"];
    for file in SourceTree::read().files().iter().filter(|f| layer_of(f.top_module()).is_some_and(|layer| layer <= 2)) {
        for word in banned {
            assert!(!file.code.contains(word), "{} is on a pure layer and has `{word}`", file.path.display());
        }
    }
}

#[test]
fn files_stay_small() {
    for file in SourceTree::read().files().iter().filter(|f| !LONG_FILES.iter().any(|long| f.path.ends_with(long))) {
        let lines = file.code.lines().count();
        assert!(lines <= MAX_FILE_LINES, "{} has {lines} lines, {MAX_FILE_LINES} at most", file.path.display());
    }
}
