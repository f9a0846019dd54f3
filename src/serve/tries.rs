//! The tries of one request: which replica is next, and when there is none.

use std::sync::Arc;

use http::{HeaderValue, StatusCode};

use super::key::Facts;
use super::{App, Refusal, stay};
use crate::balance::Job;
use crate::fleet::{Attempt, Beside, Lease, NoReplica, Outcome, Phase, Pool};
use crate::telemetry::Level;
use crate::upstream::{Answer, Failure};

/// Pools that take over for each other are followed at most this far; the configuration refuses circles.
const FALLBACKS: usize = 8;
/// How often a request that reached a replica in vain is sent to another one.
const REPLAYS: u32 = 1;

/// What has been tried for one request, and what may be.
pub(super) struct Tries<'a> {
    app: &'a App,
    pool: Arc<Pool>,
    attempt: Attempt<'a>,
    facts: Facts<'a>,
    /// What the present pool's policy knows the request by.
    key: Vec<u8>,
    /// The same for its shadow policy.
    shadow_key: Vec<u8>,
    lost: Option<Failure>,
    replays: u32,
    /// A fault that may be the request's: the next replica's answer tells.
    doubted: Option<(Lease, StatusCode)>,
}

/// What to do with an answer of which nothing has been passed on.
pub(super) enum Verdict {
    /// It is the client's.
    Relay(Lease),
    /// Another replica is asked instead; this is its lease.
    Again(Lease),
}

impl<'a> Tries<'a> {
    pub(super) fn new(app: &'a App, pool: Arc<Pool>, attempt: Attempt<'a>, facts: Facts<'a>) -> Self {
        let (key, shadow_key) = (Vec::new(), Vec::new());
        let mut tries = Self { app, pool, attempt, facts, key, shadow_key, lost: None, replays: 0, doubted: None };
        tries.enter();
        tries
    }

    /// Looks at the request with the present pool's eyes.
    fn enter(&mut self) {
        let asked = self.facts.asked;
        self.key = self.facts.evaluate(self.pool.key(), &self.pool);
        self.shadow_key = self.facts.evaluate(self.pool.shadow_key(), &self.pool);
        let meter = || self.pool.meter(asked.model.as_deref());
        let measure = |census| meter().measure(census, &self.key, asked.max_output);
        self.attempt.measured = asked.census.as_ref().map(measure);
        self.pin();
    }

    /// Looks up whom the pool ties the client to, unless the request is bound to a replica anyway.
    fn pin(&mut self) {
        if !self.attempt.is_bound() {
            self.attempt.pinned = stay::pinned(self.app, &self.pool, self.facts.head);
        }
    }

    /// Ties the client to the replica that answers, where its pool does so. Returns the cookie to set, if there is one.
    pub(super) fn bind(&self, answer: &Answer, lease: &Lease) -> Option<HeaderValue> {
        if matches!(answer.meaning, Outcome::Failed { .. } | Outcome::Busy { .. }) {
            return None;
        }
        stay::bind(self.app, lease, self.facts.head, &answer.head.headers)
    }

    /// Chooses and charges a replica, of the pool's fallback if the pool has none.
    pub(super) fn admit(&mut self) -> Result<Lease, Refusal> {
        let mut none = NoReplica::AllDown;
        for _ in 0..=FALLBACKS {
            none = match self.acquire() {
                Ok(lease) => return Ok(lease),
                Err(none) => none,
            };
            let next = self.pool.fallback().filter(|_| !self.attempt.is_bound());
            let Some(next) = next.and_then(|name| self.app.fleet.pool(name)) else { break };
            self.pool = next;
            // The pool that helps out has its own name for the model.
            self.attempt.model = None;
            self.enter();
        }
        // The client is better served by what happened to its request than by "all tried".
        Err(self.lost.as_ref().map_or(Refusal::NoReplica(none), Refusal::lost))
    }

    /// Settles a try that brought no answer. After a failed connection every replica may be tried once, after a closed
    /// one a single other one.
    pub(super) fn lost(&mut self, failure: Failure, lease: Lease) -> Result<(), Refusal> {
        let now = self.app.clock.now();
        if let Some((doubted, _)) = self.doubted.take() {
            doubted.settle(Outcome::Failed { phase: Phase::FirstByte }, now);
        }
        self.attempt.tried.push(lease.replica().id());
        lease.settle(failure.outcome(), now);
        let sent = failure.phase != Phase::Connect;
        if self.attempt.is_bound() || sent && (failure.timed_out || self.replays >= REPLAYS) {
            return Err(Refusal::lost(&failure));
        }
        self.replays += u32::from(sent);
        self.lost = Some(failure);
        Ok(())
    }

    /// Decides whether an answer goes to the client. A busy replica is passed over as long as there is another; a
    /// fault is tried once more elsewhere, and if it comes again the request is to blame. Where another try is not
    /// possible the replica's own answer is the client's.
    pub(super) fn judge(&mut self, answer: &mut Answer, lease: Lease) -> Verdict {
        let now = self.app.clock.now();
        let status = answer.head.status;
        if let Some((doubted, before)) = self.doubted.take() {
            let excused = before == status;
            doubted.settle(if excused { Outcome::Refused } else { Outcome::Failed { phase: Phase::FirstByte } }, now);
            if excused {
                answer.meaning = Outcome::Refused;
            }
            return Verdict::Relay(lease);
        }
        let (is_fault, is_busy) = match answer.meaning {
            Outcome::Failed { .. } => (self.replays < REPLAYS, false),
            Outcome::Busy { .. } => (false, true),
            _ => (false, false),
        };
        if self.attempt.is_bound() || !(is_busy || is_fault) {
            return Verdict::Relay(lease);
        }
        self.attempt.tried.push(lease.replica().id());
        let Ok(next) = self.acquire() else { return Verdict::Relay(lease) };
        self.replays += u32::from(is_fault);
        // A status may be the request's doing; an answer that fails behind a 200 is the replica's.
        if is_fault && answer.fault.is_none() {
            self.doubted = Some((lease, status));
        } else {
            lease.settle(answer.meaning, now);
        }
        Verdict::Again(next)
    }

    fn acquire(&self) -> Result<Lease, NoReplica> {
        let now = self.app.clock.now();
        let lease = if self.key.is_empty() && self.shadow_key.is_empty() {
            self.pool.acquire(&self.attempt, now)
        } else {
            let job = Job { key: &self.key, ..self.attempt.job };
            let beside = Beside { shadow_key: &self.shadow_key, ..self.attempt.beside.clone() };
            self.pool.acquire(&Attempt { job, beside, ..self.attempt.clone() }, now)
        };
        self.report_lopsided();
        lease
    }

    fn report_lopsided(&self) {
        if self.pool.take_lopsided() {
            let (pool, policy) = (self.pool.name(), self.pool.policy());
            let message = "more than 80 % of 1,000 requests had one key, so that hardly any load is spread by";
            let instead = "`hash $session consistent` spreads conversations, `least_conn` load";
            self.app.errors.write(Level::Warn, format_args!("pool {pool}: {message} `{policy}`; {instead}"));
        }
    }
}
