//! The choices that were made last, kept so that people can ask why.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::balance::{Candidate, PolicyRequest};
use crate::fleet::pool::member::policy_members;
use crate::fleet::{NoReplica, Outcome, PoolSpec};
use crate::units::{Moment, Slot, Tokens, Usage};

/// Replicas that all kept decisions together tell of, at most; the oldest decisions go first.
const MAX_REPLICAS: usize = 16_384;
/// Replicas that one decision tells of.
const MAX_REPLICAS_PER_DECISION: usize = 1_024;
/// A longer key is not kept; what it says to the policy is not told then.
const MAX_KEY_BYTES: usize = 128;
/// Weights are offered in thousandths.
const WEIGHT_SCALE: f64 = 1_000.0;

/// The last decisions, to be explained when asked. What a policy went by is worked out then, not on the path.
///
/// *Shape*: as many as it was made for, and 16,384 replicas in all of them. *Cost*: a short lock for each decision and
/// for its end. There is no text of a prompt in it.
#[derive(Debug)]
pub struct DecisionLog {
    capacity: AtomicUsize,
    /// Guards the decisions. Never held while another lock is.
    ring: Mutex<LogRing>,
}

#[derive(Debug, Default)]
struct LogRing {
    /// The number of the oldest.
    first_number: u64,
    entries: VecDeque<DecisionEntry>,
    /// Replicas in all of them.
    replica_count: usize,
}

/// A choice as it was made.
#[derive(Debug)]
pub(in crate::fleet) struct DecisionEntry {
    pub(in crate::fleet) request_id: Arc<str>,
    /// The pool as it was.
    pub(in crate::fleet) pool: Arc<PoolSpec>,
    pub(in crate::fleet) chosen_at: Moment,
    pub(in crate::fleet) prompt: Tokens,
    pub(in crate::fleet) output: Tokens,
    pub(in crate::fleet) key: Box<[u8]>,
    pub(in crate::fleet) snapshot: CandidateSnapshot,
    pub(in crate::fleet) chosen: Result<Slot, NoReplica>,
    pub(in crate::fleet) result: Option<DecisionResult>,
}

/// How a choice comes about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::fleet) enum ChoiceReason {
    /// The policy was asked.
    #[default]
    Policy,
    /// The request belonged to a replica.
    Pinned,
    /// All that could be chosen had too much to do, and this one will be free first.
    FirstFree,
}

/// What there was to choose from.
#[derive(Debug, Default)]
pub(in crate::fleet) struct CandidateSnapshot {
    /// By slot.
    pub(in crate::fleet) candidates: Vec<Candidate>,
    /// Who was not offered, and why.
    pub(in crate::fleet) skipped: Vec<(Slot, &'static str)>,
    pub(in crate::fleet) reason: ChoiceReason,
    /// Replicas that there was no room for.
    omitted_replicas: usize,
}

/// How a request on the chosen replica ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecisionResult {
    /// How it ended.
    pub outcome: Outcome,
    /// From the choice to the end.
    pub duration: Duration,
    /// From the choice to the first generated content.
    pub time_to_first_token: Option<Duration>,
    /// The token counts the replica reported.
    pub usage: Option<Usage>,
}

/// A decision as it is told.
#[derive(Clone, Debug)]
pub struct DecisionRecord {
    /// The pool that chose.
    pub pool: Arc<str>,
    /// Its policy, as configured.
    pub policy: String,
    /// When it chose.
    pub chosen_at: Moment,
    /// The prompt's length as it was charged.
    pub prompt: Tokens,
    /// Who could be chosen, in configuration order.
    pub candidates: Vec<CandidateTerms>,
    /// Who could not, and why.
    pub skipped: Vec<(Arc<str>, &'static str)>,
    /// Replicas that are in neither list, for there are too many.
    pub omitted_replicas: usize,
    /// Who was chosen, or why nobody was.
    pub chosen: Result<Arc<str>, NoReplica>,
    /// Why that one: `pinned`, `only one`, `first free` or `policy`; empty if nobody was.
    pub reason: &'static str,
    /// What of the prompt was taken to be cached there; `None` where the policy does not ask.
    pub cached: Option<Tokens>,
    /// How it ended; `None` as long as it runs.
    pub result: Option<DecisionResult>,
}

/// A candidate as it is told of.
#[derive(Clone, Debug)]
pub struct CandidateTerms {
    /// Its name.
    pub name: Arc<str>,
    /// What the policy went by, in its own words, and its weight at that moment.
    pub terms: Vec<(&'static str, f64)>,
}

impl DecisionLog {
    /// Room for the last `most`; 0 keeps none.
    pub fn new(most: usize) -> Self {
        Self { capacity: AtomicUsize::new(most), ring: Mutex::default() }
    }

    /// Keeps so many from now on.
    pub fn resize(&self, most: usize) {
        self.capacity.store(most, Ordering::Relaxed);
        self.lock_ring().evict(most, MAX_REPLICAS);
    }

    /// How many are kept at most.
    pub fn capacity(&self) -> usize {
        self.capacity.load(Ordering::Relaxed)
    }

    /// All that is known of the decisions for a request, in order. Empty if it is not known, or not any more.
    pub fn find_by_request_id(&self, id: &str) -> Vec<DecisionRecord> {
        let found: Vec<DecisionEntry> =
            self.lock_ring().entries.iter().filter(|kept| &*kept.request_id == id).map(DecisionEntry::copy).collect();
        found.iter().map(DecisionEntry::to_record).collect()
    }

    /// The decision of this number in a line, if it is still known: `pool=chat policy=token_cost ...`.
    pub(in crate::fleet) fn decision_line(&self, number: u64) -> Option<String> {
        let found = self.lock_ring().get_mut(number)?.copy();
        Some(found.format_line())
    }

    /// Keeps a decision. Returns its number.
    pub(in crate::fleet) fn push(&self, decision: DecisionEntry) -> u64 {
        let most = self.capacity();
        let mut ring = self.lock_ring();
        ring.evict(most.saturating_sub(1), MAX_REPLICAS.saturating_sub(decision.snapshot.replica_count()));
        let number = ring.first_number + ring.entries.len() as u64;
        if most > 0 {
            ring.replica_count += decision.snapshot.replica_count();
            ring.entries.push_back(decision);
        }
        number
    }

    /// Takes note of how a decision's request ended.
    pub(in crate::fleet) fn record_result(&self, number: u64, end: DecisionResult) {
        if let Some(decision) = self.lock_ring().get_mut(number) {
            decision.result = Some(end);
        }
    }

    fn lock_ring(&self) -> MutexGuard<'_, LogRing> {
        // Nothing under the lock can leave it half-changed.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogRing {
    fn get_mut(&mut self, number: u64) -> Option<&mut DecisionEntry> {
        self.entries.get_mut(usize::try_from(number.checked_sub(self.first_number)?).ok()?)
    }

    fn evict(&mut self, most: usize, replicas: usize) {
        while self.entries.len() > most || self.replica_count > replicas {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.first_number += 1;
            self.replica_count -= oldest.snapshot.replica_count();
        }
    }
}

impl CandidateSnapshot {
    pub(in crate::fleet) fn new(way: ChoiceReason) -> Self {
        Self { reason: way, ..Self::default() }
    }

    /// How many it tells of.
    fn replica_count(&self) -> usize {
        self.candidates.len() + self.skipped.len()
    }

    /// Forgets whom there is no room for; the chosen one stays.
    fn truncate(&mut self, chosen: Option<Slot>) {
        let before = self.replica_count();
        if before > MAX_REPLICAS_PER_DECISION {
            let taken = self.candidates.iter().find(|c| Some(c.slot) == chosen).copied();
            self.candidates.truncate(MAX_REPLICAS_PER_DECISION - 1);
            if let Some(taken) = taken.filter(|taken| !self.candidates.iter().any(|c| c.slot == taken.slot)) {
                self.candidates.push(taken);
            }
            self.skipped.truncate(MAX_REPLICAS_PER_DECISION.saturating_sub(self.candidates.len()));
            self.omitted_replicas = before - self.replica_count();
        }
    }
}

impl DecisionEntry {
    /// A decision for `job` that nobody knows the end of.
    pub(in crate::fleet) fn new(
        id: &Arc<str>,
        pool: &Arc<PoolSpec>,
        job: &PolicyRequest<'_>,
        (mut seen, chosen): (CandidateSnapshot, Result<Slot, NoReplica>),
        at: Moment,
    ) -> Self {
        seen.truncate(chosen.ok());
        let key = if job.key.len() <= MAX_KEY_BYTES { job.key } else { b"" };
        let (id, pool) = (id.clone(), pool.clone());
        Self {
            request_id: id,
            pool,
            chosen_at: at,
            prompt: job.prompt,
            output: job.output,
            key: key.into(),
            snapshot: seen,
            chosen,
            result: None,
        }
    }

    fn copy(&self) -> Self {
        let CandidateSnapshot { candidates: offered, skipped: passed, reason: way, omitted_replicas: left_out } =
            &self.snapshot;
        let seen = CandidateSnapshot {
            candidates: offered.clone(),
            skipped: passed.clone(),
            reason: *way,
            omitted_replicas: *left_out,
        };
        Self {
            request_id: self.request_id.clone(),
            pool: self.pool.clone(),
            key: self.key.clone(),
            snapshot: seen,
            ..*self
        }
    }

    fn member_name(&self, at: Slot) -> Arc<str> {
        self.pool.members.get(at.index()).map_or_else(|| "?".into(), |member| member.name.clone())
    }

    fn reason(&self) -> &'static str {
        match self.chosen {
            Err(_) => "",
            Ok(_) if self.snapshot.reason == ChoiceReason::Pinned => "pinned",
            Ok(_) if self.snapshot.reason == ChoiceReason::FirstFree => "first free",
            Ok(_) if self.snapshot.candidates.len() == 1 && self.snapshot.omitted_replicas == 0 => "only one",
            Ok(_) => "policy",
        }
    }

    /// What was taken to be cached at the chosen replica.
    fn cached(&self) -> Option<Tokens> {
        let at = self.chosen.ok().filter(|_| self.pool.policy.needs_prefix())?;
        self.snapshot.candidates.iter().find(|c| c.slot == at).map(|c| c.cached)
    }

    fn format_line(&self) -> String {
        let (pool, policy) = (&self.pool.name, self.pool.policy.name());
        let chosen = self.chosen.map_or_else(|_| "-".into(), |at| self.member_name(at));
        let (of, why) = (self.snapshot.candidates.len(), self.reason().replace(' ', "_"));
        let cached = self.cached().map(|cached| format!(" cached={cached}")).unwrap_or_default();
        let prompt = self.prompt;
        format!("pool={pool} policy={policy} replica={chosen} of={of} why={why} prompt={prompt}{cached}")
    }

    fn to_record(&self) -> DecisionRecord {
        // Built anew: what a policy goes by is its words and its members, and what it learns is in no term.
        let policy = self.pool.policy.build(&policy_members(&self.pool.members)).ok();
        let client = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let job = PolicyRequest {
            prompt: self.prompt,
            output: self.output,
            key: &self.key,
            client_addr: client,
            tried_slots: &[],
        };
        let score = |candidate: &Candidate| {
            let terms = policy.as_ref().map(|policy| policy.explain(&job, candidate, &self.snapshot.candidates));
            let mut terms = terms.unwrap_or_default();
            terms.push(("weight", f64::from(candidate.weight.get()) / WEIGHT_SCALE));
            CandidateTerms { name: self.member_name(candidate.slot), terms }
        };
        DecisionRecord {
            pool: self.pool.name.clone(),
            policy: self.pool.policy.to_string(),
            chosen_at: self.chosen_at,
            prompt: self.prompt,
            candidates: self.snapshot.candidates.iter().map(score).collect(),
            skipped: self.snapshot.skipped.iter().map(|(at, why)| (self.member_name(*at), *why)).collect(),
            omitted_replicas: self.snapshot.omitted_replicas,
            chosen: self.chosen.map(|at| self.member_name(at)),
            reason: self.reason(),
            cached: self.cached(),
            result: self.result,
        }
    }
}

#[cfg(test)]
mod tests;
