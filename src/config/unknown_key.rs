//! The errors of keys and variables that do not exist, with the help that fits best.

use super::diagnostics::{Diagnostic, Span, SpannedValue};
use super::host::schema::{HOST_TABLES, ROUTE_TABLES};
use super::parse::nginx_hints::NGINX_HINTS;
use super::parse::renamed_keys::renamed_key;
use super::parse::suggest::{closest_match, key_suggestion, likely_key};
use super::pool::schema::{POOL_SCHEMA, pool_keys};
use super::schema::TABLES;
use super::schema::key_spec::{KeySpec, key_names};

/// Returns the error of a key that `table` does not have; `table` is empty for the top of the file.
pub(super) fn unknown_key(table: &str, key: &SpannedValue<&str>) -> Diagnostic {
    let SpannedValue { value: name, span } = key;
    let place = match table {
        "" => String::new(),
        "pool" | "host" | "host.route" => format!(" in `[[{table}]]`"),
        table => format!(" in `[{table}]`"),
    };
    let diagnostic = span.diagnostic(format!("unknown key `{name}`{place}"));
    if let Some(new) = renamed_key(table, name) {
        return diagnostic.with_help(format!("renamed to `{new}`"));
    }
    if let Some((_, key)) = NGINX_HINTS.iter().find(|(directive, _)| directive == name) {
        return diagnostic.with_help(format!("nginx's `{name}` is {key} here"));
    }
    let known = known_keys(table);
    let places = places_of(name).join(", or ");
    let is_typing_error = closest_match(name, known.iter().copied()).is_some();
    // The table at hand comes first, whatever else has the key.
    let help = match likely_key(name, &known).filter(|_| !is_typing_error) {
        Some(likely) if !places.is_empty() => format!("did you mean `{likely}`? `{name}` belongs {places}"),
        None if !is_typing_error && !places.is_empty() => format!("`{name}` belongs {places}"),
        _ => key_suggestion(name, &known),
    };
    diagnostic.with_help(help)
}

/// Returns the keys and tables that `table` may have.
fn known_keys(table: &str) -> Vec<&'static str> {
    match table {
        "" => {
            let tables = TABLES.iter().map(|schema| schema.name).filter(|name| !name.is_empty());
            settings_keys("").chain(key_names(POOL_SCHEMA)).chain(tables).chain(["pool", "host", "key"]).collect()
        }
        "pool" => pool_keys().map(|row| row.name).collect(),
        "host" => table_keys(HOST_TABLES).chain(["route"]).collect(),
        "host.route" => table_keys(ROUTE_TABLES).collect(),
        table => settings_keys(table).collect(),
    }
}

fn table_keys<T>(tables: &'static [&'static [KeySpec<T>]]) -> impl Iterator<Item = &'static str> {
    tables.iter().flat_map(|rows| key_names(rows))
}

fn settings_keys(table: &str) -> impl Iterator<Item = &'static str> {
    TABLES.iter().filter(move |schema| schema.name == table).flat_map(|schema| key_names(schema.keys))
}

/// Returns all places where the key called `name` belongs; empty if no table has it.
fn places_of(name: &str) -> Vec<String> {
    let has_key = |table: &str| settings_keys(table).any(|key| key == name);
    let tables = TABLES.iter().map(|schema| schema.name).filter(|table| !table.is_empty() && has_key(table));
    let mut places: Vec<String> = tables.map(|table| format!("in `[{table}]`")).collect();
    if pool_keys().any(|row| row.name == name) {
        places.push("in a `[[pool]]`".to_owned());
    }
    if table_keys(HOST_TABLES).any(|key| key == name) {
        places.push("in a `[[host]]`".to_owned());
    }
    if table_keys(ROUTE_TABLES).any(|key| key == name) {
        places.push("in a `[[host.route]]`".to_owned());
    }
    if has_key("") {
        places.push("at the top, above the first table".to_owned());
    }
    places
}

/// Returns the error of a variable that overrides no key. `prefix` is that of variables, `path` its table and key.
pub(super) fn unknown_variable(prefix: &str, (table, name): (&str, &str), variable: &Span) -> Diagnostic {
    let written = &variable.source().file;
    let diagnostic = variable.diagnostic(format!("the variable `{written}` overrides no key")).without_excerpt();
    if let Some(new) = renamed_key(table, name) {
        let start = written.strip_suffix(&name.to_uppercase()).unwrap_or(prefix);
        return diagnostic.with_help(format!("renamed to `{start}{}`", new.to_uppercase()));
    }
    let variable_of = |table: &str, key: &str| match table {
        "" => format!("{prefix}{}", key.to_uppercase()),
        table => format!("{prefix}{}__{}", table.to_uppercase(), key.to_uppercase()),
    };
    let settings = TABLES.iter().flat_map(|schema| key_names(schema.keys).map(|key| variable_of(schema.name, key)));
    let known: Vec<String> = settings.chain(key_names(POOL_SCHEMA).map(|key| variable_of("", key))).collect();
    match closest_match(written, known.iter().map(String::as_str)) {
        Some(near) => diagnostic.with_help(format!("did you mean `{near}`?")),
        None => diagnostic.with_help(format!("for example, `{prefix}LOG__ACCESS` is `access` in `[log]`")),
    }
}
