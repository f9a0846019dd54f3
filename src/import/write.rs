//! router.toml as text.

use std::fmt::Write as _;

use super::headers::Header;
use super::pools::Pool;
use super::remark::{Kind, Remark};
use super::walk::{Walk, quoted};
use crate::config::Listen;

/// Keys in the order they are written, with nginx's default where it is not ours.
const KEYS: [(&str, &str); 22] = [
    ("workers", ""),
    ("x_upstream", "false"),
    ("trusted_proxies", ""),
    ("gzip", ""),
    ("resolver", ""),
    ("resolver_timeout", ""),
    ("tls.certificate", ""),
    ("tls.key", ""),
    ("limits.body_bytes", "\"1m\""),
    ("limits.in_flight_bytes", ""),
    ("limits.header_bytes", ""),
    ("limits.uri_bytes", ""),
    ("limits.streams_per_connection", ""),
    ("timeouts.connect", "\"60s\""),
    ("timeouts.first_byte", "\"60s\""),
    ("timeouts.idle", "\"60s\""),
    ("timeouts.header", "\"60s\""),
    ("timeouts.body", "\"60s\""),
    ("timeouts.send", ""),
    ("timeouts.keepalive", ""),
    ("timeouts.upstream_keepalive", ""),
    ("timeouts.drain", ""),
];
const MORE: [&str; 6] = ["log.access", "log.format", "log.formats", "log.error", "log.level", "cors.origins"];

/// Writes all that was gathered.
pub(super) fn toml(walk: &Walk, main: &str, pools: &[Pool], listens: &[Listen]) -> String {
    let mut out = format!("# Imported from {}. Values marked so are nginx's defaults.\n", harmless(main));
    settings(&mut out, walk, listens);
    for pool in pools {
        self::pool(&mut out, pool);
    }
    remarks(&mut out, main, &walk.notes.remarks);
    out
}

fn settings(out: &mut String, walk: &Walk, listens: &[Listen]) {
    let listens: Vec<String> = listens.iter().map(|listen| quoted(&listen.to_string())).collect();
    match listens.as_slice() {
        [] => line(out, "listen = \"127.0.0.1:8080\" # not from the file: see the remarks on listen"),
        [one] => line(out, &format!("listen = {one}")),
        all => line(out, &format!("listen = [{}]", all.join(", "))),
    }
    let mut table = "";
    for (path, default) in KEYS.into_iter().chain(MORE.map(|path| (path, ""))) {
        // One time of nginx's is two here.
        let source = if path == "timeouts.idle" { "timeouts.first_byte" } else { path };
        let text = match walk.settings.get(source) {
            Some(setting) => setting.value.clone(),
            None if default.is_empty() => continue,
            None => format!("{default} # nginx's default"),
        };
        let (of, name) = path.split_once('.').unwrap_or(("", path));
        if of != table {
            line(out, &format!("\n[{of}]"));
            table = of;
        }
        line(out, &format!("{name} = {text}"));
    }
}

fn pool(out: &mut String, pool: &Pool) {
    line(out, &format!("\n# {}", harmless(&pool.from)));
    line(out, "[[pool]]");
    line(out, &format!("name = {}", quoted(&pool.name)));
    for (key, value) in [
        ("host", &pool.host),
        ("path", &pool.path),
        ("api_key", &pool.api_key),
        ("tls_ca", &pool.tls.ca),
        ("tls_name", &pool.tls.name),
    ] {
        if let Some(value) = value {
            line(out, &format!("{key} = {}", quoted(value)));
        }
    }
    if pool.tls.blind {
        line(out, "tls_verify = false");
    }
    if pool.any {
        line(out, "paths = \"any\"");
    }
    let refused: Vec<String> =
        pool.refused.iter().map(|(path, status)| format!("{} = {status}", quoted(path))).collect();
    table(out, "refuse", &refused);
    table(out, "request_headers", &headers(&pool.request));
    table(out, "response_headers", &headers(&pool.response));
    line(out, &format!("policy = {}", quoted(&pool.policy)));
    if let Some(sticky) = &pool.sticky {
        line(out, &format!("sticky = {sticky}"));
    }
    line(out, "eject_growth = false # nginx's times away do not grow");
    line(out, "replay_percent = 100 # nginx has no budget for what it sends to a next server");
    line(out, "replicas = [");
    for replica in &pool.replicas {
        line(out, &format!("  {},", quoted(replica)));
    }
    line(out, "]");
}

/// A table in one line, unless it is empty.
fn table(out: &mut String, name: &str, entries: &[String]) {
    if !entries.is_empty() {
        line(out, &format!("{name} = {{ {} }}", entries.join(", ")));
    }
}

fn headers(headers: &[Header]) -> Vec<String> {
    let entry = |(name, values): &Header| match values.as_slice() {
        [one] => format!("{} = {}", key(name), quoted(one)),
        many => format!("{} = [{}]", key(name), many.iter().map(|v| quoted(v)).collect::<Vec<_>>().join(", ")),
    };
    headers.iter().map(entry).collect()
}

/// A name as a key of TOML.
fn key(name: &str) -> String {
    let bare = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if bare { name.to_owned() } else { quoted(name) }
}

fn remarks(out: &mut String, main: &str, remarks: &[Remark]) {
    if remarks.is_empty() {
        return;
    }
    line(out, "\n# What is not as it was:");
    let mut sorted: Vec<&Remark> = remarks.iter().collect();
    sorted.sort_by_key(|remark| (remark.kind, remark.file != main, &remark.file, remark.line));
    for Remark { kind, what, file, line: number, why } in sorted {
        let text = format!("{}: {what} ({file}:{number}) - {why}", kind.label());
        line(out, &format!("# {}", harmless(&text)));
    }
}

/// How many of each kind, for people.
pub(super) fn summary(carried: usize, remarks: &[Remark]) -> String {
    let mut text = format!("{carried} carried");
    for kind in [Kind::NotNeeded, Kind::NotYet, Kind::Cannot, Kind::Note] {
        match remarks.iter().filter(|remark| remark.kind == kind).count() {
            0 => {}
            1 if kind == Kind::Note => text.push_str(", 1 to look at"),
            count if kind == Kind::Note => drop(write!(text, ", {count} to look at")),
            count => drop(write!(text, ", {count} {}", kind.label())),
        }
    }
    text
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

/// What may stand in a comment.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
