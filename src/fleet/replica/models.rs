//! The models that a replica serves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;

use crate::units::ModelName;

/// Maximum of model names per replica, so that a replica cannot grow tables or labels without bound.
pub const MAX_MODELS_PER_REPLICA: usize = 256;

/// A replica's answer to `/v1/models`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaModels {
    /// No answer yet: it may be loading, or down.
    Unknown,
    /// It serves, and has no model list.
    Unlisted,
    /// It serves these, its base model first.
    Listed(Vec<ModelName>),
}

/// The last answer of one replica.
#[derive(Debug)]
pub(super) struct ModelCatalog {
    models: ArcSwap<ReplicaModels>,
    /// Whether it has answered. Kept apart from `models`, which every choice would otherwise have to load.
    is_known: AtomicBool,
}

impl ReplicaModels {
    /// Returns whether `model` is in the list.
    pub fn contains(&self, model: &str) -> bool {
        matches!(self, Self::Listed(names) if names.iter().any(|n| n.as_str() == model))
    }
}

impl ModelCatalog {
    pub(super) fn load(&self) -> Arc<ReplicaModels> {
        self.models.load_full()
    }

    /// Stores the first [`MAX_MODELS_PER_REPLICA`] names. Returns whether anything changed.
    pub(super) fn store(&self, mut models: ReplicaModels) -> bool {
        if let ReplicaModels::Listed(names) = &mut models {
            names.truncate(MAX_MODELS_PER_REPLICA);
        }
        let changed = **self.models.load() != models;
        if changed {
            // Stored first: a reader that sees the new models must find that they are known.
            self.is_known.store(models != ReplicaModels::Unknown, Ordering::Release);
            self.models.store(Arc::new(models));
        }
        changed
    }

    pub(super) fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Acquire)
    }

    pub(super) fn contains(&self, model: &str) -> bool {
        self.models.load().contains(model)
    }
}

impl Default for ModelCatalog {
    fn default() -> Self {
        Self { models: ArcSwap::from_pointee(ReplicaModels::Unknown), is_known: AtomicBool::new(false) }
    }
}
