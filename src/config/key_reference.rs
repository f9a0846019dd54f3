//! The reference of all keys in Markdown, made from the key tables.

use std::fmt::Write;

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

/// Returns docs/configuration.md.
pub fn key_reference() -> String {
    let mut page = INTRODUCTION.to_owned();
    for table in TABLES {
        match table.name {
            "" => add_section(&mut page, "Top of the file", "", table.keys),
            name => add_section(&mut page, &format!("`[{name}]`"), "", table.keys),
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
    let text = "API keys of clients, sent as `Authorization: Bearer` or `x-api-key`. Without any, no key is needed.";
    add_section(&mut page, "`[[key]]`", text, CLIENT_KEY_SCHEMA);
    page
}

fn add_section<T>(page: &mut String, title: &str, text: &str, keys: &[KeySpec<T>]) {
    add_heading(page, title, text);
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
