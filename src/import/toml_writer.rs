//! Writes router.toml.

use std::fmt::Write as _;

use super::blocks::TomlHeader;
use super::context::ImportContext;
use super::pools::imported_pool::ImportedPool;
use super::report::{ImportRemark, RemarkKind};
use super::toml_text::quote_toml;
use crate::routes::ListenAddr;

/// Keys in the order in which they are written, with nginx's default where it differs from the router's.
const KEY_DEFAULTS: [(&str, &str); 25] = [
    ("workers", ""),
    ("x_upstream", "false"),
    ("preserve_header_case", "true"),
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
const LOG_AND_CORS_KEYS: [&str; 6] =
    ["log.access", "log.format", "log.formats", "log.error", "log.level", "cors.origins"];

/// Returns router.toml; `main` is the name of the main file.
pub(super) fn write_toml(
    context: &ImportContext,
    main: &str,
    pools: &[ImportedPool],
    listens: &[ListenAddr],
) -> String {
    let mut out = format!("# Imported from {}. Defaults of nginx are marked.\n", sanitize_comment(main));
    write_settings(&mut out, context, listens);
    for pool in pools {
        write_pool(&mut out, pool);
    }
    write_remarks(&mut out, main, &context.report.remarks);
    out
}

fn write_settings(out: &mut String, context: &ImportContext, listens: &[ListenAddr]) {
    let listens: Vec<String> = listens.iter().map(|listen| quote_toml(&listen.to_string())).collect();
    match listens.as_slice() {
        [] => write_line(out, "listen = \"127.0.0.1:8080\" # no usable `listen`: see the remarks"),
        [one] => write_line(out, &format!("listen = {one}")),
        all => write_line(out, &format!("listen = [{}]", all.join(", "))),
    }
    let mut table = "";
    for (path, default) in KEY_DEFAULTS.into_iter().chain(LOG_AND_CORS_KEYS.map(|path| (path, ""))) {
        // `proxy_read_timeout` sets four keys.
        let source = match path {
            "timeouts.plain_answer" | "timeouts.plain_answer_max" | "timeouts.idle" => "timeouts.first_byte",
            path => path,
        };
        let text = match context.settings.get(source) {
            Some(setting) => setting.value.clone(),
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

fn write_pool(out: &mut String, pool: &ImportedPool) {
    write_line(out, &format!("\n# {}", sanitize_comment(&pool.source_comment)));
    write_line(out, "[[pool]]");
    write_line(out, &format!("name = {}", quote_toml(&pool.name)));
    for (key, value) in [
        ("host", &pool.host),
        ("path", &pool.path),
        ("api_key", &pool.api_key),
        ("tls_ca", &pool.upstream.tls.ca),
        ("tls_name", &pool.upstream.tls.name),
    ] {
        if let Some(value) = value {
            write_line(out, &format!("{key} = {}", quote_toml(value)));
        }
    }
    if pool.upstream.tls.is_insecure {
        write_line(out, "tls_verify = false");
    }
    if pool.upstream.any_path {
        write_line(out, "paths = \"any\"");
    }
    let refused: Vec<String> =
        pool.blocked_paths.iter().map(|(path, status)| format!("{} = {status}", quote_toml(path))).collect();
    write_inline_table(out, "block_paths", &refused);
    write_inline_table(out, "request_headers", &format_headers(&pool.request_headers));
    write_inline_table(out, "response_headers", &format_headers(&pool.response_headers));
    write_line(out, &format!("policy = {}", quote_toml(&pool.upstream.policy)));
    if let Some(sticky) = &pool.upstream.sticky {
        write_line(out, &format!("sticky = {sticky}"));
    }
    write_line(out, "eject_backoff = false # nginx has no backoff");
    write_line(out, "retry_budget_percent = 100 # nginx has no retry budget");
    write_line(out, "replicas = [");
    for replica in &pool.upstream.replicas {
        write_line(out, &format!("  {},", quote_toml(replica)));
    }
    write_line(out, "]");
}

/// Writes an inline table, unless it is empty.
fn write_inline_table(out: &mut String, name: &str, entries: &[String]) {
    if !entries.is_empty() {
        write_line(out, &format!("{name} = {{ {} }}", entries.join(", ")));
    }
}

fn format_headers(headers: &[TomlHeader]) -> Vec<String> {
    let entry = |(name, values): &TomlHeader| match values.as_slice() {
        [one] => format!("{} = {}", format_key(name), quote_toml(one)),
        many => {
            format!("{} = [{}]", format_key(name), many.iter().map(|v| quote_toml(v)).collect::<Vec<_>>().join(", "))
        }
    };
    headers.iter().map(entry).collect()
}

/// Returns a name as a TOML key.
fn format_key(name: &str) -> String {
    let bare = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if bare { name.to_owned() } else { quote_toml(name) }
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
