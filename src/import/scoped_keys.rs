//! The keys of router.toml that a block of nginx has in force.

use std::collections::BTreeMap;

use super::syntax::directive::{Directive, SourceLine};

/// The keys that hosts and routes can have, in the order in which they are written.
pub(super) const SCOPED_KEYS: [&str; 17] = [
    "body_bytes",
    TRUSTED_PROXIES,
    "client_address_header",
    "client_address_recursive",
    "access",
    "methods",
    "keys",
    "gzip",
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    SUCCESS_HEADERS,
    ACCESS_LOG,
    "timeouts.connect",
    "timeouts.first_byte",
    "timeouts.client_body",
    "timeouts.client_send",
    "timeouts.keepalive",
];
pub(super) const ACCESS_LOG: &str = "access_log";
pub(super) const REQUEST_HEADERS: &str = "request_headers";
pub(super) const RESPONSE_HEADERS: &str = "response_headers";
pub(super) const SUCCESS_HEADERS: &str = "success_headers";
pub(super) const TRUSTED_PROXIES: &str = "trusted_proxies";

/// The keys that nginx has for each server and the router once. The most permissive value in use is carried over.
pub(super) const ROUTER_KEYS: [(&str, u128); 4] = [
    ("timeouts.client_header", 60_000_000_000),
    ("limits.header_bytes", 4 * 8192),
    ("limits.uri_bytes", 8192),
    ("limits.streams_per_connection", 128),
];

/// The values that a key has without configuration, where a block may have to set it back.
const EMPTY_VALUES: [(&str, &str); 8] = [
    (TRUSTED_PROXIES, "[]"),
    ("access", "[]"),
    ("methods", "\"any\""),
    // At the top of a file with keys, none is needed.
    ("keys", "\"none\""),
    ("gzip", "\"off\""),
    (REQUEST_HEADERS, "{}"),
    (RESPONSE_HEADERS, "{}"),
    (SUCCESS_HEADERS, "{}"),
];

/// A value of a directive that nginx has once in a block.
#[derive(Clone, Debug)]
pub(super) struct RankedValue {
    /// As TOML.
    pub(super) toml: String,
    /// The greatest rank is the most permissive.
    pub(super) rank: u128,
    /// The directive in one line.
    pub(super) directive_text: String,
    pub(super) source_line: SourceLine,
}

impl RankedValue {
    pub(super) fn new(toml: String, rank: u128, directive: &Directive) -> Self {
        Self { toml, rank, directive_text: directive.to_one_line(), source_line: directive.source_line() }
    }
}

/// The keys in force in a block, as TOML.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ScopedKeys(BTreeMap<&'static str, String>);

impl ScopedKeys {
    pub(super) fn set(&mut self, key: &'static str, toml: String) {
        self.0.insert(key, toml);
    }

    pub(super) fn remove(&mut self, key: &str) {
        self.0.remove(key);
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !EMPTY_VALUES.contains(&(key, value)))
    }

    /// Returns a key's value, even one that a key has without configuration.
    pub(super) fn written(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(String::as_str)
    }

    /// Returns the keys in force in a block that sets `inner` inside one with these.
    pub(super) fn overlaid_by(&self, inner: &Self) -> Self {
        let mut keys = self.clone();
        keys.0.extend(inner.0.iter().map(|(key, value)| (*key, value.clone())));
        keys
    }

    /// Returns the keys that a block with these must set inside one with `outer`.
    pub(super) fn differing_from(&self, outer: &Self) -> Self {
        let mut differing = Self::default();
        for key in SCOPED_KEYS {
            if self.get(key) != outer.get(key) {
                let empty = EMPTY_VALUES.iter().find(|(name, _)| *name == key).map(|(_, empty)| *empty);
                if let Some(value) = self.get(key).or(empty) {
                    differing.set(key, value.to_owned());
                }
            }
        }
        differing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(pairs: &[(&'static str, &str)]) -> ScopedKeys {
        let mut keys = ScopedKeys::default();
        pairs.iter().for_each(|(key, value)| keys.set(key, (*value).to_owned()));
        keys
    }

    #[test]
    fn inner_block_sets_only_what_differs() {
        let outer = keys(&[("body_bytes", "\"1m\""), ("gzip", "\"1k\""), ("request_headers", "{ A = \"1\" }")]);
        for (inner, expected) in [
            (outer.clone(), keys(&[])),
            (
                keys(&[("body_bytes", "\"2m\"")]),
                keys(&[("body_bytes", "\"2m\""), ("gzip", "\"off\""), ("request_headers", "{}")]),
            ),
        ] {
            assert_eq!(inner.differing_from(&outer), expected);
        }
        assert_eq!(outer.differing_from(&keys(&[])), outer);
        assert!(keys(&[("gzip", "\"off\""), ("access", "[]")]).differing_from(&keys(&[])) == keys(&[]));
    }
}
