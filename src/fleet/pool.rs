//! The replicas that can stand in for each other, and the choice among them.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::lease::Chosen;
use super::meter::Meters;
use super::screening::Screening;
use super::{
    ApiKey, Lease, Measured, MemberSpec, Meter, Models, NoReplica, Observer, Outcome, Paths, PoolSpec, Replica, State,
};
use crate::balance::{self, BadPolicy, Candidate, Dice, Job, Key, Policy};
use crate::eject::{Admission, Ejector};
use crate::units::{ModelName, Moment, ReplicaId, Slot};

/// One try at finding a replica for a request.
#[derive(Clone, Debug)]
pub struct Attempt<'a> {
    /// What the policy may know; `tried` is filled in here.
    pub job: Job<'a>,
    /// The model asked for; only replicas that list it are eligible where the pool learns its models.
    pub model: Option<&'a str>,
    /// How the request was measured, to learn from its end; its lengths go before the job's.
    pub measured: Option<Measured>,
    /// The only replica that will do.
    pub pinned: Option<ReplicaId>,
    /// Replicas that have failed this request.
    pub tried: Vec<ReplicaId>,
}

/// What a pool's lock guards.
struct Inner {
    policy: Box<dyn Policy>,
    dice: Dice,
    ejectors: Vec<Ejector>,
    /// Kept to spare an allocation a choice.
    offered: Vec<Candidate>,
    tried: Vec<Slot>,
    /// It has been said that the policy is lopsided.
    told: bool,
}

struct Member {
    replica: Arc<Replica>,
    spec: MemberSpec,
}

/// Replicas that can stand in for each other.
pub struct Pool {
    spec: PoolSpec,
    members: Vec<Member>,
    observer: Arc<dyn Observer>,
    inner: Mutex<Inner>,
    lopsided: AtomicBool,
    meters: Arc<Meters>,
}

impl Pool {
    pub(super) fn new(
        spec: PoolSpec,
        replicas: Vec<Arc<Replica>>,
        observer: Arc<dyn Observer>,
        seed: u64,
    ) -> Result<Self, BadPolicy> {
        let described: Vec<balance::Member> = spec.members.iter().enumerate().map(describe).collect();
        let inner = Inner {
            policy: spec.policy.build(&described)?,
            dice: Dice::seeded(seed),
            ejectors: spec.members.iter().map(|m| Ejector::new(m.eject)).collect(),
            offered: Vec::with_capacity(spec.members.len()),
            tried: Vec::new(),
            told: false,
        };
        let member = |(spec, replica): (&MemberSpec, Arc<Replica>)| Member { replica, spec: spec.clone() };
        let members = spec.members.iter().zip(replicas).map(member).collect();
        let meters = Arc::new(Meters::new(spec.media));
        let lopsided = AtomicBool::new(false);
        Ok(Self { spec, members, observer, inner: Mutex::new(inner), lopsided, meters })
    }

    /// Goes on with what the pool of this name before it knows of the replicas that stay.
    pub(super) fn take_over(&mut self, old: &Self) {
        if self.spec.media == old.spec.media {
            self.meters = old.meters.clone();
        }
        let known: Vec<(ReplicaId, Ejector)> = {
            let inner = old.lock();
            old.members.iter().zip(&inner.ejectors).map(|(m, e)| (m.replica.id(), e.clone())).collect()
        };
        let mut inner = self.lock();
        for (member, ejector) in self.members.iter().zip(&mut inner.ejectors) {
            if let Some((_, old)) = known.iter().find(|(id, _)| *id == member.replica.id()) {
                *ejector = old.clone().with(member.spec.eject);
            }
        }
    }

    /// What the pool was made from.
    pub const fn spec(&self) -> &PoolSpec {
        &self.spec
    }

    /// The pool's name.
    pub const fn name(&self) -> &Arc<str> {
        &self.spec.name
    }

    /// The only host it takes requests for, if there is one.
    pub fn host(&self) -> Option<&str> {
        self.spec.route.host.as_deref()
    }

    /// The policy's name in the table.
    pub fn policy(&self) -> &'static str {
        self.spec.policy.name()
    }

    /// What the policy wants to know requests by.
    pub const fn key(&self) -> Option<&Key> {
        self.spec.policy.key()
    }

    /// Tells, once, that most requests have the same key, so that the policy spreads hardly any load.
    pub fn take_lopsided(&self) -> bool {
        self.lopsided.load(Ordering::Relaxed) && self.lopsided.swap(false, Ordering::Relaxed)
    }

    /// The names clients may ask for; empty if they are learned.
    pub fn configured_models(&self) -> &[ModelName] {
        &self.spec.models
    }

    /// Which of the replicas' paths can be reached.
    pub const fn paths(&self) -> &Paths {
        &self.spec.paths
    }

    /// The pool that takes over when this one has no replica.
    pub const fn fallback(&self) -> Option<&Arc<str>> {
        self.spec.fallback.as_ref()
    }

    /// The key its replicas ask for.
    pub const fn api_key(&self) -> Option<&ApiKey> {
        self.spec.api_key.as_ref()
    }

    /// The replicas, in configuration order.
    pub fn replicas(&self) -> impl ExactSizeIterator<Item = &Arc<Replica>> {
        self.members.iter().map(|m| &m.replica)
    }

    /// The models the pool can be asked for now: its configured names, else what its replicas list. Sorted, no doubles.
    pub fn models(&self) -> Vec<ModelName> {
        let mut names = self.spec.models.clone();
        if names.is_empty() {
            for replica in self.replicas() {
                if let Models::Listed(listed) = &*replica.models() {
                    names.extend(listed.iter().cloned());
                }
            }
        }
        names.sort();
        names.dedup();
        names
    }

    /// What measures requests for `model`, a name the pool can be asked for.
    pub fn meter(&self, model: Option<&str>) -> Arc<Meter> {
        let named = model.filter(|model| {
            let lists = |name: &ModelName| name.as_str() == *model;
            self.spec.models.iter().any(lists) || self.replicas().any(|replica| replica.serves(model))
        });
        self.meters.of(named.map(ModelName::from).as_ref())
    }

    /// Tells whether the pool is asked for `model`.
    pub fn serves(&self, model: &str) -> bool {
        match (&self.spec.paths, self.spec.models.as_slice()) {
            (Paths::Any, []) => true,
            (_, []) => self.replicas().any(|r| r.serves(model)),
            (_, names) => names.iter().any(|n| n.as_str() == model),
        }
    }

    /// Tells of each member whether it could be chosen now, in configuration order.
    pub fn states(&self, now: Moment) -> Vec<State> {
        let inner = self.lock();
        let state = |(member, ejector): (&Member, &Ejector)| {
            let mut screening = Screening::at(now);
            match (self.admitted(member, ejector, &mut screening), ejector.admits(now)) {
                (true, Admission::Probing) => State::Probing,
                (true, _) => State::Admitted,
                (false, _) if member.replica.is_drained() => State::Drained,
                (false, _) if member.spec.down => State::Down,
                (false, _) if screening.not_ready => State::NotReady,
                (false, _) if screening.full => State::Full,
                (false, _) => State::Ejected,
            }
        };
        self.members.iter().zip(&inner.ejectors).map(state).collect()
    }

    /// Tells whether some member could be chosen now.
    pub fn ready(&self, now: Moment) -> bool {
        let inner = self.lock();
        let mut screening = Screening::at(now);
        self.members.iter().zip(&inner.ejectors).any(|(m, e)| self.admitted(m, e, &mut screening))
    }

    /// Tells whether a member has never answered `/v1/models`.
    pub fn is_waiting(&self) -> bool {
        self.waits_for_models() && self.members.iter().any(|m| !m.spec.down && !m.replica.answered())
    }

    /// Chooses a replica and charges it, in one step.
    ///
    /// *Errors*: no member may be chosen; the error says why. *Cost*: one lock, O(members).
    pub fn acquire(self: &Arc<Self>, attempt: &Attempt<'_>, now: Moment) -> Result<Lease, NoReplica> {
        let mut screening = Screening::at(now);
        let mut inner = self.lock();
        let Inner { policy, dice, ejectors, offered, tried, told } = &mut *inner;
        tried.clear();
        if !attempt.tried.is_empty() {
            let members = (0u32..).zip(&self.members).filter(|(_, m)| attempt.tried.contains(&m.replica.id()));
            tried.extend(members.map(|(slot, _)| Slot(slot)));
        }
        let mut job = Job { tried, ..attempt.job };
        if let Some(measured) = &attempt.measured {
            (job.prompt, job.output) = (measured.prompt, measured.output);
        }
        for backup in [false, true] {
            offered.clear();
            for (slot, (member, ejector)) in (0u32..).zip(self.members.iter().zip(ejectors.iter())) {
                if member.spec.backup == backup && self.eligible(member, ejector, attempt, &mut screening) {
                    offered.push(member.candidate(Slot(slot), ejector.rounds_missed(now), now));
                }
            }
            let Some(at) = policy.choose(&job, offered, dice) else { continue };
            if !*told && policy.is_lopsided() {
                *told = true;
                self.lopsided.store(true, Ordering::Relaxed);
            }
            // Only what was offered is taken: a faulty policy of one's own must not reach an ejected replica.
            let Some(chosen) = offered.iter().find(|c| c.at == at).or(offered.first()) else { continue };
            let at = chosen.at;
            let member = &self.members[at.index()];
            ejectors[at.index()].chosen(now);
            let charge = member.replica.charge(job.prompt, now);
            let prompt = job.prompt;
            drop(inner);
            let chosen = Chosen { replica: member.replica.clone(), at, prompt, measured: attempt.measured.clone() };
            return Ok(Lease::new(self.clone(), chosen, charge, now));
        }
        drop(inner);
        Err(if attempt.pinned.is_some() { NoReplica::PinnedGone } else { screening.reason() })
    }

    /// Feeds a settled request's outcome to the ejector and the policy.
    pub(super) fn judge(&self, at: Slot, outcome: Outcome, now: Moment) {
        let mut inner = self.lock();
        let Inner { policy, ejectors, .. } = &mut *inner;
        match outcome {
            Outcome::Failed { .. } => {
                ejectors[at.index()].failed(now);
                policy.failed(at);
            }
            Outcome::Completed | Outcome::Refused | Outcome::Busy { .. } => ejectors[at.index()].served(),
            Outcome::ClientGone | Outcome::Ours => {}
        }
    }

    pub(super) const fn observer(&self) -> &Arc<dyn Observer> {
        &self.observer
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under the lock can leave it half-changed, so a panic elsewhere does not make the pool unusable.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waits_for_models(&self) -> bool {
        self.spec.paths != Paths::Any
    }

    /// The one eligibility test: what holds for every request, then what this one asks for.
    fn eligible(&self, member: &Member, ejector: &Ejector, attempt: &Attempt<'_>, screening: &mut Screening) -> bool {
        let replica = &member.replica;
        if attempt.pinned.is_some_and(|id| id != replica.id()) {
            return false;
        }
        if attempt.tried.contains(&replica.id()) {
            screening.tried = true;
            return false;
        }
        let lists = |model: &str| replica.serves(model);
        let learns = self.waits_for_models() && self.spec.models.is_empty();
        self.admitted(member, ejector, screening) && (!learns || attempt.model.is_none_or(lists))
    }

    fn admitted(&self, member: &Member, ejector: &Ejector, screening: &mut Screening) -> bool {
        if member.spec.down || member.replica.is_drained() {
            return false;
        }
        if self.waits_for_models() && !member.replica.answered() {
            screening.not_ready = true;
            return false;
        }
        if member.spec.max_conns.is_some_and(|most| member.replica.in_flight() >= most) {
            screening.full = true;
            return false;
        }
        match ejector.admits(screening.now) {
            // Like nginx: the only server of a pool is always tried.
            Admission::Ejected { until } if self.members.len() > 1 => {
                screening.ejected_until = Some(screening.ejected_until.map_or(until, |first| first.min(until)));
                false
            }
            _ => true,
        }
    }
}

impl Member {
    fn candidate(&self, at: Slot, rounds_missed: u32, now: Moment) -> Candidate {
        let (first_byte, last_byte) = self.replica.pace().after(rounds_missed);
        let replica = &self.replica;
        let (in_flight, load) = (replica.in_flight(), replica.whole_load(now));
        Candidate { at, weight: self.spec.weight, in_flight, load, first_byte, last_byte }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.spec.name).finish_non_exhaustive()
    }
}

fn describe((at, spec): (usize, &MemberSpec)) -> balance::Member {
    balance::Member {
        at: Slot(u32::try_from(at).unwrap_or(u32::MAX)),
        name: spec.name.to_string(),
        weight: spec.weight,
        max_fails: spec.eject.max_fails,
        backup: spec.backup,
    }
}
