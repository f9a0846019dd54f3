//! The choices that were made last, kept so that people can ask why.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::member::describe;
use super::{NoReplica, Outcome, PoolSpec};
use crate::balance::{Candidate, Job};
use crate::units::{Moment, Slot, Tokens, Usage};

/// Replicas that all kept decisions together tell of, at most; the oldest decisions go first.
const REPLICAS: usize = 16_384;
/// Replicas that one decision tells of.
const REPLICAS_EACH: usize = 1_024;
/// A longer key is not kept; what it says to the policy is not told then.
const KEY_BYTES: usize = 128;
/// Weights are offered in thousandths.
const WHOLE: f64 = 1_000.0;

/// The last decisions, to be explained when asked. What a policy went by is worked out then, not on the path.
///
/// *Shape*: as many as it was made for, and 16,384 replicas in all of them. *Cost*: a short lock for each decision and
/// for its end. There is no text of a prompt in it.
#[derive(Debug)]
pub struct Decisions {
    most: AtomicUsize,
    /// Guards the decisions. Never held while another lock is.
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    /// The number of the oldest.
    first: u64,
    kept: VecDeque<Decision>,
    /// Replicas in all of them.
    replicas: usize,
}

/// A choice as it was made.
#[derive(Debug)]
pub(super) struct Decision {
    pub(super) id: Arc<str>,
    /// The pool as it was.
    pub(super) pool: Arc<PoolSpec>,
    pub(super) at: Moment,
    pub(super) prompt: Tokens,
    pub(super) output: Tokens,
    pub(super) key: Box<[u8]>,
    pub(super) seen: Seen,
    pub(super) chosen: Result<Slot, NoReplica>,
    pub(super) end: Option<End>,
}

/// How a choice comes about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Way {
    /// The policy was asked.
    #[default]
    Asked,
    /// The request belonged to a replica.
    Pinned,
    /// All that could be chosen had too much to do, and this one will be free first.
    FirstFree,
}

/// What there was to choose from.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// By slot.
    pub(super) offered: Vec<Candidate>,
    /// Who was not offered, and why.
    pub(super) passed: Vec<(Slot, &'static str)>,
    pub(super) way: Way,
    /// Replicas that there was no room for.
    left_out: usize,
}

/// How a request on the chosen replica ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// How it ended.
    pub outcome: Outcome,
    /// From the choice to the end.
    pub took: Duration,
    /// From the choice to the first generated content.
    pub first_token: Option<Duration>,
    /// The token counts the replica reported.
    pub usage: Option<Usage>,
}

/// A decision as it is told.
#[derive(Clone, Debug)]
pub struct Told {
    /// The pool that chose.
    pub pool: Arc<str>,
    /// Its policy, as configured.
    pub policy: String,
    /// When it chose.
    pub at: Moment,
    /// The prompt's length as it was charged.
    pub prompt: Tokens,
    /// Who could be chosen, in configuration order.
    pub candidates: Vec<Scored>,
    /// Who could not, and why.
    pub passed_over: Vec<(Arc<str>, &'static str)>,
    /// Replicas that are in neither list, for there are too many.
    pub left_out: usize,
    /// Who was chosen, or why nobody was.
    pub chosen: Result<Arc<str>, NoReplica>,
    /// Why that one: `pinned`, `only one`, `first free` or `policy`; empty if nobody was.
    pub why: &'static str,
    /// What of the prompt was taken to be cached there; `None` where the policy does not ask.
    pub cached: Option<Tokens>,
    /// How it ended; `None` as long as it runs.
    pub end: Option<End>,
}

/// A candidate as it is told of.
#[derive(Clone, Debug)]
pub struct Scored {
    /// Its name.
    pub name: Arc<str>,
    /// What the policy went by, in its own words, and its weight at that moment.
    pub terms: Vec<(&'static str, f64)>,
}

impl Decisions {
    /// Room for the last `most`; 0 keeps none.
    pub fn new(most: usize) -> Self {
        Self { most: AtomicUsize::new(most), ring: Mutex::default() }
    }

    /// Keeps so many from now on.
    pub fn resize(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
        self.ring().shrink(most, REPLICAS);
    }

    /// How many are kept at most.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// All that is known of the decisions for a request, in order. Empty if it is not known, or not any more.
    pub fn of(&self, id: &str) -> Vec<Told> {
        let found: Vec<Decision> = self.ring().kept.iter().filter(|kept| &*kept.id == id).map(Decision::copy).collect();
        found.iter().map(Decision::tell).collect()
    }

    /// The decision of this number in a line, if it is still known: `pool=chat policy=token_cost ...`.
    pub(super) fn line(&self, number: u64) -> Option<String> {
        let found = self.ring().at(number)?.copy();
        Some(found.line())
    }

    /// Keeps a decision. Returns its number.
    pub(super) fn keep(&self, decision: Decision) -> u64 {
        let most = self.most();
        let mut ring = self.ring();
        ring.shrink(most.saturating_sub(1), REPLICAS.saturating_sub(decision.seen.replicas()));
        let number = ring.first + ring.kept.len() as u64;
        if most > 0 {
            ring.replicas += decision.seen.replicas();
            ring.kept.push_back(decision);
        }
        number
    }

    /// Takes note of how a decision's request ended.
    pub(super) fn end(&self, number: u64, end: End) {
        if let Some(decision) = self.ring().at(number) {
            decision.end = Some(end);
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Nothing under the lock can leave it half-changed.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn at(&mut self, number: u64) -> Option<&mut Decision> {
        self.kept.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    fn shrink(&mut self, most: usize, replicas: usize) {
        while self.kept.len() > most || self.replicas > replicas {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.first += 1;
            self.replicas -= oldest.seen.replicas();
        }
    }
}

impl Seen {
    pub(super) fn new(way: Way) -> Self {
        Self { way, ..Self::default() }
    }

    /// How many it tells of.
    fn replicas(&self) -> usize {
        self.offered.len() + self.passed.len()
    }

    /// Forgets whom there is no room for; the chosen one stays.
    fn fit(&mut self, chosen: Option<Slot>) {
        let before = self.replicas();
        if before > REPLICAS_EACH {
            let taken = self.offered.iter().find(|c| Some(c.at) == chosen).copied();
            self.offered.truncate(REPLICAS_EACH - 1);
            if let Some(taken) = taken.filter(|taken| !self.offered.iter().any(|c| c.at == taken.at)) {
                self.offered.push(taken);
            }
            self.passed.truncate(REPLICAS_EACH.saturating_sub(self.offered.len()));
            self.left_out = before - self.replicas();
        }
    }
}

impl Decision {
    /// A decision for `job` that nobody knows the end of.
    pub(super) fn new(
        id: &Arc<str>,
        pool: &Arc<PoolSpec>,
        job: &Job<'_>,
        (mut seen, chosen): (Seen, Result<Slot, NoReplica>),
        at: Moment,
    ) -> Self {
        seen.fit(chosen.ok());
        let key = if job.key.len() <= KEY_BYTES { job.key } else { b"" };
        let (id, pool) = (id.clone(), pool.clone());
        Self { id, pool, at, prompt: job.prompt, output: job.output, key: key.into(), seen, chosen, end: None }
    }

    fn copy(&self) -> Self {
        let Seen { offered, passed, way, left_out } = &self.seen;
        let seen = Seen { offered: offered.clone(), passed: passed.clone(), way: *way, left_out: *left_out };
        Self { id: self.id.clone(), pool: self.pool.clone(), key: self.key.clone(), seen, ..*self }
    }

    fn name(&self, at: Slot) -> Arc<str> {
        self.pool.members.get(at.index()).map_or_else(|| "?".into(), |member| member.name.clone())
    }

    fn why(&self) -> &'static str {
        match self.chosen {
            Err(_) => "",
            Ok(_) if self.seen.way == Way::Pinned => "pinned",
            Ok(_) if self.seen.way == Way::FirstFree => "first free",
            Ok(_) if self.seen.offered.len() == 1 && self.seen.left_out == 0 => "only one",
            Ok(_) => "policy",
        }
    }

    /// What was taken to be cached at the chosen replica.
    fn cached(&self) -> Option<Tokens> {
        let at = self.chosen.ok().filter(|_| self.pool.policy.asks_prefix())?;
        self.seen.offered.iter().find(|c| c.at == at).map(|c| c.cached)
    }

    fn line(&self) -> String {
        let (pool, policy) = (&self.pool.name, self.pool.policy.name());
        let chosen = self.chosen.map_or_else(|_| "-".into(), |at| self.name(at));
        let (of, why) = (self.seen.offered.len(), self.why().replace(' ', "_"));
        let cached = self.cached().map(|cached| format!(" cached={cached}")).unwrap_or_default();
        let prompt = self.prompt;
        format!("pool={pool} policy={policy} replica={chosen} of={of} why={why} prompt={prompt}{cached}")
    }

    fn tell(&self) -> Told {
        // Built anew: what a policy goes by is its words and its members, and what it learns is in no term.
        let policy = self.pool.policy.build(&describe(&self.pool.members)).ok();
        let client = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let job = Job { prompt: self.prompt, output: self.output, key: &self.key, client, tried: &[] };
        let score = |candidate: &Candidate| {
            let terms = policy.as_ref().map(|policy| policy.terms(&job, candidate, &self.seen.offered));
            let mut terms = terms.unwrap_or_default();
            terms.push(("weight", f64::from(candidate.weight.get()) / WHOLE));
            Scored { name: self.name(candidate.at), terms }
        };
        Told {
            pool: self.pool.name.clone(),
            policy: self.pool.policy.to_string(),
            at: self.at,
            prompt: self.prompt,
            candidates: self.seen.offered.iter().map(score).collect(),
            passed_over: self.seen.passed.iter().map(|(at, why)| (self.name(*at), *why)).collect(),
            left_out: self.seen.left_out,
            chosen: self.chosen.map(|at| self.name(at)),
            why: self.why(),
            cached: self.cached(),
            end: self.end,
        }
    }
}

#[cfg(test)]
mod tests;
