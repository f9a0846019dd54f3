//! The variables that conditions can depend on: maps, and headers in which clients send keys.

use std::collections::{BTreeMap, BTreeSet};

use super::literal_pattern::list_texts;
use crate::import::syntax::directive::Directive;

/// The request headers in which the router looks for keys, as variables.
pub(super) const KEY_HEADERS: [&str; 2] = ["http_authorization", "http_x_api_key"];

/// A `map`.
pub(super) struct VariableMap {
    /// The text whose value selects an entry.
    pub(super) source: String,
    pub(super) entries: Vec<MapEntry>,
    /// The value without an entry.
    pub(super) default: String,
}

/// An entry of a `map`.
pub(super) struct MapEntry {
    pub(super) source: MapSource,
    pub(super) value: String,
}

/// What an entry stands for.
pub(super) enum MapSource {
    /// A text, in any case.
    Text(String),
    /// The texts of a pattern.
    Texts(Vec<String>),
    /// More than a list of texts.
    Unlistable,
}

/// The variables that a configuration defines.
#[derive(Default)]
pub(in crate::import) struct VariableTable {
    maps: BTreeMap<String, VariableMap>,
    /// The variables of `set`.
    set: BTreeSet<String>,
    /// Variables with a second definition.
    ambiguous: BTreeSet<String>,
}

impl VariableTable {
    /// Returns the variables that these directives and their blocks define.
    pub(in crate::import) fn collect(directives: &[Directive]) -> Self {
        let mut table = Self::default();
        table.add_definitions(directives);
        table
    }

    fn add_definitions(&mut self, directives: &[Directive]) {
        for directive in directives {
            match (directive.name.text.as_str(), &directive.block) {
                ("map", Some(block)) => self.add_map(directive, block),
                ("set", None) => {
                    self.set.insert(directive.arg(0).trim_start_matches('$').to_owned());
                }
                // Other directives that define a variable name it in an argument.
                (_, None) | ("geo" | "split_clients", _) => {
                    let names = directive.args.iter().filter_map(|word| word.text.strip_prefix('$'));
                    let is_definition = matches!(
                        directive.name.text.as_str(),
                        "geo" | "split_clients" | "js_set" | "js_var" | "perl_set" | "auth_request_set" | "keyval"
                    ) || directive.name.text.starts_with("set_by_lua");
                    if is_definition {
                        self.ambiguous.extend(names.map(str::to_owned));
                    }
                }
                (_, Some(block)) => self.add_definitions(block),
            }
        }
    }

    fn add_map(&mut self, directive: &Directive, block: &[Directive]) {
        let Some(variable) = directive.arg(1).strip_prefix('$') else { return };
        let mut map = VariableMap { source: directive.arg(0).to_owned(), entries: Vec::new(), default: String::new() };
        for entry in block {
            let (source, value) = (entry.name.text.as_str(), entry.arg(0).to_owned());
            match (source, entry.args.len()) {
                ("volatile", 0) => {}
                ("default", 1) => map.default = value,
                (_, 1) => map.entries.push(MapEntry { source: MapSource::parse(source), value }),
                // `hostnames`, and what nginx refuses.
                _ => map.entries.push(MapEntry { source: MapSource::Unlistable, value }),
            }
        }
        if self.maps.insert(variable.to_owned(), map).is_some() {
            self.ambiguous.insert(variable.to_owned());
        }
    }

    /// Returns the map that defines a variable, if nothing else does.
    pub(super) fn find_map(&self, name: &str) -> Option<&VariableMap> {
        self.maps.get(name).filter(|_| !self.ambiguous.contains(name) && !self.set.contains(name))
    }

    /// Returns whether `set` alone defines a variable.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.set.contains(name) && !self.ambiguous.contains(name) && !self.maps.contains_key(name)
    }

    /// Returns whether the configuration defines a variable.
    pub(super) fn defines(&self, name: &str) -> bool {
        self.set.contains(name) || self.ambiguous.contains(name) || self.maps.contains_key(name)
    }
}

impl MapSource {
    fn parse(text: &str) -> Self {
        match text.strip_prefix('~') {
            // A pattern that ignores case stands for more texts than it has alternatives.
            Some(pattern) if pattern.starts_with('*') => Self::Unlistable,
            Some(pattern) => list_texts(pattern).map_or(Self::Unlistable, Self::Texts),
            None => Self::Text(text.strip_prefix('\\').unwrap_or(text).to_owned()),
        }
    }
}

impl VariableMap {
    /// Returns the value for a text; `None` if it cannot be known.
    ///
    /// As in nginx, texts come before patterns and are compared in any case.
    pub(super) fn value_of(&self, text: &str) -> Option<&str> {
        let is_text =
            |entry: &&MapEntry| matches!(&entry.source, MapSource::Text(known) if known.eq_ignore_ascii_case(text));
        if let Some(entry) = self.entries.iter().find(is_text) {
            return Some(&entry.value);
        }
        for entry in &self.entries {
            match &entry.source {
                MapSource::Text(_) => {}
                MapSource::Texts(texts) if texts.iter().any(|known| known == text) => return Some(&entry.value),
                MapSource::Texts(_) => {}
                MapSource::Unlistable => return None,
            }
        }
        Some(&self.default)
    }

    /// Returns the texts that have an entry.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.entries
            .iter()
            .flat_map(|entry| match &entry.source {
                MapSource::Text(text) => std::slice::from_ref(text),
                MapSource::Texts(texts) => texts,
                MapSource::Unlistable => &[],
            })
            .map(String::as_str)
    }
}
