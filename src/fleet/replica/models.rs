//! The models that a replica serves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::context_lengths::ContextLengths;
use super::model_list_fault::ModelListFault;
use crate::units::{ModelName, Tokens};

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
    /// Which kind of [`ReplicaModels`] it is. Kept apart from `models`, which every choice would otherwise have to
    /// load.
    kind: AtomicU8,
    /// The fault of the last answer; `None` after a list, and before the first answer.
    fault: ArcSwapOption<ModelListFault>,
    context_lengths: ContextLengths,
}

const KIND_UNKNOWN: u8 = 0;
const KIND_UNLISTED: u8 = 1;
const KIND_LISTED: u8 = 2;

impl ReplicaModels {
    /// Returns whether `model` is in the list.
    pub fn contains(&self, model: &str) -> bool {
        matches!(self, Self::Listed(names) if names.iter().any(|n| n.as_str() == model))
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Unknown => KIND_UNKNOWN,
            Self::Unlisted => KIND_UNLISTED,
            Self::Listed(_) => KIND_LISTED,
        }
    }
}

impl ModelCatalog {
    pub(super) fn load(&self) -> Arc<ReplicaModels> {
        self.models.load_full()
    }

    /// Stores the first [`MAX_MODELS_PER_REPLICA`] names. Returns whether anything changed.
    pub(super) fn store(&self, models: ReplicaModels) -> bool {
        let had_fault = self.fault.swap(None).is_some();
        self.store_models(models) || had_fault
    }

    /// Stores the fault of an answer. Returns whether it differs from that of the answer before.
    pub(super) fn store_fault(&self, fault: ModelListFault) -> bool {
        let had_list = self.kind.load(Ordering::Acquire) == KIND_LISTED;
        if fault.is_answer() && (!had_list || fault.revokes_list()) {
            self.store_models(ReplicaModels::Unlisted);
        }
        self.fault.swap(Some(Arc::new(fault))).is_none_or(|before| *before != fault)
    }

    pub(super) fn fault(&self) -> Option<ModelListFault> {
        self.fault.load().as_deref().copied()
    }

    fn store_models(&self, mut models: ReplicaModels) -> bool {
        if let ReplicaModels::Listed(names) = &mut models {
            names.truncate(MAX_MODELS_PER_REPLICA);
        }
        let changed = **self.models.load() != models;
        if changed {
            // Stored first: a reader that sees the new models must find that they are known.
            self.kind.store(models.kind(), Ordering::Release);
            self.models.store(Arc::new(models));
        }
        changed
    }

    /// Stores the first [`MAX_MODELS_PER_REPLICA`] lengths.
    pub(super) fn store_context_lengths(&self, mut lengths: Vec<(ModelName, Tokens)>) {
        lengths.truncate(MAX_MODELS_PER_REPLICA);
        self.context_lengths.store(lengths);
    }

    pub(super) fn context_length(&self, model: &str) -> Option<Tokens> {
        self.context_lengths.find(model)
    }

    pub(super) fn is_known(&self) -> bool {
        self.kind.load(Ordering::Acquire) != KIND_UNKNOWN
    }

    pub(super) fn is_listed(&self) -> bool {
        self.kind.load(Ordering::Acquire) == KIND_LISTED
    }

    pub(super) fn contains(&self, model: &str) -> bool {
        self.models.load().contains(model)
    }
}

impl Default for ModelCatalog {
    fn default() -> Self {
        Self {
            models: ArcSwap::from_pointee(ReplicaModels::Unknown),
            kind: AtomicU8::new(KIND_UNKNOWN),
            fault: ArcSwapOption::empty(),
            context_lengths: ContextLengths::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_survives_faults_that_prove_nothing() {
        let catalog = ModelCatalog::default();
        assert!(catalog.store_fault(ModelListFault::Unreachable) && !catalog.is_known());
        assert!(!catalog.store_fault(ModelListFault::Unreachable), "the same again is no news");
        assert!(catalog.store(ReplicaModels::Listed(vec!["m".into()])));
        assert_eq!(catalog.fault(), None);
        for fault in [ModelListFault::Unreachable, ModelListFault::Unavailable(503), ModelListFault::NotJson] {
            assert!(catalog.store_fault(fault));
            assert!(catalog.contains("m") && catalog.is_listed(), "{fault}");
        }
        assert!(catalog.store_fault(ModelListFault::Unauthorized));
        assert!(!catalog.is_listed() && catalog.is_known());
        assert_eq!(catalog.fault(), Some(ModelListFault::Unauthorized));
    }
}
