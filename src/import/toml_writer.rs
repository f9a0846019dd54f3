//! Writes router.toml.

use std::fmt::Write as _;

use super::context::ImportContext;
use super::hosts::ImportedRouting;
use super::hosts::imported_host::{ImportedHost, RouteTarget};
use super::pools::imported_pool::ImportedPool;
use super::report::{ImportRemark, RemarkKind};
use super::scoped_keys::{ACCESS_LOG, REQUEST_HEADERS, RESPONSE_HEADERS, SCOPED_KEYS, SUCCESS_HEADERS, ScopedKeys};
use super::toml_text::{quote_list, quote_toml};
use crate::tenants::KeyDigest;

/// Keys in the order in which they are written, with nginx's default where it differs from the router's.
const KEY_DEFAULTS: [(&str, &str); 32] = [
    ("workers", ""),
    ("x_upstream", "false"),
    ("preserve_header_case", "true"),
    ("trusted_proxies", ""),
    ("client_address_header", ""),
    ("client_address_recursive", ""),
    ("access", ""),
    ("methods", ""),
    ("keys", ""),
    ("gzip", ""),
    (REQUEST_HEADERS, ""),
    (RESPONSE_HEADERS, ""),
    (SUCCESS_HEADERS, ""),
    ("resolver", ""),
    ("resolver_timeout", ""),
    ("tls.certificate", ""),
    ("tls.key", ""),
    ("limits.body_bytes", "\"1m\""),
    ("limits.header_bytes", ""),
    ("limits.uri_bytes", ""),
    ("limits.streams_per_connection", ""),
    ("timeouts.connect", "\"60s\""),
    ("timeouts.first_byte", "\"60s\""),
    ("timeouts.plain_answer", "\"60s\""),
    ("timeouts.plain_answer_max", "\"60s\""),
    ("timeouts.idle", "\"60s\""),
    ("timeouts.client_header", "\"60s\""),
    ("timeouts.client_body", "\"60s\""),
    ("timeouts.client_send", ""),
    ("timeouts.keepalive", ""),
    ("timeouts.upstream_keepalive", ""),
    ("timeouts.drain", ""),
];
const LOG_KEYS: [&str; 5] = ["log.access", "log.format", "log.formats", "log.error", "log.level"];
/// `proxy_read_timeout` sets four keys.
const READ_TIMEOUT: &str = "timeouts.first_byte";
const READ_TIMEOUTS: [&str; 4] = ["first_byte", "plain_answer", "plain_answer_max", "idle"];

/// Returns router.toml; `main` is the name of the main file.
pub(super) fn write_toml(context: &ImportContext, main: &str, routing: &ImportedRouting) -> String {
    let mut out = format!("# Imported from {}. Defaults of nginx are marked.\n", sanitize_comment(main));
    let plain = routing.plain_keys();
    let keys = plain.as_ref().unwrap_or(&routing.keys);
    write_settings(&mut out, context, routing, keys, plain.is_some());
    write_client_keys(&mut out, context);
    match &plain {
        Some(keys) => {
            let comment =
                routing.hosts.iter().flat_map(|host| &host.routes).map(|route| route.source_comment.as_str()).next();
            routing.pools.iter().for_each(|pool| write_pool(&mut out, pool, comment, Some(keys)));
        }
        None => {
            routing.hosts.iter().for_each(|host| write_host(&mut out, host));
            routing.pools.iter().for_each(|pool| write_pool(&mut out, pool, None, None));
        }
    }
    write_remarks(&mut out, main, &context.report.remarks);
    out
}

/// Writes the keys outside hosts and pools. `is_plain`: there is no host, and the pool has the headers.
fn write_settings(
    out: &mut String,
    context: &ImportContext,
    routing: &ImportedRouting,
    keys: &ScopedKeys,
    is_plain: bool,
) {
    match routing.listens.as_slice() {
        [] => {}
        [one] => write_line(out, &format!("listen = {}", quote_toml(one))),
        all => write_line(out, &format!("listen = {}", quote_list(all))),
    }
    let mut table = "";
    for (path, default) in KEY_DEFAULTS.into_iter().chain(LOG_KEYS.map(|path| (path, ""))) {
        let text = match find_top_value(context, routing, keys, is_plain, path) {
            Some(value) => value,
            None if default.is_empty() => continue,
            None => format!("{default} # nginx's default"),
        };
        let (table_name, name) = path.split_once('.').unwrap_or(("", path));
        if table_name != table {
            write_line(out, &format!("\n[{table_name}]"));
            table = table_name;
        }
        write_line(out, &format!("{name} = {text}"));
    }
}

/// Returns the value of a key outside hosts and pools.
fn find_top_value(
    context: &ImportContext,
    routing: &ImportedRouting,
    keys: &ScopedKeys,
    is_plain: bool,
    path: &str,
) -> Option<String> {
    if let Some(setting) = context.settings.get(path) {
        return Some(setting.toml.clone());
    }
    let scoped = |key: &str| keys.get(key).map(str::to_owned);
    match path {
        "tls.certificate" => quote_files(&routing.certificates.chains),
        "tls.key" => quote_files(&routing.certificates.keys),
        // Where a block asks for keys, the others need none.
        "keys" => scoped("keys").or_else(|| Some(quote_toml("none")).filter(|_| !context.client_keys.is_empty())),
        "limits.body_bytes" => scoped("body_bytes"),
        "log.access" => scoped(ACCESS_LOG).map(|log| match log.split_once(' ') {
            Some((target, _)) => format!("{target}\""),
            None => log,
        }),
        "log.format" => scoped(ACCESS_LOG).and_then(|log| Some(format!("\"{}", log.split_once(' ')?.1))),
        REQUEST_HEADERS | RESPONSE_HEADERS if is_plain => None,
        path => match path.strip_prefix("timeouts.").filter(|name| READ_TIMEOUTS.contains(name)) {
            Some(_) => scoped(READ_TIMEOUT),
            None => scoped(path),
        },
    }
}

fn quote_files(files: &[String]) -> Option<String> {
    match files {
        [] => None,
        [one] => Some(quote_toml(one)),
        all => Some(quote_list(all)),
    }
}

/// Writes the API keys of conditions.
fn write_client_keys(out: &mut String, context: &ImportContext) {
    for (name, secret) in context.client_keys.named_secrets() {
        write_line(out, "\n[[key]]");
        write_line(out, &format!("name = {}", quote_toml(&name)));
        let hash = KeyDigest::from_secret(secret.as_bytes()).to_config_text();
        write_line(out, &format!("hash = {} # of the key in nginx's configuration", quote_toml(&hash)));
    }
}

fn write_host(out: &mut String, host: &ImportedHost) {
    write_line(out, &format!("\n# {}", sanitize_comment(&host.source_comment)));
    write_line(out, "[[host]]");
    for (key, values) in [
        ("name", &host.names),
        ("listen", &host.listens),
        ("certificate", &host.certificates.chains),
        ("key", &host.certificates.keys),
    ] {
        if let Some(values) = quote_files(values) {
            write_line(out, &format!("{key} = {values}"));
        }
    }
    write_scoped_keys(out, &host.keys);
    for route in &host.routes {
        write_line(out, &format!("\n# {}", sanitize_comment(&route.source_comment)));
        write_line(out, "[[host.route]]");
        write_line(out, &format!("path = {}", quote_toml(&route.path)));
        match &route.target {
            RouteTarget::Pool(pool) => write_line(out, &format!("pools = {}", quote_toml(pool))),
            RouteTarget::Answer(answer) => write_line(out, &format!("answer = {answer}")),
        }
        if let Some(path) = &route.replace_path {
            write_line(out, &format!("replace_path = {}", quote_toml(path)));
        }
        write_scoped_keys(out, &route.keys);
    }
}

/// Writes the keys of a host or route.
fn write_scoped_keys(out: &mut String, keys: &ScopedKeys) {
    let mut timeouts: Vec<String> = Vec::new();
    for key in SCOPED_KEYS {
        let Some(value) = keys.written(key) else { continue };
        match key.strip_prefix("timeouts.") {
            Some(_) if key == READ_TIMEOUT => {
                timeouts.extend(READ_TIMEOUTS.iter().map(|name| format!("{name} = {value}")));
            }
            Some(name) => timeouts.push(format!("{name} = {value}")),
            None => write_line(out, &format!("{key} = {value}")),
        }
    }
    if !timeouts.is_empty() {
        write_line(out, &format!("timeouts = {{ {} }}", timeouts.join(", ")));
    }
}

/// Writes a pool; with `comment` and `keys`, those of the only route.
fn write_pool(out: &mut String, pool: &ImportedPool, comment: Option<&str>, keys: Option<&ScopedKeys>) {
    write_line(out, &format!("\n# {}", sanitize_comment(comment.unwrap_or(&pool.source_comment))));
    write_line(out, "[[pool]]");
    write_line(out, &format!("name = {}", quote_toml(&pool.name)));
    for (key, value) in [("api_key", &pool.api_key), ("tls_ca", &pool.tls.ca), ("tls_name", &pool.tls.name)] {
        if let Some(value) = value {
            write_line(out, &format!("{key} = {}", quote_toml(value)));
        }
    }
    if pool.tls.is_insecure {
        write_line(out, "tls_verify = false");
    }
    write_line(out, "paths = \"any\"");
    for key in [REQUEST_HEADERS, RESPONSE_HEADERS] {
        if let Some(headers) = keys.and_then(|keys| keys.get(key)) {
            write_line(out, &format!("{key} = {headers}"));
        }
    }
    write_line(out, &format!("policy = {}", quote_toml(&pool.policy)));
    if let Some(sticky) = &pool.sticky {
        write_line(out, &format!("sticky = {sticky}"));
    }
    write_line(out, "eject_backoff = false # nginx has no backoff");
    write_line(out, "retry_budget_percent = 100 # nginx has no retry budget");
    write_line(out, "replicas = [");
    for replica in &pool.replicas {
        write_line(out, &format!("  {},", quote_toml(replica)));
    }
    write_line(out, "]");
}

fn write_remarks(out: &mut String, main: &str, remarks: &[ImportRemark]) {
    if remarks.is_empty() {
        return;
    }
    write_line(out, "\n# Remarks on the import:");
    let mut sorted: Vec<&ImportRemark> = remarks.iter().collect();
    sorted.sort_by_key(|remark| (remark.kind, remark.file != main, &remark.file, remark.line));
    for ImportRemark { kind, subject, file, line, reason } in sorted {
        let text = format!("{}: {subject} ({file}:{line}) - {reason}", kind.label());
        write_line(out, &format!("# {}", sanitize_comment(&text)));
    }
}

/// Returns the number of directives of each kind, in one line.
pub(super) fn format_summary(carried: usize, remarks: &[ImportRemark]) -> String {
    let mut text = format!("{carried} carried");
    for kind in [RemarkKind::NotNeeded, RemarkKind::Unsupported, RemarkKind::Impossible, RemarkKind::Note] {
        match remarks.iter().filter(|remark| remark.kind == kind).count() {
            0 => {}
            1 if kind == RemarkKind::Note => text.push_str(", 1 to check"),
            count if kind == RemarkKind::Note => drop(write!(text, ", {count} to check")),
            count => drop(write!(text, ", {count} {}", kind.label())),
        }
    }
    text
}

fn write_line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

/// Replaces control characters, which may not occur in a comment.
fn sanitize_comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
