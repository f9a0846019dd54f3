//! Every line of a case that guards, selects or leads elsewhere counts: without it, or with another word, the import
//! writes another router.toml or stops; misspelled, it stops. A line without an effect in nginx is marked
//! `# no effect`, one that a remark leaves out `# left out`. Of words that refuse nothing a remark is enough.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use tokenweir::import::{self, FileAccess};

use super::case::{CasePlaces, PreparedCase, ScopeCase};
use super::conf_words::ConfDirective;
use crate::harness::tls::CertificateAuthority;

/// Directives that decide who is answered, by what, and from where.
const GUARDS: [&str; 30] = [
    "access_log",
    "add_header",
    "allow",
    "auth_basic",
    "auth_request",
    "client_body_timeout",
    "client_max_body_size",
    "deny",
    "error_page",
    "gzip",
    "hash",
    "if",
    "internal",
    "limit_except",
    "listen",
    "location",
    "map",
    "proxy_connect_timeout",
    "proxy_hide_header",
    "proxy_pass",
    "proxy_read_timeout",
    "proxy_set_header",
    "real_ip_header",
    "real_ip_recursive",
    "return",
    "rewrite",
    "satisfy",
    "server_name",
    "set_real_ip_from",
    "ssl_certificate",
];

/// Returns other words for a directive, each with a description.
fn changed_words(directive: &ConfDirective) -> Vec<Vec<String>> {
    let args: Vec<&str> = directive.args.iter().map(String::as_str).collect();
    let with = |name: &str, args: &[&str]| {
        std::iter::once(name).chain(args.iter().copied()).map(String::from).collect::<Vec<_>>()
    };
    match (directive.name.as_str(), args.as_slice()) {
        ("deny", [who]) => vec![with("allow", &[who])],
        ("allow", [who]) => vec![with("deny", &[who])],
        ("return", [code, rest @ ..]) if code.parse::<u16>().is_ok() => {
            let other = if *code == "404" { "403" } else { "404" };
            vec![with("return", &[&[other], rest].concat())]
        }
        ("location", ["=" | "^~", path]) => vec![with("location", &[path]), with("location", &["=", "/changed"])],
        ("location", ["~", pattern]) => vec![with("location", &["~*", pattern]), with("location", &["~", "^/changed"])],
        ("location", [path]) if path.starts_with('/') => {
            vec![with("location", &["=", path]), with("location", &[&format!("{path}changed")])]
        }
        ("server_name", names) => {
            let changed: Vec<String> =
                names.iter().map(|name| format!("{}changed.example", name.replace('~', ""))).collect();
            vec![with("server_name", &changed.iter().map(String::as_str).collect::<Vec<_>>())]
        }
        ("client_max_body_size", _) => vec![with("client_max_body_size", &["77k"])],
        ("proxy_read_timeout" | "proxy_connect_timeout" | "client_body_timeout", _) => {
            vec![with(&directive.name, &["77s"])]
        }
        ("set_real_ip_from", _) => vec![with("set_real_ip_from", &["203.0.113.77"])],
        ("real_ip_header", _) => vec![with("real_ip_header", &["X-Changed"])],
        ("hash", _) => vec![with("hash", &["$http_x_changed"])],
        _ => Vec::new(),
    }
}

fn quote(word: &str) -> String {
    if word.is_empty() || word.contains([' ', ';', '{', '}', '"']) {
        format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        word.to_owned()
    }
}

/// What an import writes.
#[derive(PartialEq, Eq)]
struct WrittenConfig {
    /// router.toml without its comments.
    toml: String,
    /// The reasons of the remarks.
    reasons: Vec<String>,
}

/// Returns whether a remark is enough: the directive refuses nothing, or a condition around it says what it refuses.
fn may_be_named(directive: &ConfDirective) -> bool {
    let is_harmless = ["access_log", "error_page", "map"].contains(&directive.name.as_str());
    is_harmless || directive.name == "if" || directive.blocks.last().is_some_and(|block| block == "if")
}

/// Returns whether the router does the same without the directive.
fn is_default(case: &PreparedCase, directive: &ConfDirective) -> bool {
    let args: Vec<&str> = directive.args.iter().map(String::as_str).collect();
    match (directive.name.as_str(), args.as_slice()) {
        ("proxy_set_header", [name, ..]) => {
            let is_sent = ["connection", "upgrade"].contains(&name.to_ascii_lowercase().as_str());
            is_sent || args == ["X-Real-IP", "$remote_addr"]
        }
        // The only server takes every name.
        ("server_name", _) => {
            case.directives.iter().filter(|one| one.name == "server" && one.args.is_empty()).count() == 1
        }
        ("access_log", ["off"]) => case.text.contains("http { access_log off;"),
        _ => false,
    }
}

/// Returns what an import writes; `None` if it stops.
fn import_text(text: &str) -> Option<WrittenConfig> {
    let read = |_: &Path| Ok(text.to_owned());
    let list = |_: &Path| Err(io::ErrorKind::NotFound.into());
    let imported = import::from_nginx(Path::new("nginx.conf"), &FileAccess { read: &read, list: &list }).ok()?;
    let lines = imported.toml.lines().map(|line| line.split(" # ").next().unwrap_or_default());
    let toml = lines.filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    Some(WrittenConfig { toml, reasons: imported.remarks.into_iter().map(|remark| remark.reason).collect() })
}

fn prepare(case: &ScopeCase, authority: &CertificateAuthority) -> PreparedCase {
    let address = |port: u16| (port, SocketAddr::from(([127, 0, 0, 1], port)));
    case.prepare(&CasePlaces {
        replicas: (9001..=9009).map(address).collect::<BTreeMap<_, _>>(),
        replica_sockets: "/tmp".into(),
        listener_port: |port| port,
        sockets: "/tmp".into(),
        certificates: authority.ca_path().parent().unwrap().to_owned(),
        logs: "/tmp".into(),
        resolver: "127.0.0.1:5353".parse().unwrap(),
    })
}

/// Returns the mutations of a directive: a description and the text of the whole configuration.
fn mutate(case: &PreparedCase, directive: &ConfDirective) -> Vec<(String, String)> {
    let replace = |new: &str| {
        let mut text = case.text.clone();
        text.replace_range(directive.span.clone(), new);
        text
    };
    let written = &case.text[directive.span.clone()];
    let words_end = written.find(['{', ';']).unwrap_or(written.len());
    let mut all = Vec::new();
    // A location without content is 404, too.
    if (directive.name.as_str(), directive.words().as_str()) != ("return", "return 404") {
        all.push(("removed".to_owned(), replace("")));
    }
    for words in changed_words(directive) {
        let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
        let text = replace(&format!("{}{}", words.join(" "), &written[words_end..]));
        all.push((format!("as `{}`", words.join(" ")), text));
    }
    all
}

#[test]
fn every_guard_of_the_cases_counts() {
    let authority = CertificateAuthority::new("nginx-scopes-mutations");
    for file in ["a", "b", "c"] {
        authority.issue_certificate(file, &["a.example"]);
    }
    let (mut mutations, mut faults) = (0, Vec::new());
    for case in ScopeCase::read_all() {
        let prepared = prepare(&case, &authority);
        let Some(whole) = import_text(&prepared.text) else { continue };
        let lines: Vec<&str> = prepared.text.lines().collect();
        for directive in prepared.directives.iter().filter(|one| GUARDS.contains(&one.name.as_str())) {
            let place = format!("{}:{}: {}", case.name, directive.line, directive.words());
            let has_effect = !lines[directive.line - 1].ends_with("# no effect") && !is_default(&prepared, directive);
            for (what, text) in mutate(&prepared, directive).into_iter().filter(|_| has_effect) {
                mutations += 1;
                let is_same = |other: WrittenConfig| match may_be_named(directive) {
                    true => other == whole,
                    false => other.toml == whole.toml,
                };
                if import_text(&text).is_some_and(is_same) {
                    faults.push(format!("{place}: {what}: the same router.toml"));
                }
            }
            let mut misspelled = prepared.text.clone();
            misspelled.insert(directive.span.start + directive.name.len(), 'x');
            mutations += 1;
            if import_text(&misspelled).is_some() {
                faults.push(format!("{place}: misspelled: the import does not stop"));
            }
        }
    }
    println!("{mutations} mutations, {} without an effect", faults.len());
    assert!(mutations > 100, "{mutations}");
    assert!(faults.is_empty(), "{} of {mutations} mutations:\n{}", faults.len(), faults.join("\n"));
}
