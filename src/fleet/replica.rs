//! One engine server, shared by every pool that has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::averages::Averages;
use super::door::Door;
use super::load::{Charge, Ledger};
use super::seat::Seat;
use super::vitals::{Ours, Truth, Vitals};
use super::{MemberSpec, Origin, sticky};
use crate::balance::Load;
use crate::units::{ModelName, Moment, ReplicaId, Tokens};

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

/// What is known of asking a replica for the usage of a stream.
#[derive(Debug, Default)]
struct Asking {
    given: AtomicBool,
    never: AtomicBool,
}

/// An engine server and the load on it.
#[derive(Debug)]
pub struct Replica {
    id: ReplicaId,
    name: Arc<str>,
    origin: Origin,
    models: ArcSwap<Models>,
    ledger: Ledger,
    chosen: AtomicU64,
    averages: Averages,
    /// Set by hand, and kept until undone by hand.
    drained: AtomicBool,
    asking: Asking,
    door: Door,
    /// How often it was drained.
    absences: AtomicU32,
    mark: String,
    /// What its engine last said of itself.
    truth: ArcSwapOption<Truth>,
    /// When something last came from it, in nanoseconds.
    progressed: AtomicU64,
    /// Requests of which nothing has come yet.
    unanswered: AtomicU32,
    /// When it was last given a request while there was none of those.
    unanswered_since: AtomicU64,
    seat: Seat,
}

impl Replica {
    pub(super) fn new(id: ReplicaId, spec: &MemberSpec, seat: Seat) -> Self {
        Self {
            id,
            name: spec.name.clone(),
            origin: spec.origin.clone(),
            models: ArcSwap::from_pointee(Models::Unknown),
            ledger: Ledger::default(),
            chosen: AtomicU64::new(0),
            averages: Averages::default(),
            drained: AtomicBool::new(false),
            asking: Asking::default(),
            door: Door::default(),
            absences: AtomicU32::new(0),
            mark: sticky::mark(&spec.name),
            truth: ArcSwapOption::empty(),
            progressed: AtomicU64::new(0),
            unanswered: AtomicU32::new(0),
            unanswered_since: AtomicU64::new(0),
            seat,
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

    /// Tells whether it can be asked for the usage of a stream in place of a client that did not.
    pub fn may_be_asked_usage(&self) -> bool {
        !self.asking.never.load(Ordering::Relaxed)
    }

    /// Tells whether it has once answered a request with that question, so that a refusal is not about the question.
    pub fn gives_usage(&self) -> bool {
        self.asking.given.load(Ordering::Relaxed)
    }

    /// Takes note of whether it takes the question and answers it apart from the rest; once it did not, it is not asked
    /// again.
    pub fn learn_usage(&self, gives: bool) {
        if gives { &self.asking.given } else { &self.asking.never }.store(true, Ordering::Relaxed);
    }

    /// Whether its port takes connections, as far as anybody has tried.
    pub const fn door(&self) -> &Door {
        &self.door
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
        self.ledger.in_flight()
    }

    /// The tokens of those requests.
    pub fn load(&self) -> Load {
        self.ledger.load()
    }

    /// The tokens on it, those of requests that did not come through this router included, as far as is known at `now`.
    pub(super) fn whole_load(&self, now: Moment) -> Load {
        self.ledger.load() + self.foreign_load(now)
    }

    /// The tokens of requests on it that did not come through this router, as far as is known at `now`.
    pub(super) fn foreign_load(&self, now: Moment) -> Load {
        match &*self.truth.load() {
            Some(truth) if now < truth.until => truth.foreign.load,
            _ => Load::default(),
        }
    }

    /// Tokens that its cache is taken to have room for, if its engine says.
    pub(super) fn room(&self, now: Moment) -> Option<Tokens> {
        self.truth(now)?.vitals.kv_capacity
    }

    /// Takes note of what its engine said at `now`, to be believed for `good_for`. `in_flight`: the most requests of ours
    /// that were on it while it was asked.
    pub fn learn_vitals(&self, vitals: Vitals, in_flight: u32, now: Moment, good_for: Duration) {
        let ours = Ours { in_flight, load: self.ledger.load() };
        let before = self.truth(now);
        let totals = before.as_ref().and_then(|before| before.vitals.prompt).zip(vitals.prompt);
        if totals.is_some_and(|(before, now)| now < before) {
            // Its totals began anew, and so did its cache.
            self.seat.clear();
        }
        if let Some(capacity) = vitals.kv_capacity {
            self.seat.resize(capacity);
        }
        self.truth.store(Some(Arc::new(Truth::new(vitals, ours, before.as_deref(), now, good_for))));
    }

    /// What its engine said of itself; `None` if it has not, or not lately.
    pub fn truth(&self, now: Moment) -> Option<Arc<Truth>> {
        self.truth.load_full().filter(|truth| now < truth.until)
    }

    /// How often it was chosen since the start.
    pub fn chosen(&self) -> u64 {
        self.chosen.load(Ordering::Relaxed)
    }

    pub(super) const fn averages(&self) -> &Averages {
        &self.averages
    }

    pub(super) fn serves(&self, model: &str) -> bool {
        self.models.load().list(model)
    }

    pub(super) fn answered(&self) -> bool {
        !matches!(**self.models.load(), Models::Unknown)
    }

    /// Takes note that something came from it.
    pub(super) fn progress(&self, now: Moment) {
        self.progressed.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// Takes note that an answer has begun, or that nobody waits for it any more.
    pub(super) fn begins(&self) {
        self.unanswered.fetch_sub(1, Ordering::Relaxed);
    }

    /// Requests of which nothing has come yet. Others may be silent because their client does not read.
    pub(super) fn unanswered(&self) -> u32 {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// When something last came from it, and when it was last given a request while no other was waited for.
    pub(super) fn signs(&self) -> (Moment, Moment) {
        let read = |at: &AtomicU64| Moment::from_nanos(at.load(Ordering::Relaxed));
        (read(&self.progressed), read(&self.unanswered_since))
    }

    /// Tells whether something has come from it within `time`.
    pub fn progressed_within(&self, time: Duration, now: Moment) -> bool {
        let (progressed, _) = self.signs();
        progressed > Moment::ZERO && now.since(progressed) <= time
    }

    pub(super) const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) const fn seat(&self) -> &Seat {
        &self.seat
    }

    /// Puts a request on it, of which `uncached` tokens are to be prefilled.
    pub(super) fn charge(&self, prompt: Tokens, uncached: Tokens, now: Moment) -> Charge {
        self.chosen.fetch_add(1, Ordering::Relaxed);
        if self.unanswered.fetch_add(1, Ordering::Relaxed) == 0 {
            self.unanswered_since.store(now.as_nanos(), Ordering::Relaxed);
        }
        self.ledger.charge(prompt, uncached, now)
    }
}
