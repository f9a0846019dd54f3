//! One engine server, shared by every pool that has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use crossbeam_utils::CachePadded;

use super::pace::Pace;
use super::{MemberSpec, Origin, sticky};
use crate::units::{ModelName, ReplicaId};

/// The most model names taken from one replica, so that a replica cannot grow our tables or labels without bound.
pub const MODELS_PER_REPLICA: usize = 256;

/// What a replica has said about its models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Models {
    /// It has not answered yet: it may be loading, or down.
    Unknown,
    /// It serves, and has no list of models.
    Unlisted,
    /// It serves these, its base model first.
    Listed(Vec<ModelName>),
}

impl Models {
    /// Tells whether `model` is in the list.
    pub fn list(&self, model: &str) -> bool {
        matches!(self, Self::Listed(names) if names.iter().any(|n| n.as_str() == model))
    }
}

/// An engine server and the load on it.
#[derive(Debug)]
pub struct Replica {
    id: ReplicaId,
    name: Arc<str>,
    origin: Origin,
    models: ArcSwap<Models>,
    in_flight: CachePadded<AtomicU32>,
    chosen: AtomicU64,
    pace: Pace,
    /// Set by hand, and kept until undone by hand.
    drained: AtomicBool,
    /// How often it was drained.
    absences: AtomicU32,
    mark: String,
}

impl Replica {
    pub(super) fn new(id: ReplicaId, spec: &MemberSpec) -> Self {
        Self {
            id,
            name: spec.name.clone(),
            origin: spec.origin.clone(),
            models: ArcSwap::from_pointee(Models::Unknown),
            in_flight: CachePadded::default(),
            chosen: AtomicU64::new(0),
            pace: Pace::default(),
            drained: AtomicBool::new(false),
            absences: AtomicU32::new(0),
            mark: sticky::mark(&spec.name),
        }
    }

    /// Tells whether `spec` describes this replica: the same place under the same name.
    pub(super) fn is(&self, spec: &MemberSpec) -> bool {
        self.origin == spec.origin && self.name == spec.name
    }

    /// Keeps new requests away; those on it go on.
    pub fn drain(&self, drained: bool) {
        if drained && !self.drained.swap(drained, Ordering::Relaxed) {
            self.absences.fetch_add(1, Ordering::Relaxed);
        }
        self.drained.store(drained, Ordering::Relaxed);
    }

    /// Tells whether new requests are kept away.
    pub fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed)
    }

    pub(super) fn absences(&self) -> u32 {
        self.absences.load(Ordering::Relaxed)
    }

    /// What stands for it in cookies: made from its name, the same in every process, and not telling where it is.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// Its identity, never reused.
    pub const fn id(&self) -> ReplicaId {
        self.id
    }

    /// Its name in logs, metrics and `X-Upstream`.
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Where it is reached.
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What it last said about its models.
    pub fn models(&self) -> Arc<Models> {
        self.models.load_full()
    }

    /// Takes note of what it serves, the first [`MODELS_PER_REPLICA`] names. Returns whether anything changed.
    pub fn learn(&self, mut models: Models) -> bool {
        if let Models::Listed(names) = &mut models {
            names.truncate(MODELS_PER_REPLICA);
        }
        let changed = **self.models.load() != models;
        if changed {
            self.models.store(Arc::new(models));
        }
        changed
    }

    /// Requests on it that are chosen and not settled.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How often it was chosen since the start.
    pub fn chosen(&self) -> u64 {
        self.chosen.load(Ordering::Relaxed)
    }

    pub(super) const fn pace(&self) -> &Pace {
        &self.pace
    }

    pub(super) fn serves(&self, model: &str) -> bool {
        self.models.load().list(model)
    }

    pub(super) fn answered(&self) -> bool {
        !matches!(**self.models.load(), Models::Unknown)
    }

    pub(super) fn charge(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.chosen.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn discharge(&self) {
        let before = self.in_flight.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a lease takes back what it added, once");
    }
}
