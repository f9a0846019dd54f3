//! The context lengths of a replica's models.

use arc_swap::ArcSwap;

use crate::units::{ModelName, Tokens};

/// The longest prompt and answer together of each model, as far as the replica lists it.
#[derive(Debug, Default)]
pub(super) struct ContextLengths {
    by_model: ArcSwap<Vec<(ModelName, Tokens)>>,
}

impl ContextLengths {
    pub(super) fn store(&self, lengths: Vec<(ModelName, Tokens)>) {
        self.by_model.store(lengths.into());
    }

    /// Returns the length of `model`; for one without a length, such as an adapter or an alias, the least of all.
    pub(super) fn find(&self, model: &str) -> Option<Tokens> {
        let lengths = self.by_model.load();
        let own = lengths.iter().find(|(name, _)| name.as_str() == model);
        own.or_else(|| lengths.iter().min_by_key(|(_, length)| length.0)).map(|(_, length)| *length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_without_a_length_has_the_least_of_all() {
        let lengths = ContextLengths::default();
        assert_eq!(lengths.find("m"), None);
        lengths.store(vec![("long".into(), Tokens(9_000)), ("short".into(), Tokens(4_000))]);
        assert_eq!(["long", "short", "adapter"].map(|model| lengths.find(model).unwrap().0), [9_000, 4_000, 4_000]);
        lengths.store(Vec::new());
        assert_eq!(lengths.find("long"), None);
    }
}
