//! The API keys that conditions become.

use std::collections::BTreeSet;

use crate::import::syntax::directive::Directive;

/// The API keys of the resulting router.toml.
#[derive(Default)]
pub(in crate::import) struct ImportedClientKeys {
    /// In the order of their names.
    secrets: Vec<String>,
    uses: Vec<KeyCondition>,
    /// Conditions that are carried over as something else than keys.
    carried: Vec<Directive>,
}

/// An `if` that asks for keys.
pub(super) struct KeyCondition {
    pub(super) condition: Directive,
    /// The status of its refusal.
    pub(super) status: u16,
    /// The names of the keys that it admits.
    pub(super) names: BTreeSet<String>,
}

impl ImportedClientKeys {
    /// Returns the name of a key; the first call for a key adds it.
    pub(in crate::import) fn name_of(&mut self, secret: &str) -> String {
        let index = self.secrets.iter().position(|known| known == secret).unwrap_or_else(|| {
            self.secrets.push(secret.to_owned());
            self.secrets.len() - 1
        });
        key_name(index)
    }

    /// Notes the keys that an `if` asks for.
    pub(in crate::import) fn add_use(&mut self, (condition, status): &(Directive, u16), names: &[String]) {
        match self.uses.iter_mut().find(|known| known.condition.is_same_as(condition)) {
            Some(known) => known.names.extend(names.iter().cloned()),
            None => self.uses.push(KeyCondition {
                condition: condition.clone(),
                status: *status,
                names: names.iter().cloned().collect(),
            }),
        }
    }

    /// Notes conditions that are carried over as something else than keys.
    pub(in crate::import) fn add_carried(&mut self, conditions: Vec<Directive>) {
        self.carried.extend(conditions);
    }

    /// Returns whether a condition is carried over as something else than keys.
    pub(super) fn is_carried(&self, condition: &Directive) -> bool {
        self.carried.iter().any(|known| known.is_same_as(condition))
    }

    pub(in crate::import) const fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// Returns the keys with their names.
    pub(in crate::import) fn named_secrets(&self) -> impl Iterator<Item = (String, &str)> {
        self.secrets.iter().enumerate().map(|(index, secret)| (key_name(index), secret.as_str()))
    }

    /// Returns what a condition asks for, if it asks for keys.
    pub(super) fn find_use(&self, condition: &Directive) -> Option<&KeyCondition> {
        self.uses.iter().find(|known| known.condition.is_same_as(condition))
    }
}

fn key_name(index: usize) -> String {
    format!("imported-{}", index + 1)
}
