//! Reads TOML and the environment into drafts. The rows of the key tables say which key is what.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{Diagnostic, Span, SpannedValue};
use super::host::{HostDraft, read_host};
use super::parse::value::{TomlEntry, type_name};
use super::pool::draft::PoolDraft;
use super::pool::replica::parse_replica_words;
use super::pool::schema::{POOL_SCHEMA, pool_keys};
use super::schema::TABLES;
use super::schema::client_key::ClientKeyDraft;
use super::schema::key_spec::find_key;
use super::schema::settings_draft::SettingsDraft;
use super::unknown_key::{unknown_key, unknown_variable};

/// The beginning of variables that override keys; the key's path follows, with `__` between table and key.
pub const ENV_PREFIX: &str = "TOKENWEIR__";

/// Reads a configuration. What is read so far is in its fields, not yet compared with each other.
#[derive(Default)]
pub(super) struct ConfigLoader {
    pub(super) settings: SettingsDraft,
    /// The pool of a file without `[[pool]]`, whose keys are at the top.
    pub(super) top_level_pool: PoolDraft,
    pub(super) pools: Vec<PoolDraft>,
    pub(super) hosts: Vec<HostDraft>,
    pub(super) client_keys: Vec<ClientKeyDraft>,
    /// The places of the settings' values by table and key; of a key given twice, the last.
    pub(super) spans: BTreeMap<(&'static str, &'static str), Span>,
    pub(super) errors: Vec<Diagnostic>,
}

impl ConfigLoader {
    /// Returns a loader that has read nothing; `document` is the whole file.
    pub(super) fn new(document: &Span) -> Self {
        Self { top_level_pool: PoolDraft::new(document.with_range(0..0)), ..Self::default() }
    }

    /// Reads a file.
    pub(super) fn read_document(&mut self, root: &DeTable<'_>, document: &Span) {
        for entry in TomlEntry::of_table(root, document) {
            let TomlEntry { key, value, .. } = &entry;
            match (key.value, value.value) {
                ("pool", DeValue::Array(items)) => {
                    items.iter().for_each(|item| self.read_pool(&spanned(item, document)));
                }
                ("pool", _) => {
                    let diagnostic = value.span.diagnostic("pools are a list");
                    self.errors.push(diagnostic.with_help("write `[[pool]]`, one for each pool"));
                    self.read_pool(value);
                }
                ("key", DeValue::Array(items)) => {
                    items.iter().for_each(|item| self.read_key(&spanned(item, document)));
                }
                ("key", _) => {
                    let diagnostic = value.span.diagnostic("keys are a list").without_excerpt();
                    self.errors.push(diagnostic.with_help("write `[[key]]`, one for each key"));
                    self.read_key(value);
                }
                ("host", DeValue::Array(items)) => {
                    items.iter().for_each(|item| self.read_host(&spanned(item, document)));
                }
                ("host", _) => {
                    let diagnostic = value.span.diagnostic("hosts are a list");
                    self.errors.push(diagnostic.with_help("write `[[host]]`, one for each host"));
                }
                (name, DeValue::Table(table)) if is_table_name(name) => {
                    for entry in TomlEntry::of_table(table, document) {
                        self.assign_key(name, &entry);
                    }
                }
                (name, _) if is_table_name(name) => {
                    let diagnostic = key.span.diagnostic(format!("`{name}` is a table"));
                    self.errors.push(diagnostic.with_help(format!("write `[{name}]`")));
                }
                _ => self.assign_key("", &entry),
            }
        }
    }

    fn read_key(&mut self, given: &SpannedValue<&DeValue<'_>>) {
        self.client_keys.push(ClientKeyDraft::from_toml(given, &mut self.errors));
    }

    fn read_host(&mut self, given: &SpannedValue<&DeValue<'_>>) {
        self.hosts.push(read_host(given, &mut self.errors));
    }

    fn read_pool(&mut self, given: &SpannedValue<&DeValue<'_>>) {
        let SpannedValue { value, span } = given;
        let DeValue::Table(table) = value else {
            let diagnostic = span.diagnostic(format!("a pool is a table, not {}", type_name(value)));
            self.errors.push(diagnostic.with_help("write `[[pool]]`"));
            self.pools.push(PoolDraft::unreadable(span.clone()));
            return;
        };
        let mut draft = PoolDraft::new(span.clone());
        for entry in TomlEntry::of_table(table, span) {
            match pool_keys().find(|row| row.name == entry.key.value) {
                Some(row) => self.errors.extend(draft.read_key(row, &entry)),
                None => self.errors.push(unknown_key("pool", &entry.key)),
            }
        }
        self.pools.push(draft);
    }

    /// Reads an entry outside `[[pool]]`; `table` is empty at the top.
    fn assign_key(&mut self, table: &str, entry: &TomlEntry<'_>) {
        if !self.assign_known_key(table, entry) {
            self.errors.push(unknown_key(table, &entry.key));
        }
    }

    /// Reads an entry and returns whether its key exists.
    fn assign_known_key(&mut self, table: &str, entry: &TomlEntry<'_>) -> bool {
        let name = entry.key.value;
        let mut schemas = TABLES.iter().filter(|schema| schema.name == table);
        if let Some((schema, row)) = schemas.find_map(|schema| Some((schema, find_key(schema.keys, name)?))) {
            self.spans.insert((schema.name, row.name), entry.value.span.clone());
            self.errors.extend(row.read(&mut self.settings, entry));
            return true;
        }
        let pool_key = find_key(POOL_SCHEMA, name).filter(|_| table.is_empty());
        self.errors.extend(pool_key.map(|row| self.top_level_pool.read_key(row, entry)).unwrap_or_default());
        pool_key.is_some()
    }

    /// Reads the variables that override keys, such as `TOKENWEIR__LOG__ACCESS=off`.
    pub(super) fn apply_environment(&mut self, env: &BTreeMap<String, String>) {
        for (variable, text) in env {
            let Some(path) = variable.strip_prefix(ENV_PREFIX).map(str::to_ascii_lowercase) else { continue };
            let source = Span::from_text(variable, text);
            let (table, name) = path.split_once("__").unwrap_or(("", &path));
            // A text that is not TOML is a string, which needs no quotes in a shell.
            let parsed = DeValue::parse(&source.source().text).ok();
            let value = match &parsed {
                Some(value) => SpannedValue::new(value.get_ref().clone(), source.with_range(value.span())),
                None => SpannedValue::new(DeValue::String(text.as_str().into()), source.clone()),
            };
            let key = SpannedValue::new(name, source.clone());
            let entry = TomlEntry::from_variable(key, SpannedValue::new(&value.value, value.span));
            if !self.assign_known_key(table, &entry) {
                self.errors.push(unknown_variable(ENV_PREFIX, (table, name), &source));
            }
        }
    }

    /// Reads the replicas of the pool at the top from command-line arguments.
    pub(super) fn read_arguments(&mut self, urls: &[String], arguments: &Span) {
        let mut members = Vec::new();
        for (i, url) in urls.iter().enumerate() {
            let argument = Span::from_text(format!("argument {}", i + 1), url);
            match parse_replica_words(&argument, split_words(url, &argument)) {
                Ok(member) => members.push(member),
                Err(errors) => self.errors.extend(errors),
            }
        }
        let members = Some(members).filter(|members| urls.is_empty() || !members.is_empty());
        self.top_level_pool.set_members(arguments.clone(), members);
    }
}

fn is_table_name(name: &str) -> bool {
    !name.is_empty() && TABLES.iter().any(|schema| schema.name == name)
}

fn spanned<'a>(item: &'a Spanned<DeValue<'a>>, document: &Span) -> SpannedValue<&'a DeValue<'a>> {
    SpannedValue::new(item.get_ref(), document.with_range(item.span()))
}

/// Returns the words of `text` with their places; `span` is that of the text.
fn split_words(text: &str, span: &Span) -> Vec<SpannedValue<String>> {
    let words = text.split_whitespace().map(|word| {
        // Both are slices of one string.
        let start = word.as_ptr() as usize - text.as_ptr() as usize;
        SpannedValue::new(word.to_owned(), span.with_range(start..start + word.len()))
    });
    words.collect()
}
