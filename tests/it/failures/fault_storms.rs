//! Random faults in virtual time against the real fleet; each of a thousand seeds is deterministic.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokenweir::balance::{PolicyRequest, SeededRng};
use tokenweir::config;
use tokenweir::eject::EjectCause;
use tokenweir::fleet::{
    AcquireRequest, ChoiceObservers, Fleet, Lease, LeaseObserver, LeaseReport, MemberState, Outcome, Phase, Pool,
    PoolSpec, ReplicaModels, ResponseProgress,
};
use tokenweir::units::{Moment, ReplicaId, Tokens};

const SEED_COUNT: u64 = 1_000;
const REQUEST_COUNT: usize = 200;
/// The first-byte timeout.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(60);
const FAILED_OUTCOME: Outcome = Outcome::Failed { phase: Phase::FirstByte };

#[derive(Default)]
struct SettledLeases(AtomicU64);

impl LeaseObserver for SettledLeases {
    fn on_settled(&self, _: &LeaseReport<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The behaviour of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplicaMode {
    Healthy,
    /// Its port refuses connections.
    Refusing,
    /// It reads requests and closes.
    Closing,
    /// It answers 500 at once.
    Failing,
    /// It answers 503, with or without `Retry-After`.
    Busy,
    /// It accepts requests and never answers.
    Wedged,
    /// Its streams break.
    Dying,
}

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StormRequestKind {
    Plain,
    /// Every replica answers it with 500.
    Poison,
    /// Every replica answers it with 400.
    Bad,
    /// Its client disconnects before the end.
    Leaving,
    /// It has an `Idempotency-Key`.
    IdempotencyKey,
}

/// The faults of a seed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StormKind {
    /// Clients misbehave, replicas are healthy.
    Clients,
    /// Replicas are busy.
    Load,
    /// All faults.
    Mixed,
}

#[derive(Clone, Copy, Debug)]
enum StormEvent {
    Arrive,
    /// The response that was decided when the request was sent: request, attempt, response.
    Answer(usize, u64, StormAnswer),
    Chunk(usize, u64),
    Leave(usize),
    SwitchMode(usize),
    Tick,
    Check,
}

#[derive(Clone, Copy, Debug)]
enum StormAnswer {
    Closed,
    Fault,
    Busy,
    Refused,
    Begins,
    Late,
}

struct StormRequest {
    kind: StormRequestKind,
    tried: Vec<ReplicaId>,
    retries: u32,
    lease: Option<Lease>,
    suspect: Option<Lease>,
    /// The number of the running attempt; events of earlier attempts are ignored.
    attempt_number: u64,
    remaining_chunks: u64,
    breaks_off: bool,
    /// The number of replicas that received bytes of it.
    replicas_reached: u32,
    end_count: u32,
    served: bool,
}

struct StormWorld {
    fleet: Fleet,
    pool: Arc<Pool>,
    rng: SeededRng,
    now: Moment,
    kind: StormKind,
    events: BTreeMap<(Moment, u64), StormEvent>,
    event_number: u64,
    modes: Vec<ReplicaMode>,
    requests: Vec<StormRequest>,
    max_requests: usize,
    arrivals: Vec<Moment>,
    retries: Vec<Moment>,
    lease_count: u64,
    /// A digest of all events.
    digest: u64,
}

fn random_pool_spec(dice: &mut SeededRng, replicas: u64) -> PoolSpec {
    let policies = ["round_robin", "least_conn", "least_tokens", "random two least_conn", "least_time last_byte"];
    let policy = policies[dice.next_below(5) as usize];
    let words = ["", " max_fails=1", " max_fails=2 fail_timeout=3s", " max_fails=3 fail_timeout=1s"];
    let replica = |at| format!("\"http://10.0.0.1:{at}{}\"", words[dice.next_below(4) as usize]);
    let replicas: Vec<String> = (1..=replicas).map(replica).collect();
    let check = if replicas.len().is_multiple_of(2) { "health_check = { interval = \"1s\" }" } else { "" };
    let text = format!(
        "model = \"m\"\npolicy = \"{policy}\"\nstall_timeout = \"4s\"\n{check}\nreplicas = [{}]",
        replicas.join(", ")
    );
    let loaded = config::load(&text, "router.toml", []).unwrap_or_else(|report| panic!("{report}"));
    loaded.settings.pools.into_iter().next().unwrap()
}

impl StormWorld {
    fn new(seed: u64, weather: StormKind, observer: &Arc<dyn LeaseObserver>) -> Self {
        let mut dice = SeededRng::from_seed(seed);
        let replicas = 2 + dice.next_below(5);
        let fleet = Fleet::new(vec![random_pool_spec(&mut dice, replicas)], observer, seed).unwrap();
        fleet.replicas().iter().for_each(|replica| {
            replica.set_models(ReplicaModels::Unlisted);
        });
        let pool = fleet.pool("m").unwrap();
        let mut world = Self {
            fleet,
            pool,
            rng: dice,
            now: Moment::ZERO + Duration::from_secs(1_000),
            kind: weather,
            events: BTreeMap::new(),
            event_number: 0,
            modes: vec![ReplicaMode::Healthy; replicas as usize],
            requests: Vec::new(),
            max_requests: REQUEST_COUNT,
            arrivals: Vec::new(),
            retries: Vec::new(),
            lease_count: 0,
            digest: 0,
        };
        world.schedule(0, StormEvent::Arrive);
        world.schedule(500, StormEvent::Tick);
        world.schedule(700, StormEvent::Check);
        for at in 0..world.modes.len() {
            let first = world.rng.next_below(8_000);
            world.schedule(first, StormEvent::SwitchMode(at));
        }
        world
    }

    fn schedule(&mut self, milliseconds: u64, event: StormEvent) {
        self.event_number += 1;
        self.events.insert((self.now + Duration::from_millis(milliseconds), self.event_number), event);
    }

    fn mix_into_digest(&mut self, what: u64) {
        self.digest = (self.digest.rotate_left(7) ^ what).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn run(&mut self) {
        while let Some(((at, _), event)) = self.events.pop_first() {
            self.now = at;
            self.handle_event(event);
            self.assert_not_all_ejected();
            let idle =
                self.requests.len() == self.max_requests && self.requests.iter().all(|request| request.end_count > 0);
            if idle {
                return;
            }
        }
    }

    /// Asserts that failed requests never eject every replica.
    fn assert_not_all_ejected(&self) {
        let states = self.pool.member_states(self.now);
        let out = |state: &MemberState| matches!(state, MemberState::Ejected(_));
        let passive = |state: &MemberState| matches!(state, MemberState::Ejected(cause) if cause.is_passive());
        assert!(!(states.iter().all(out) && states.iter().any(passive)), "{states:?} {:?}", self.modes);
        let count = states.iter().filter(|state| passive(state)).count();
        assert!(count <= (states.len() / 2).max(1), "{states:?}");
    }

    fn handle_event(&mut self, event: StormEvent) {
        match event {
            StormEvent::Arrive => self.on_arrival(),
            StormEvent::Answer(at, attempt, answer) if self.is_running(at, attempt) => self.on_answer(at, answer),
            StormEvent::Chunk(at, attempt) if self.is_running(at, attempt) => self.on_chunk(at),
            StormEvent::Leave(at) if self.requests[at].end_count == 0 => {
                // As in the router, a dropped lease settles as left by the client.
                self.requests[at].suspect = None;
                self.finish_request(at, None);
            }
            StormEvent::Answer(..) | StormEvent::Chunk(..) | StormEvent::Leave(_) => {}
            StormEvent::SwitchMode(at) => self.switch_mode(at),
            StormEvent::Tick => {
                drop(self.pool.detect_stalls(self.now));
                self.schedule(1_000, StormEvent::Tick);
            }
            StormEvent::Check => self.run_checks(),
        }
    }

    fn is_running(&self, index: usize, attempt: u64) -> bool {
        let request = &self.requests[index];
        request.end_count == 0 && request.attempt_number == attempt && request.lease.is_some()
    }

    fn on_arrival(&mut self) {
        let kind = match (self.kind, self.rng.next_below(40)) {
            (StormKind::Clients | StormKind::Mixed, 0 | 1) => StormRequestKind::Poison,
            (_, 2..=5) => StormRequestKind::Bad,
            (_, 6..=9) => StormRequestKind::Leaving,
            (_, 10..=12) => StormRequestKind::IdempotencyKey,
            _ => StormRequestKind::Plain,
        };
        let at = self.requests.len();
        self.requests.push(StormRequest {
            kind,
            tried: Vec::new(),
            retries: 0,
            lease: None,
            suspect: None,
            attempt_number: 0,
            remaining_chunks: 1 + self.rng.next_below(5),
            breaks_off: false,
            replicas_reached: 0,
            end_count: 0,
            served: false,
        });
        self.arrivals.push(self.now);
        if kind == StormRequestKind::Leaving {
            let leaves = self.rng.next_below(800);
            self.schedule(leaves, StormEvent::Leave(at));
        }
        if self.requests.len() < self.max_requests {
            let next = self.rng.next_below(250);
            self.schedule(next, StormEvent::Arrive);
        }
        if !self.try_replicas(at) {
            self.finish_request(at, None);
        }
    }

    fn acquire(&mut self, index: usize) -> Option<Lease> {
        let job = PolicyRequest {
            prompt: Tokens(20),
            output: Tokens(0),
            key: b"",
            client_addr: IpAddr::V4(Ipv4Addr::LOCALHOST),
            tried_slots: &[],
        };
        let tried = self.requests[index].tried.clone();
        let attempt = AcquireRequest {
            policy_request: job,
            model: Some("m"),
            estimate: None,
            prefix: None,
            pin: None,
            tried,
            observers: ChoiceObservers::default(),
        };
        let lease = self.pool.acquire(&attempt, self.now).ok()?;
        self.lease_count += 1;
        self.mix_into_digest(lease.replica().id().0);
        Some(lease)
    }

    /// Tries replicas until one accepts the connection.
    fn try_replicas(&mut self, index: usize) -> bool {
        while let Some(lease) = self.acquire(index) {
            if !self.send_attempt(index, lease) {
                return true;
            }
        }
        false
    }

    /// Sends a request; returns whether the connection was refused.
    fn send_attempt(&mut self, index: usize, lease: Lease) -> bool {
        let id = lease.replica().id();
        let place = self.pool.replicas().position(|replica| replica.id() == id).unwrap();
        let mode = self.modes[place];
        if mode == ReplicaMode::Refusing {
            self.requests[index].tried.push(id);
            // A refused connection does not clear an earlier suspect.
            if let Some(doubted) = self.requests[index].suspect.take() {
                doubted.settle(FAILED_OUTCOME, self.now);
            }
            lease.settle(Outcome::Failed { phase: Phase::Connect }, self.now);
            return true;
        }
        let request = &mut self.requests[index];
        request.replicas_reached += 1;
        request.attempt_number += 1;
        request.breaks_off = mode == ReplicaMode::Dying;
        request.lease = Some(lease);
        let (attempt, kind) = (request.attempt_number, request.kind);
        let (wait, answer) = match (mode, kind) {
            (ReplicaMode::Closing, _) => (5, StormAnswer::Closed),
            (ReplicaMode::Failing, _) => (2, StormAnswer::Fault),
            (ReplicaMode::Busy, _) => (2, StormAnswer::Busy),
            (ReplicaMode::Wedged, _) => (FIRST_BYTE_TIMEOUT.as_millis() as u64, StormAnswer::Late),
            (_, StormRequestKind::Poison) => (20, StormAnswer::Fault),
            (_, StormRequestKind::Bad) => (10, StormAnswer::Refused),
            _ => (30 + self.rng.next_below(300), StormAnswer::Begins),
        };
        self.schedule(wait, StormEvent::Answer(index, attempt, answer));
        false
    }

    /// Handles a response as `server::proxy::retry` does.
    fn on_answer(&mut self, index: usize, answer: StormAnswer) {
        let lease = self.requests[index].lease.take().unwrap();
        match answer {
            StormAnswer::Closed | StormAnswer::Late => self.on_lost(index, lease, matches!(answer, StormAnswer::Late)),
            StormAnswer::Fault => self.on_fault(index, lease),
            StormAnswer::Busy => self.on_busy(index, lease),
            StormAnswer::Refused | StormAnswer::Begins => {
                if let Some(doubted) = self.requests[index].suspect.take() {
                    doubted.settle(FAILED_OUTCOME, self.now);
                }
                self.requests[index].lease = Some(lease);
                if matches!(answer, StormAnswer::Refused) {
                    return self.finish_request(index, Some(Outcome::Refused));
                }
                self.on_chunk(index);
            }
        }
    }

    fn try_take_retry(&mut self, index: usize) -> bool {
        let request = &self.requests[index];
        let may = request.kind != StormRequestKind::IdempotencyKey
            && request.retries == 0
            && self.pool.try_take_retry(self.now);
        if may {
            self.requests[index].retries += 1;
            self.retries.push(self.now);
            let within = |all: &[Moment], seconds| {
                all.iter().filter(|then| self.now.since(**then) < Duration::from_secs(seconds)).count()
            };
            // The budget counts whole seconds: the last nine entirely, the tenth in part.
            let (replays, arrivals) = (within(&self.retries, 9), within(&self.arrivals, 10));
            let requests = arrivals.max(self.pool.replicas().map(|replica| replica.in_flight() as usize).sum());
            assert!(replays <= requests / 5 + 3, "{replays} replays of {requests} requests");
        }
        may
    }

    fn on_lost(&mut self, index: usize, lease: Lease, late: bool) {
        if let Some(doubted) = self.requests[index].suspect.take() {
            doubted.settle(FAILED_OUTCOME, self.now);
        }
        self.requests[index].tried.push(lease.replica().id());
        lease.settle(FAILED_OUTCOME, self.now);
        if late || !self.try_take_retry(index) || !self.try_replicas(index) {
            self.finish_request(index, None);
        }
    }

    fn on_fault(&mut self, index: usize, lease: Lease) {
        if let Some(doubted) = self.requests[index].suspect.take() {
            doubted.settle(Outcome::SharedFault, self.now);
            self.requests[index].lease = Some(lease);
            return self.finish_request(index, Some(Outcome::SharedFault));
        }
        if self.try_take_retry(index) {
            self.requests[index].tried.push(lease.replica().id());
            if let Some(next) = self.acquire(index) {
                self.requests[index].suspect = Some(lease);
                if self.send_attempt(index, next) && !self.try_replicas(index) {
                    self.finish_request(index, None);
                }
                return;
            }
            self.pool.return_retry(self.now);
            self.retries.pop();
        }
        self.requests[index].lease = Some(lease);
        self.finish_request(index, Some(FAILED_OUTCOME));
    }

    fn on_busy(&mut self, index: usize, lease: Lease) {
        let retry_after = (self.rng.next_below(2) == 0).then(|| Duration::from_secs(self.rng.next_below(4)));
        lease.mark_busy(retry_after, self.now);
        let outcome = Outcome::Busy { retry_after };
        if self.requests[index].kind != StormRequestKind::IdempotencyKey {
            self.requests[index].tried.push(lease.replica().id());
            if let Some(next) = self.acquire(index) {
                lease.settle(outcome, self.now);
                if self.send_attempt(index, next) && !self.try_replicas(index) {
                    self.finish_request(index, None);
                }
                return;
            }
        }
        if let Some(doubted) = self.requests[index].suspect.take() {
            doubted.settle(FAILED_OUTCOME, self.now);
        }
        self.requests[index].lease = Some(lease);
        self.finish_request(index, Some(outcome));
    }

    fn on_chunk(&mut self, index: usize) {
        let gap = 5 + self.rng.next_below(60);
        let (now, request) = (self.now, &mut self.requests[index]);
        if request.remaining_chunks == 0 {
            request.served = true;
            return self.finish_request(index, Some(Outcome::Completed));
        }
        request.remaining_chunks -= 1;
        request.lease.as_mut().unwrap().record_progress(ResponseProgress { content_events: 1, usage: None }, now);
        if request.breaks_off && request.remaining_chunks < 2 {
            return self.finish_request(index, Some(Outcome::Failed { phase: Phase::Stream }));
        }
        let attempt = request.attempt_number;
        self.schedule(gap, StormEvent::Chunk(index, attempt));
    }

    /// Finishes a request with its response, an error of the router, or a disconnect.
    fn finish_request(&mut self, index: usize, outcome: Option<Outcome>) {
        let now = self.now;
        let request = &mut self.requests[index];
        request.end_count += 1;
        assert!(request.suspect.is_none() || outcome.is_none());
        request.suspect = None;
        match (request.lease.take(), outcome) {
            (Some(lease), Some(outcome)) => lease.settle(outcome, now),
            (lease, None) => drop(lease),
            (None, Some(outcome)) => panic!("{outcome:?} without a lease"),
        }
        if request.kind == StormRequestKind::IdempotencyKey {
            assert!(request.replicas_reached <= 1, "received by {} replicas", request.replicas_reached);
        }
        self.mix_into_digest(index as u64);
    }

    fn switch_mode(&mut self, at: usize) {
        let was = self.modes[at];
        let storm = [
            ReplicaMode::Refusing,
            ReplicaMode::Closing,
            ReplicaMode::Failing,
            ReplicaMode::Busy,
            ReplicaMode::Wedged,
            ReplicaMode::Dying,
        ];
        self.modes[at] = match self.kind {
            StormKind::Clients => ReplicaMode::Healthy,
            _ if was != ReplicaMode::Healthy || self.rng.next_below(3) == 0 => ReplicaMode::Healthy,
            StormKind::Load => ReplicaMode::Busy,
            StormKind::Mixed => storm[self.rng.next_below(6) as usize],
        };
        let next = 500 + self.rng.next_below(9_000);
        self.schedule(next, StormEvent::SwitchMode(at));
        if was == ReplicaMode::Wedged {
            // Hung attempts are released.
            let id = self.pool.replicas().nth(at).unwrap().id();
            for at in 0..self.requests.len() {
                let request = &self.requests[at];
                if request.remaining_chunks > 0
                    && request.lease.as_ref().is_some_and(|lease| lease.replica().id() == id)
                {
                    let attempt = request.attempt_number;
                    self.schedule(1, StormEvent::Answer(at, attempt, StormAnswer::Closed));
                }
            }
        }
    }

    /// Runs the health checks of all replicas. Wedged and failing replicas pass them.
    fn run_checks(&mut self) {
        if let Some(check) = self.pool.spec().failure_policy.health_check.clone() {
            let ids: Vec<ReplicaId> = self.pool.replicas().map(|replica| replica.id()).collect();
            for (id, mode) in ids.into_iter().zip(self.modes.clone()) {
                drop(self.pool.record_check(id, &check, mode != ReplicaMode::Refusing, self.now));
            }
        }
        self.schedule(1_000, StormEvent::Check);
    }

    /// Makes all replicas healthy and advances the time.
    fn run_calm(&mut self) {
        self.kind = StormKind::Clients;
        self.modes.fill(ReplicaMode::Healthy);
        self.events.retain(|_, event| matches!(event, StormEvent::Tick | StormEvent::Check));
        let end = self.now + Duration::from_secs(310);
        while self.events.first_key_value().is_some_and(|((at, _), _)| *at <= end) {
            let ((at, _), event) = self.events.pop_first().unwrap();
            self.now = at;
            self.handle_event(event);
        }
        self.now = end;
        self.max_requests += 40;
        self.schedule(0, StormEvent::Arrive);
        self.run();
    }
}

fn storm_kind(seed: u64) -> StormKind {
    match seed % 4 {
        0 => StormKind::Clients,
        1 => StormKind::Load,
        _ => StormKind::Mixed,
    }
}

/// Runs a storm; returns a digest of all events, the requests served, and the ejections by cause.
fn run_storm(seed: u64) -> (u64, usize, [u64; EjectCause::ALL.len()]) {
    let settled = Arc::new(SettledLeases::default());
    let observer: Arc<dyn LeaseObserver> = settled.clone();
    let mut world = StormWorld::new(seed, storm_kind(seed), &observer);
    world.run();
    let mut ejections = [0; EjectCause::ALL.len()];
    for counts in world.pool.ejections() {
        ejections.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    let served = world.requests.iter().filter(|request| request.served).count();
    world.run_calm();
    for (at, request) in world.requests.iter().enumerate() {
        assert_eq!(request.end_count, 1, "request {at}: {:?}", request.kind);
        let may_fail =
            matches!(request.kind, StormRequestKind::Poison | StormRequestKind::Bad | StormRequestKind::Leaving);
        assert!(at < REQUEST_COUNT || may_fail || request.served, "request {at} after the storm: {:?}", request.kind);
    }
    for replica in world.fleet.replicas() {
        let load = replica.load();
        assert_eq!(
            (replica.in_flight(), load.prefill, load.decoding_streams, load.resident),
            (0, Tokens(0), 0, Tokens(0))
        );
    }
    assert_eq!(settled.0.load(Ordering::Relaxed), world.lease_count, "each lease settles once");
    assert_eq!(world.pool.retry_stats().made, world.retries.len() as u64);
    (world.digest, served, ejections)
}

#[test]
fn a_thousand_storms_keep_every_promise() {
    let mut sums = [0; EjectCause::ALL.len()];
    for seed in 0..SEED_COUNT {
        println!("seed {seed}");
        let (_, served, ejections) = run_storm(seed);
        if storm_kind(seed) == StormKind::Mixed {
            sums.iter_mut().zip(ejections).for_each(|(sum, count)| *sum += count);
        } else {
            assert_eq!(ejections, [0; 4], "neither clients nor load eject a replica");
        }
        if storm_kind(seed) == StormKind::Clients {
            assert!(served > REQUEST_COUNT / 2, "{served}");
        }
    }
    println!("ejections by cause: {sums:?}");
    assert!(sums.iter().all(|sum| *sum > 50), "too few ejections: {sums:?}");
}

#[test]
fn storm_is_reproducible_by_its_seed() {
    for seed in [2, 3, 6, 7] {
        assert_eq!(run_storm(seed), run_storm(seed), "seed {seed}");
    }
}
