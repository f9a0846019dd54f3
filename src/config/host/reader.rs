//! Reads hosts and routes into drafts.

use toml::de::DeValue;

use super::draft::{HostDraft, HostRouteDraft};
use super::schema::{HOST_TABLES, ROUTE_TABLES};
use crate::config::diagnostics::{Diagnostic, SpannedValue};
use crate::config::parse::value::{TomlEntry, type_name};
use crate::config::schema::key_spec::{KeySpec, find_key};
use crate::config::unknown_key::unknown_key;

/// Reads one `[[host]]` with its routes.
pub(in crate::config) fn read_host(given: &SpannedValue<&DeValue<'_>>, errors: &mut Vec<Diagnostic>) -> HostDraft {
    let mut draft = HostDraft { span: given.span.clone(), ..HostDraft::default() };
    for entry in table_entries(given, "[[host]]", errors) {
        match (entry.key.value, entry.value.value) {
            ("route", DeValue::Array(items)) => {
                let items =
                    items.iter().map(|item| SpannedValue::new(item.get_ref(), given.span.with_range(item.span())));
                draft.routes.extend(items.map(|item| read_route(&item, errors)));
            }
            ("route", _) => {
                let issue = entry.value.span.diagnostic("routes are a list");
                errors.push(issue.with_help("write `[[host.route]]`, one for each route"));
            }
            _ => read_entry(HOST_TABLES, "host", &entry, &mut draft, errors),
        }
    }
    draft
}

fn read_route(given: &SpannedValue<&DeValue<'_>>, errors: &mut Vec<Diagnostic>) -> HostRouteDraft {
    let mut draft = HostRouteDraft { span: given.span.clone(), ..HostRouteDraft::default() };
    let before = errors.len();
    for entry in table_entries(given, "[[host.route]]", errors) {
        read_entry(ROUTE_TABLES, "host.route", &entry, &mut draft, errors);
    }
    draft.has_errors = errors.len() > before;
    draft
}

fn table_entries<'a>(
    given: &SpannedValue<&'a DeValue<'a>>,
    form: &str,
    errors: &mut Vec<Diagnostic>,
) -> Vec<TomlEntry<'a>> {
    match given.value {
        DeValue::Table(table) => TomlEntry::of_table(table, &given.span),
        other => {
            let issue = given.span.diagnostic(format!("`{form}` is a table, not {}", type_name(other)));
            errors.push(issue.with_help(format!("write `{form}`, and its keys below")));
            Vec::new()
        }
    }
}

fn read_entry<T>(
    tables: &[&'static [KeySpec<T>]],
    table: &str,
    entry: &TomlEntry<'_>,
    draft: &mut T,
    errors: &mut Vec<Diagnostic>,
) {
    match tables.iter().find_map(|rows| find_key(rows, entry.key.value)) {
        Some(row) => errors.extend(row.read(draft, entry)),
        None => errors.push(unknown_key(table, &entry.key)),
    }
}
