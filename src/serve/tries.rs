//! The tries of one request: which replica is next, and when there is none.

use std::sync::Arc;
use std::time::Duration;

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

/// With this header a client says that its request must not be carried out twice.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

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
    /// The client wants no second replica to see what a first one has seen.
    once: bool,
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
        let once = facts.head.headers.contains_key(IDEMPOTENCY_KEY);
        let (key, shadow_key, lost, doubted) = (Vec::new(), Vec::new(), None, None);
        let mut tries = Self { app, pool, attempt, facts, key, shadow_key, lost, replays: 0, once, doubted };
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
    /// one a single other one if the pool's budget has a replay left.
    pub(super) fn lost(&mut self, failure: Failure, lease: Lease) -> Result<(), Refusal> {
        let now = self.app.clock.now();
        if let Some((doubted, _)) = self.doubted.take() {
            doubted.settle(Outcome::Failed { phase: Phase::FirstByte }, now);
        }
        self.attempt.tried.push(lease.replica().id());
        lease.settle(failure.outcome(), now);
        let sent = failure.phase != Phase::Connect;
        if self.attempt.is_bound() || sent && (failure.timed_out || !self.may_replay()) {
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
        if let Outcome::Busy { retry_after } = answer.meaning {
            return self.busy(retry_after, lease);
        }
        if let Some((doubted, before)) = self.doubted.take() {
            let excused = before == status;
            doubted.settle(if excused { Outcome::Excused } else { Outcome::Failed { phase: Phase::FirstByte } }, now);
            if excused {
                answer.meaning = Outcome::Excused;
            }
            return Verdict::Relay(lease);
        }
        let is_fault = matches!(answer.meaning, Outcome::Failed { .. });
        if self.attempt.is_bound() || !is_fault || !self.may_replay() {
            return Verdict::Relay(lease);
        }
        self.attempt.tried.push(lease.replica().id());
        let Ok(next) = self.acquire() else {
            self.pool.keeps_replay(now);
            return Verdict::Relay(lease);
        };
        self.replays += 1;
        // A status may be the request's doing; an answer that fails behind a 200 is the replica's.
        if answer.fault.is_none() {
            self.doubted = Some((lease, status));
        } else {
            lease.settle(answer.meaning, now);
        }
        Verdict::Again(next)
    }

    /// Passes a busy replica over, if there is another one. It tells nothing of a fault before it.
    fn busy(&mut self, retry_after: Option<Duration>, lease: Lease) -> Verdict {
        let now = self.app.clock.now();
        lease.busy(retry_after, now);
        if !self.attempt.is_bound() && !self.once {
            self.attempt.tried.push(lease.replica().id());
            if let Ok(next) = self.acquire() {
                lease.settle(Outcome::Busy { retry_after }, now);
                return Verdict::Again(next);
            }
        }
        if let Some((doubted, _)) = self.doubted.take() {
            doubted.settle(Outcome::Failed { phase: Phase::FirstByte }, now);
        }
        Verdict::Relay(lease)
    }

    /// Tells whether what a replica has seen may be sent to another one; if so, that is counted.
    fn may_replay(&self) -> bool {
        !self.once && self.replays < REPLAYS && self.pool.may_replay(self.app.clock.now())
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
