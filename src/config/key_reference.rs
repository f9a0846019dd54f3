//! The reference of all keys in Markdown, made from the key tables.

use std::fmt::Write;

use super::host::{HOST_TABLES, ROUTE_TABLES};
use super::pool::health_check::HEALTH_CHECK_SCHEMA;
use super::pool::replica_options::REPLICA_OPTIONS;
use super::pool::route::ROUTE_SCHEMA;
use super::pool::schema::POOL_SCHEMA;
use super::pool::sticky::STICKY_SCHEMA;
use super::schema::TABLES;
use super::schema::client_key::CLIENT_KEY_SCHEMA;
use super::schema::key_spec::KeySpec;

const INTRODUCTION: &str = "\
# Configuration reference

Every key of `router.toml`. [`config/router.toml`](../config/router.toml) has all of them at their defaults, with examples.
`tokenweir check -c router.toml` checks a file. This page is made from the key tables in `src/config`.

- An environment variable overrides a key: `TOKENWEIR__LOG__ACCESS=off` is `access` in `[log]`.
- Durations: `\"30s\"`, `\"500ms\"`, `\"1h30m\"` or a number of seconds. Sizes: `\"32MiB\"`, `\"64k\"` or a number of bytes, in
  powers of 1024.
- Where a key takes a list, a single value is a list of one.
";

const POOL_TEXT: &str = "\
A file with one pool has these keys at the top. A file with several has them in a `[[pool]]` each, where only `policy` may
also be at the top, as their default.";

const HOST_TEXT: &str = "\
A host is nginx's `server`: it is found by the address of the connection and the request's `Host`, and has the routes that
follow it. A request for a host that has no route for its path gets 404. Keys that also stand at the top of the file have
the value from there unless the host names its own.";

const ROUTE_TEXT: &str = "\
A route is nginx's `location`. Where a path ends in `/` and leads to pools, the path without it is redirected there.";

/// Returns docs/configuration.md.
pub fn key_reference() -> String {
    let mut page = INTRODUCTION.to_owned();
    for (index, table) in TABLES.iter().enumerate() {
        match (index, table.name) {
            (0, _) => add_section(&mut page, "Top of the file", "", table.keys),
            (_, "") => add_rows(&mut page, table.keys),
            (_, name) => add_section(&mut page, &format!("`[{name}]`"), "", table.keys),
        }
    }
    add_section(&mut page, "Pools", POOL_TEXT, POOL_SCHEMA);
    add_section(&mut page, "`[[pool]]` only", "Keys that set several pools apart.", ROUTE_SCHEMA);
    let text = "Options after a replica's URL, as in `\"http://10.0.0.1:8000 weight=2 backup\"`, or keys of its table.";
    add_heading(&mut page, "Replicas", text);
    for row in REPLICA_OPTIONS {
        let expected = if row.expected.is_empty() { "no value" } else { row.expected };
        add_row(&mut page, [row.name, row.default, expected, row.doc]);
    }
    add_section(&mut page, "`health_check`", "Keys of a pool's `health_check` table.", HEALTH_CHECK_SCHEMA);
    let text = "Keys of a pool's `sticky` table, which has one of `cookie`, `learn`, `header` and `session`.";
    add_section(&mut page, "`sticky`", text, STICKY_SCHEMA);
    add_heading(&mut page, "`[[host]]`", HOST_TEXT);
    HOST_TABLES.iter().for_each(|keys| add_rows(&mut page, keys));
    add_heading(&mut page, "`[[host.route]]`", ROUTE_TEXT);
    ROUTE_TABLES.iter().for_each(|keys| add_rows(&mut page, keys));
    let text = "API keys of clients, sent as `Authorization: Bearer` or `x-api-key`. Without any, no key is needed.";
    add_section(&mut page, "`[[key]]`", text, CLIENT_KEY_SCHEMA);
    page
}

fn add_section<T>(page: &mut String, title: &str, text: &str, keys: &[KeySpec<T>]) {
    add_heading(page, title, text);
    add_rows(page, keys);
}

fn add_rows<T>(page: &mut String, keys: &[KeySpec<T>]) {
    for row in keys {
        add_row(page, [row.name, row.default, row.expected, row.doc]);
    }
}

fn add_heading(page: &mut String, title: &str, text: &str) {
    let text = if text.is_empty() { String::new() } else { format!("{text}\n\n") };
    let _ = write!(page, "\n## {title}\n\n{text}| Key | Default | Takes | Meaning |\n|---|---|---|---|\n");
}

fn add_row(page: &mut String, [name, default, expected, doc]: [&str; 4]) {
    let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
    let row = format!("| `{name}` | {default} | {} | {} |\n", escape_cell(expected), escape_cell(doc));
    page.push_str(&row.replace("|  |", "| |"));
}

/// Escapes the characters that end a cell.
fn escape_cell(text: &str) -> String {
    text.replace('|', "\\|")
}
