//! The replicas that can stand in for each other, and the choice among them.

mod aside;
mod health;
mod models;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::budget::Budget;
use super::lease::Chosen;
use super::member::{Ground, Member, describe};
use super::meter::Meters;
use super::screening::Screening;
use super::seat::Held;
use super::shadow::Shadow;
use super::speed::{Sample, Speeds};
use super::standing::Standing;
use super::{ApiKey, Attempt, Lease, MemberSpec, NoReplica, Observer, Paths, Pin, PoolSpec, Replica, Sticky};
use crate::balance::{BadPolicy, Candidate, Dice, Job, Key, Pace, Policy};
use crate::units::{ModelName, Moment, ReplicaId, Slot, Tokens, Weight};
pub(super) use aside::Aside;
use aside::Choice;
pub use health::Checked;

/// What a pool's lock guards.
struct Inner {
    policy: Box<dyn Policy>,
    dice: Dice,
    standings: Vec<Standing>,
    budget: Budget,
    speeds: Speeds,
    /// When a member could first be chosen.
    opened: Option<Moment>,
    /// Kept to spare an allocation a choice.
    offered: Vec<Candidate>,
    tried: Vec<Slot>,
    /// It has been said that the policy is lopsided.
    told: bool,
}

/// Replicas that can stand in for each other.
pub struct Pool {
    spec: PoolSpec,
    /// The same, for decisions to tell of when the pool is gone.
    described: Arc<PoolSpec>,
    members: Vec<Member>,
    /// Who is asked beside the policy.
    shadow: Option<Arc<Shadow>>,
    observer: Arc<dyn Observer>,
    inner: Mutex<Inner>,
    lopsided: AtomicBool,
    meters: Arc<Meters>,
    /// Some member has a `slow_start`; without one nobody is looked after.
    starts_slowly: bool,
    /// No member was given a weight, so that their speeds are learned in its place.
    learns_speed: bool,
}

impl Pool {
    pub(super) fn new(
        spec: PoolSpec,
        replicas: Vec<Arc<Replica>>,
        observer: Arc<dyn Observer>,
        seed: u64,
    ) -> Result<Self, BadPolicy> {
        let inner = Inner {
            policy: spec.policy.build(&describe(&spec.members))?,
            dice: Dice::seeded(seed),
            standings: spec.members.iter().map(|m| Standing::new(m.eject)).collect(),
            budget: Budget::default(),
            speeds: Speeds::new(spec.members.len()),
            opened: None,
            offered: Vec::with_capacity(spec.members.len()),
            tried: Vec::new(),
            told: false,
        };
        let shadow =
            spec.shadow.as_ref().map(|policy| Shadow::new(policy, &spec.members, &replicas, seed)).transpose()?;
        let shadow = shadow.map(Arc::new);
        let member = |(spec, replica): (&MemberSpec, Arc<Replica>)| Member { replica, spec: spec.clone() };
        let members = spec.members.iter().zip(replicas).map(member).collect();
        let meters = Arc::new(Meters::new(spec.metering.media));
        let starts_slowly = spec.members.iter().any(|m| !m.slow_start.is_zero());
        let learns_speed = spec.members.iter().all(|m| m.weight == Weight::ONE);
        let (inner, lopsided) = (Mutex::new(inner), AtomicBool::new(false));
        let described = Arc::new(spec.clone());
        Ok(Self { spec, described, members, shadow, observer, inner, lopsided, meters, starts_slowly, learns_speed })
    }

    /// Goes on with what the pool of this name before it knows of the replicas that stay.
    pub(super) fn take_over(&mut self, old: &Self) {
        if self.spec.metering.media == old.spec.metering.media {
            self.meters = old.meters.clone();
        }
        if let (Some(shadow), Some(old)) = (self.shadow.as_mut().and_then(Arc::get_mut), &old.shadow) {
            shadow.take_over(old);
        }
        let (opened, budget, known) = {
            let inner = old.lock();
            let known = old.members.iter().zip(&inner.standings);
            let known: Vec<_> = known.map(|(m, s)| (m.replica.id(), m.is_there(old.ground()), s.clone())).collect();
            (inner.opened, inner.budget.clone(), known)
        };
        let mut inner = self.lock();
        (inner.opened, inner.budget) = (opened, budget);
        for (member, standing) in self.members.iter().zip(&mut inner.standings) {
            let before = known.iter().find(|(id, ..)| *id == member.replica.id());
            *standing = match before {
                Some((_, was_there, old)) if *was_there || !member.is_there(self.ground()) => {
                    old.clone().with(member.spec.eject)
                }
                Some((_, _, old)) => old.clone().with(member.spec.eject).joining(),
                None => standing.clone().joining(),
            };
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

    /// The status that a path is refused with, if it is; `path` is as [`super::Refused::takes`] compares it. The longest counts.
    pub fn refuses(&self, path: &[u8]) -> Option<u16> {
        let refused = self.spec.route.refused.iter().filter(|refused| refused.takes(path));
        refused.max_by_key(|refused| (refused.exact, refused.path.len())).map(|refused| refused.status)
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

    /// The member whose [`Replica::mark`] this is.
    pub fn marked(&self, mark: &str) -> Option<ReplicaId> {
        self.replicas().find(|replica| replica.mark() == mark).map(|replica| replica.id())
    }

    /// How clients stay on their replica.
    pub const fn sticky(&self) -> Option<&Sticky> {
        self.spec.sticky.as_ref()
    }

    /// Tells whether a member has never answered `/v1/models`, or has no address yet.
    pub fn is_waiting(&self) -> bool {
        let unheard = |m: &Member| !m.spec.down && !m.replica.answered();
        self.waits_for_models() && (self.members.is_empty() || self.members.iter().any(unheard))
    }

    /// Chooses a replica and charges it, in one step: the one that the request belongs to, else whom the policy says.
    ///
    /// *Errors*: no member may be chosen; the error says why. *Cost*: one lock, O(members); before it a look at the index
    /// and after it a note there, if the policy asks where prompts are cached.
    pub fn acquire(self: &Arc<Self>, attempt: &Attempt<'_>, now: Moment) -> Result<Lease, NoReplica> {
        let prefix = attempt.prefix.as_ref().filter(|_| self.spec.policy.asks_prefix());
        let (prompt, measured) = (attempt.job().prompt, attempt.measured.clone());
        let seats = self.members.iter().map(|member| member.replica.seat());
        let held = prefix.map(|prefix| Held::of(prefix, prompt, seats));
        let mut inner = self.lock();
        self.look(&mut inner, now);
        let mut screening = self.screen(&inner, now);
        let pinned = attempt.pinned.and_then(|pin| self.pinned(&inner, pin, attempt, &mut screening));
        let chosen = match pinned {
            None if !attempt.is_bound() => self.choose(&mut inner, attempt, held.as_ref(), &mut screening),
            pinned => pinned,
        };
        let seen = self.seen(&inner, attempt, held.as_ref(), Choice { chosen, pinned: pinned.is_some(), now });
        let Some(at) = chosen else {
            drop(inner);
            let none = if attempt.is_bound() { NoReplica::PinnedGone } else { screening.reason() };
            self.tell(seen, attempt, Err(none), now);
            return Err(none);
        };
        let member = &self.members[at.index()];
        inner.standings[at.index()].ejector.chosen(now);
        if attempt.tried.is_empty() {
            inner.budget.request(now);
        }
        let seat = member.replica.seat();
        let cached = held.as_ref().map_or(Tokens(0), |held| held.by(seat));
        let found_idle = member.replica.load().prefill == Tokens(0);
        // What nobody measured is still a request: where all cost nothing, the fewest of them decide.
        let charge = member.replica.charge(prompt.max(Tokens(1)), (prompt - cached).max(Tokens(1)), now);
        drop(inner);
        if let Some(prefix) = prefix {
            seat.note(prefix, prompt);
        }
        let aside = self.tell(seen, attempt, Ok(at), now);
        let (cached, replica) = (prefix.map(|_| cached), member.replica.clone());
        let prefix = attempt.prefix.clone();
        let chosen = Chosen { replica, at, prompt, cached, found_idle, prefix, measured, aside };
        Ok(Lease::new(self.clone(), chosen, charge, now))
    }

    /// Learns how fast a member is.
    pub(super) fn learn_speed(&self, at: Slot, sample: Sample) {
        if self.learns_speed && self.spec.policy.asks_prefix() {
            self.lock().speeds.learn(at.index(), sample);
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

    fn ground(&self) -> Ground {
        Ground { waits_for_models: self.waits_for_models(), ejects: self.members.len() > 1 }
    }

    /// Notes who is there, so that those who come back grow into their share.
    fn look(&self, inner: &mut Inner, now: Moment) {
        if !self.starts_slowly {
            return;
        }
        let ground = self.ground();
        for (member, standing) in self.members.iter().zip(&mut inner.standings) {
            let is_there = member.is_there(ground);
            let opened = if is_there { *inner.opened.get_or_insert(now) } else { now };
            standing.look(is_there, member.replica.absences(), opened, now);
        }
    }

    /// The member that the request belongs to, if it can be chosen.
    fn pinned(&self, inner: &Inner, pin: Pin, attempt: &Attempt<'_>, screening: &mut Screening) -> Option<Slot> {
        let at = self.members.iter().position(|m| m.replica.id() == pin.replica())?;
        let (member, standing) = (self.members.get(at)?, inner.standings.get(at)?);
        if !attempt.is_bound() && standing.busy.is_now(screening.now) {
            return None;
        }
        self.eligible(member, standing, attempt, screening).then_some(Slot(u32::try_from(at).ok()?))
    }

    /// Asks the policy.
    fn choose(
        &self,
        inner: &mut Inner,
        attempt: &Attempt<'_>,
        held: Option<&Held<'_>>,
        screening: &mut Screening,
    ) -> Option<Slot> {
        let Inner { policy, dice, standings, speeds, offered, tried, told, .. } = inner;
        tried.clear();
        if !attempt.tried.is_empty() {
            let members = (0u32..).zip(&self.members).filter(|(_, m)| attempt.tried.contains(&m.replica.id()));
            tried.extend(members.map(|(slot, _)| Slot(slot)));
        }
        let job = Job { tried, ..attempt.job() };
        for backup in [false, true] {
            offered.clear();
            for (slot, (member, standing)) in (0u32..).zip(self.members.iter().zip(standings.iter())) {
                let wanted = member.spec.backup == backup && member.takes_new();
                if !wanted || !self.eligible(member, standing, attempt, screening) {
                    continue;
                }
                if standing.busy.is_now(screening.now) {
                    screening.busy(standing.busy.until(), Slot(slot));
                } else {
                    let candidate = member.candidate(Slot(slot), standing, held, screening.now);
                    let pace = if self.learns_speed { speeds.pace(slot as usize) } else { Pace::default() };
                    offered.push(Candidate { pace, ..candidate });
                }
            }
            let Some(at) = policy.choose(&job, offered, dice) else { continue };
            if !*told && policy.is_lopsided() {
                *told = true;
                self.lopsided.store(true, Ordering::Relaxed);
            }
            // Only what was offered is taken: a faulty policy of one's own must not reach an ejected replica.
            let chosen = offered.iter().find(|c| c.at == at).or(offered.first());
            if let Some(chosen) = chosen {
                return Some(chosen.at);
            }
        }
        // A request that one replica was too busy for does not go round all the others that have said the same.
        let told = tried.iter().any(|at| standings.get(at.index()).is_some_and(|s| s.busy.is_now(screening.now)));
        screening.first_free.filter(|_| !told).map(|(_, at)| at)
    }

    /// The one eligibility test: what holds for every request, then what this one asks for.
    fn eligible(&self, member: &Member, standing: &Standing, attempt: &Attempt<'_>, screening: &mut Screening) -> bool {
        let replica = &member.replica;
        if attempt.tried.contains(&replica.id()) {
            screening.tried = true;
            return false;
        }
        let lists = |model: &str| replica.serves(model);
        let learns = self.waits_for_models() && self.spec.models.is_empty();
        member.admits(standing, self.ground(), screening) && (!learns || attempt.model.is_none_or(lists))
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.spec.name).finish_non_exhaustive()
    }
}
