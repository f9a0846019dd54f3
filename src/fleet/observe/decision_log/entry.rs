//! A decision as it is logged.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::record::{CandidateTerms, ChoiceReason, ChosenReplica, DecisionRecord, DecisionResult, LoggedRequest};
use crate::balance::{Candidate, PolicyRequest};
use crate::fleet::pool::eligibility::Ineligible;
use crate::fleet::spec::member::policy_members;
use crate::fleet::{NoReplica, PoolSpec};
use crate::units::{Moment, Slot, Tokens};

/// Maximum of replicas logged for one decision.
const MAX_REPLICAS_PER_DECISION: usize = 1_024;
/// Longer keys are not logged; the policy then explains its choice without the key.
const MAX_KEY_BYTES: usize = 128;
/// Weights are offered in thousandths.
const WEIGHT_SCALE: f64 = 1_000.0;

/// A choice as it was made.
#[derive(Debug)]
pub(in crate::fleet) struct DecisionEntry {
    pub(super) request: LoggedRequest,
    /// The pool's description at that time.
    pub(super) pool: Arc<PoolSpec>,
    pub(super) prompt: Tokens,
    output: Tokens,
    key: Box<[u8]>,
    pub(super) snapshot: CandidateSnapshot,
    chosen: Result<Slot, NoReplica>,
    pub(super) result: Option<DecisionResult>,
}

/// The candidates at one moment.
#[derive(Clone, Debug, Default)]
pub(in crate::fleet) struct CandidateSnapshot {
    pub(super) taken_at: Moment,
    pub(in crate::fleet) reason: ChoiceReason,
    /// Sorted by slot.
    pub(in crate::fleet) candidates: Vec<Candidate>,
    /// The other members, with the reasons.
    pub(in crate::fleet) skipped: Vec<(Slot, Ineligible)>,
    /// Number of replicas beyond [`MAX_REPLICAS_PER_DECISION`].
    pub(super) omitted_replicas: usize,
}

impl CandidateSnapshot {
    pub(in crate::fleet) fn new(reason: ChoiceReason, taken_at: Moment) -> Self {
        Self { reason, taken_at, ..Self::default() }
    }

    /// Returns the number of replicas in it.
    pub(super) fn replica_count(&self) -> usize {
        self.candidates.len() + self.skipped.len()
    }

    /// Drops the replicas beyond the limit, but not the chosen one.
    fn truncate(&mut self, chosen: Option<Slot>) {
        let before = self.replica_count();
        if before > MAX_REPLICAS_PER_DECISION {
            let candidate = self.candidates.iter().find(|c| Some(c.slot) == chosen).copied();
            self.candidates.truncate(MAX_REPLICAS_PER_DECISION - 1);
            if let Some(chosen) = candidate.filter(|chosen| !self.candidates.iter().any(|c| c.slot == chosen.slot)) {
                self.candidates.push(chosen);
            }
            self.skipped.truncate(MAX_REPLICAS_PER_DECISION.saturating_sub(self.candidates.len()));
            self.omitted_replicas = before - self.replica_count();
        }
    }
}

impl DecisionEntry {
    /// Creates the entry of a decision whose request still runs.
    pub(in crate::fleet) fn new(
        logged: &LoggedRequest,
        pool: &Arc<PoolSpec>,
        request: &PolicyRequest<'_>,
        mut snapshot: CandidateSnapshot,
        chosen: Result<Slot, NoReplica>,
    ) -> Self {
        snapshot.truncate(chosen.ok());
        let key = if request.key.len() <= MAX_KEY_BYTES { request.key } else { b"" };
        Self {
            request: logged.clone(),
            pool: pool.clone(),
            prompt: request.prompt,
            output: request.output,
            key: key.into(),
            snapshot,
            chosen,
            result: None,
        }
    }

    pub(super) fn copy(&self) -> Self {
        Self {
            request: self.request.clone(),
            pool: self.pool.clone(),
            key: self.key.clone(),
            snapshot: self.snapshot.clone(),
            ..*self
        }
    }

    fn member_name(&self, slot: Slot) -> Arc<str> {
        self.pool.members.get(slot.index()).map_or_else(|| "?".into(), |member| member.name.clone())
    }

    /// Returns the chosen replica. *Errors*: why none was chosen.
    pub(super) fn chosen_replica(&self) -> Result<ChosenReplica, NoReplica> {
        let reason = match self.snapshot.reason {
            ChoiceReason::Policy if self.has_one_candidate() => ChoiceReason::OnlyCandidate,
            reason => reason,
        };
        self.chosen.map(|slot| ChosenReplica { name: self.member_name(slot), reason })
    }

    fn has_one_candidate(&self) -> bool {
        self.snapshot.candidates.len() == 1 && self.snapshot.omitted_replicas == 0
    }

    /// Returns the prompt tokens estimated to be cached on the chosen replica.
    pub(super) fn cached(&self) -> Option<Tokens> {
        let slot = self.chosen.ok().filter(|_| self.pool.policy.needs_prefix())?;
        self.snapshot.candidates.iter().find(|c| c.slot == slot).map(|c| c.cached)
    }

    /// Formats the decision as one line: `pool=chat policy=token_cost ...`.
    pub(super) fn format_line(&self) -> String {
        let (pool, policy, prompt) = (&self.pool.name, self.pool.policy.name(), self.prompt);
        let chosen = self.chosen_replica();
        let (replica, reason) = chosen.as_ref().map_or(("-", "-"), |chosen| (&*chosen.name, chosen.reason.as_str()));
        let count = self.snapshot.candidates.len();
        let cached = self.cached().map(|cached| format!(" estimated_cached_tokens={cached}")).unwrap_or_default();
        format!(
            "pool={pool} policy={policy} replica={replica} candidates={count} reason={reason} \
             prompt_tokens={prompt}{cached}"
        )
    }

    /// Returns the decision in the policy's terms.
    pub(super) fn to_record(&self) -> DecisionRecord {
        // A new policy from the same description: no term depends on what a policy has learned.
        let policy = self.pool.policy.build(&policy_members(&self.pool.members)).ok();
        let request = PolicyRequest {
            prompt: self.prompt,
            output: self.output,
            key: &self.key,
            client_addr: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            tried_slots: &[],
        };
        let terms = |candidate: &Candidate| {
            let terms = policy.as_ref().map(|policy| policy.explain(&request, candidate, &self.snapshot.candidates));
            let mut terms = terms.unwrap_or_default();
            terms.push(("weight", f64::from(candidate.weight.get()) / WEIGHT_SCALE));
            CandidateTerms { name: self.member_name(candidate.slot), terms }
        };
        let skipped = |(slot, reason): &(Slot, Ineligible)| (self.member_name(*slot), reason.as_str());
        DecisionRecord {
            request: self.request.clone(),
            pool: self.pool.name.clone(),
            policy: self.pool.policy.to_string(),
            chosen_at: self.snapshot.taken_at,
            prompt: self.prompt,
            candidates: self.snapshot.candidates.iter().map(terms).collect(),
            skipped: self.snapshot.skipped.iter().map(skipped).collect(),
            omitted_replicas: self.snapshot.omitted_replicas,
            chosen: self.chosen_replica(),
            cached: self.cached(),
            result: self.result,
        }
    }
}
