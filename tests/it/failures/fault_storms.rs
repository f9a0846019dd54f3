//! Storms of faults in virtual time, over the real fleet: a thousand seeds, each the same every time.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokenweir::balance::{Dice, Job};
use tokenweir::config;
use tokenweir::eject::Cause;
use tokenweir::fleet::{
    Attempt, Beside, Fleet, Lease, Models, Observer, Outcome, Phase, Pool, PoolSpec, Progress, Report, State,
};
use tokenweir::units::{Moment, ReplicaId, Tokens};

const SEEDS: u64 = 1_000;
const REQUESTS: usize = 200;
/// What a client has to wait for a first byte before it is told that none came.
const FIRST_BYTE: Duration = Duration::from_secs(60);
const FAILED: Outcome = Outcome::Failed { phase: Phase::FirstByte };

#[derive(Default)]
struct Settled(AtomicU64);

impl Observer for Settled {
    fn settled(&self, _: &Report<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a replica does at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Well,
    /// Nothing listens.
    Refusing,
    /// It reads requests and closes.
    Closing,
    /// A 500 in no time.
    Hole,
    /// A 503, with or without `Retry-After`.
    Busy,
    /// It takes requests and does nothing.
    Wedged,
    /// Its streams break off.
    Dying,
}

/// What a request is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    /// Every replica answers it with a 500.
    Poison,
    /// Every replica answers it with a 400.
    Bad,
    /// Its client leaves before the end.
    Left,
    /// It has an `Idempotency-Key`.
    Once,
}

/// What the seeds of a kind are about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weather {
    /// The replicas are well, the clients are not.
    Clients,
    /// The replicas have too much to do.
    Load,
    /// Everything.
    Storm,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Arrive,
    /// The answer that was decided when the request was sent.
    Answer(usize, u64, Answer),
    Chunk(usize, u64),
    Leave(usize),
    Switch(usize),
    Tick,
    Check,
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Closed,
    Fault,
    Busy,
    Refused,
    Begins,
    Late,
}

struct Request {
    kind: Kind,
    tried: Vec<ReplicaId>,
    replays: u32,
    lease: Option<Lease>,
    doubted: Option<Lease>,
    /// Of the try that runs, so that what was to come of an earlier one is known for it.
    attempt: u64,
    chunks: u64,
    breaks: bool,
    /// Replicas that bytes of it reached.
    seen_by: u32,
    ends: u32,
    served: bool,
}

struct World {
    fleet: Fleet,
    pool: Arc<Pool>,
    dice: Dice,
    now: Moment,
    weather: Weather,
    events: BTreeMap<(Moment, u64), Event>,
    number: u64,
    modes: Vec<Mode>,
    requests: Vec<Request>,
    most: usize,
    arrived: Vec<Moment>,
    replayed: Vec<Moment>,
    leases: u64,
    /// All that happened, in short.
    digest: u64,
}

fn spec(dice: &mut Dice, replicas: u64) -> PoolSpec {
    let policies = ["round_robin", "least_conn", "least_tokens", "random two least_conn", "least_time last_byte"];
    let policy = policies[dice.below(5) as usize];
    let words = ["", " max_fails=1", " max_fails=2 fail_timeout=3s", " max_fails=3 fail_timeout=1s"];
    let replica = |at| format!("\"http://10.0.0.1:{at}{}\"", words[dice.below(4) as usize]);
    let replicas: Vec<String> = (1..=replicas).map(replica).collect();
    let check = if replicas.len().is_multiple_of(2) { "check = { interval = \"1s\" }" } else { "" };
    let text = format!(
        "model = \"m\"\npolicy = \"{policy}\"\nstalled = \"4s\"\n{check}\nreplicas = [{}]",
        replicas.join(", ")
    );
    let loaded = config::load(&text, "router.toml", []).unwrap_or_else(|report| panic!("{report}"));
    loaded.settings.pools.into_iter().next().unwrap()
}

impl World {
    fn new(seed: u64, weather: Weather, observer: &Arc<dyn Observer>) -> Self {
        let mut dice = Dice::seeded(seed);
        let replicas = 2 + dice.below(5);
        let fleet = Fleet::new(vec![spec(&mut dice, replicas)], observer, seed).unwrap();
        fleet.replicas().iter().for_each(|replica| {
            replica.learn(Models::Unlisted);
        });
        let pool = fleet.pool("m").unwrap();
        let mut world = Self {
            fleet,
            pool,
            dice,
            now: Moment::ZERO + Duration::from_secs(1_000),
            weather,
            events: BTreeMap::new(),
            number: 0,
            modes: vec![Mode::Well; replicas as usize],
            requests: Vec::new(),
            most: REQUESTS,
            arrived: Vec::new(),
            replayed: Vec::new(),
            leases: 0,
            digest: 0,
        };
        world.after(0, Event::Arrive);
        world.after(500, Event::Tick);
        world.after(700, Event::Check);
        for at in 0..world.modes.len() {
            let first = world.dice.below(8_000);
            world.after(first, Event::Switch(at));
        }
        world
    }

    fn after(&mut self, milliseconds: u64, event: Event) {
        self.number += 1;
        self.events.insert((self.now + Duration::from_millis(milliseconds), self.number), event);
    }

    fn note(&mut self, what: u64) {
        self.digest = (self.digest.rotate_left(7) ^ what).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn run(&mut self) {
        while let Some(((at, _), event)) = self.events.pop_first() {
            self.now = at;
            self.happen(event);
            self.somebody_is_left();
            let idle = self.requests.len() == self.most && self.requests.iter().all(|request| request.ends > 0);
            if idle {
                return;
            }
        }
    }

    /// Replicas that failed requests are never all that there is nobody.
    fn somebody_is_left(&self) {
        let states = self.pool.states(self.now);
        let out = |state: &State| matches!(state, State::Ejected(_));
        let passive = |state: &State| matches!(state, State::Ejected(cause) if cause.is_passive());
        assert!(!(states.iter().all(out) && states.iter().any(passive)), "{states:?} {:?}", self.modes);
        let count = states.iter().filter(|state| passive(state)).count();
        assert!(count <= (states.len() / 2).max(1), "{states:?}");
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive => self.arrive(),
            Event::Answer(at, attempt, answer) if self.is_running(at, attempt) => self.answer(at, answer),
            Event::Chunk(at, attempt) if self.is_running(at, attempt) => self.chunk(at),
            Event::Leave(at) if self.requests[at].ends == 0 => {
                // As in the router: what is dropped is settled as left.
                self.requests[at].doubted = None;
                self.end(at, None);
            }
            Event::Answer(..) | Event::Chunk(..) | Event::Leave(_) => {}
            Event::Switch(at) => self.switch(at),
            Event::Tick => {
                drop(self.pool.tick(self.now));
                self.after(1_000, Event::Tick);
            }
            Event::Check => self.check(),
        }
    }

    fn is_running(&self, at: usize, attempt: u64) -> bool {
        let request = &self.requests[at];
        request.ends == 0 && request.attempt == attempt && request.lease.is_some()
    }

    fn arrive(&mut self) {
        let kind = match (self.weather, self.dice.below(40)) {
            (Weather::Clients | Weather::Storm, 0 | 1) => Kind::Poison,
            (_, 2..=5) => Kind::Bad,
            (_, 6..=9) => Kind::Left,
            (_, 10..=12) => Kind::Once,
            _ => Kind::Plain,
        };
        let at = self.requests.len();
        self.requests.push(Request {
            kind,
            tried: Vec::new(),
            replays: 0,
            lease: None,
            doubted: None,
            attempt: 0,
            chunks: 1 + self.dice.below(5),
            breaks: false,
            seen_by: 0,
            ends: 0,
            served: false,
        });
        self.arrived.push(self.now);
        if kind == Kind::Left {
            let leaves = self.dice.below(800);
            self.after(leaves, Event::Leave(at));
        }
        if self.requests.len() < self.most {
            let next = self.dice.below(250);
            self.after(next, Event::Arrive);
        }
        if !self.go(at) {
            self.end(at, None);
        }
    }

    fn acquire(&mut self, at: usize) -> Option<Lease> {
        let job = Job {
            prompt: Tokens(20),
            output: Tokens(0),
            key: b"",
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
            tried: &[],
        };
        let tried = self.requests[at].tried.clone();
        let attempt = Attempt {
            job,
            model: Some("m"),
            measured: None,
            prefix: None,
            pinned: None,
            tried,
            beside: Beside::default(),
        };
        let lease = self.pool.acquire(&attempt, self.now).ok()?;
        self.leases += 1;
        self.note(lease.replica().id().0);
        Some(lease)
    }

    /// Tries replicas until one listens.
    fn go(&mut self, at: usize) -> bool {
        while let Some(lease) = self.acquire(at) {
            if !self.send(at, lease) {
                return true;
            }
        }
        false
    }

    /// Sends a request; returns whether the connection was refused.
    fn send(&mut self, at: usize, lease: Lease) -> bool {
        let id = lease.replica().id();
        let place = self.pool.replicas().position(|replica| replica.id() == id).unwrap();
        let mode = self.modes[place];
        if mode == Mode::Refusing {
            self.requests[at].tried.push(id);
            // Whoever was doubted before is not excused by somebody who does not even listen.
            if let Some(doubted) = self.requests[at].doubted.take() {
                doubted.settle(FAILED, self.now);
            }
            lease.settle(Outcome::Failed { phase: Phase::Connect }, self.now);
            return true;
        }
        let request = &mut self.requests[at];
        request.seen_by += 1;
        request.attempt += 1;
        request.breaks = mode == Mode::Dying;
        request.lease = Some(lease);
        let (attempt, kind) = (request.attempt, request.kind);
        let (wait, answer) = match (mode, kind) {
            (Mode::Closing, _) => (5, Answer::Closed),
            (Mode::Hole, _) => (2, Answer::Fault),
            (Mode::Busy, _) => (2, Answer::Busy),
            (Mode::Wedged, _) => (FIRST_BYTE.as_millis() as u64, Answer::Late),
            (_, Kind::Poison) => (20, Answer::Fault),
            (_, Kind::Bad) => (10, Answer::Refused),
            _ => (30 + self.dice.below(300), Answer::Begins),
        };
        self.after(wait, Event::Answer(at, attempt, answer));
        false
    }

    /// What `serve::tries` decides.
    fn answer(&mut self, at: usize, answer: Answer) {
        let lease = self.requests[at].lease.take().unwrap();
        match answer {
            Answer::Closed | Answer::Late => self.lost(at, lease, matches!(answer, Answer::Late)),
            Answer::Fault => self.fault(at, lease),
            Answer::Busy => self.busy(at, lease),
            Answer::Refused | Answer::Begins => {
                if let Some(doubted) = self.requests[at].doubted.take() {
                    doubted.settle(FAILED, self.now);
                }
                self.requests[at].lease = Some(lease);
                if matches!(answer, Answer::Refused) {
                    return self.end(at, Some(Outcome::Refused));
                }
                self.chunk(at);
            }
        }
    }

    fn may_replay(&mut self, at: usize) -> bool {
        let request = &self.requests[at];
        let may = request.kind != Kind::Once && request.replays == 0 && self.pool.may_replay(self.now);
        if may {
            self.requests[at].replays += 1;
            self.replayed.push(self.now);
            let within = |all: &[Moment], seconds| {
                all.iter().filter(|then| self.now.since(**then) < Duration::from_secs(seconds)).count()
            };
            // The budget counts by whole seconds: the last nine for sure, the tenth in part.
            let (replays, came) = (within(&self.replayed, 9), within(&self.arrived, 10));
            let requests = came.max(self.pool.replicas().map(|replica| replica.in_flight() as usize).sum());
            assert!(replays <= requests / 5 + 3, "{replays} replays of {requests} requests");
        }
        may
    }

    fn lost(&mut self, at: usize, lease: Lease, late: bool) {
        if let Some(doubted) = self.requests[at].doubted.take() {
            doubted.settle(FAILED, self.now);
        }
        self.requests[at].tried.push(lease.replica().id());
        lease.settle(FAILED, self.now);
        if late || !self.may_replay(at) || !self.go(at) {
            self.end(at, None);
        }
    }

    fn fault(&mut self, at: usize, lease: Lease) {
        if let Some(doubted) = self.requests[at].doubted.take() {
            doubted.settle(Outcome::Excused, self.now);
            self.requests[at].lease = Some(lease);
            return self.end(at, Some(Outcome::Excused));
        }
        if self.may_replay(at) {
            self.requests[at].tried.push(lease.replica().id());
            if let Some(next) = self.acquire(at) {
                self.requests[at].doubted = Some(lease);
                if self.send(at, next) && !self.go(at) {
                    self.end(at, None);
                }
                return;
            }
            self.pool.keeps_replay(self.now);
            self.replayed.pop();
        }
        self.requests[at].lease = Some(lease);
        self.end(at, Some(FAILED));
    }

    fn busy(&mut self, at: usize, lease: Lease) {
        let retry_after = (self.dice.below(2) == 0).then(|| Duration::from_secs(self.dice.below(4)));
        lease.busy(retry_after, self.now);
        let outcome = Outcome::Busy { retry_after };
        if self.requests[at].kind != Kind::Once {
            self.requests[at].tried.push(lease.replica().id());
            if let Some(next) = self.acquire(at) {
                lease.settle(outcome, self.now);
                if self.send(at, next) && !self.go(at) {
                    self.end(at, None);
                }
                return;
            }
        }
        if let Some(doubted) = self.requests[at].doubted.take() {
            doubted.settle(FAILED, self.now);
        }
        self.requests[at].lease = Some(lease);
        self.end(at, Some(outcome));
    }

    fn chunk(&mut self, at: usize) {
        let gap = 5 + self.dice.below(60);
        let (now, request) = (self.now, &mut self.requests[at]);
        if request.chunks == 0 {
            request.served = true;
            return self.end(at, Some(Outcome::Completed));
        }
        request.chunks -= 1;
        request.lease.as_mut().unwrap().progress(Progress { content_events: 1, usage: None }, now);
        if request.breaks && request.chunks < 2 {
            return self.end(at, Some(Outcome::Failed { phase: Phase::Stream }));
        }
        let attempt = request.attempt;
        self.after(gap, Event::Chunk(at, attempt));
    }

    /// The client has its answer, or an error of ours, or is gone.
    fn end(&mut self, at: usize, outcome: Option<Outcome>) {
        let now = self.now;
        let request = &mut self.requests[at];
        request.ends += 1;
        assert!(request.doubted.is_none() || outcome.is_none());
        request.doubted = None;
        match (request.lease.take(), outcome) {
            (Some(lease), Some(outcome)) => lease.settle(outcome, now),
            (lease, None) => drop(lease),
            (None, Some(outcome)) => panic!("{outcome:?} of nobody"),
        }
        if request.kind == Kind::Once {
            assert!(request.seen_by <= 1, "seen by {}", request.seen_by);
        }
        self.note(at as u64);
    }

    fn switch(&mut self, at: usize) {
        let was = self.modes[at];
        let storm = [Mode::Refusing, Mode::Closing, Mode::Hole, Mode::Busy, Mode::Wedged, Mode::Dying];
        self.modes[at] = match self.weather {
            Weather::Clients => Mode::Well,
            _ if was != Mode::Well || self.dice.below(3) == 0 => Mode::Well,
            Weather::Load => Mode::Busy,
            Weather::Storm => storm[self.dice.below(6) as usize],
        };
        let next = 500 + self.dice.below(9_000);
        self.after(next, Event::Switch(at));
        if was == Mode::Wedged {
            // Who hung there is let go of.
            let id = self.pool.replicas().nth(at).unwrap().id();
            for at in 0..self.requests.len() {
                let request = &self.requests[at];
                if request.chunks > 0 && request.lease.as_ref().is_some_and(|lease| lease.replica().id() == id) {
                    let attempt = request.attempt;
                    self.after(1, Event::Answer(at, attempt, Answer::Closed));
                }
            }
        }
    }

    /// The checks of all replicas. A wedged or a failing one says that it is well.
    fn check(&mut self) {
        if let Some(check) = self.pool.spec().failing.check.clone() {
            let ids: Vec<ReplicaId> = self.pool.replicas().map(|replica| replica.id()).collect();
            for (id, mode) in ids.into_iter().zip(self.modes.clone()) {
                drop(self.pool.checked(id, &check, mode != Mode::Refusing, self.now));
            }
        }
        self.after(1_000, Event::Check);
    }

    /// All are well again, and time goes by.
    fn calm(&mut self) {
        self.weather = Weather::Clients;
        self.modes.fill(Mode::Well);
        self.events.retain(|_, event| matches!(event, Event::Tick | Event::Check));
        let until = self.now + Duration::from_secs(310);
        while self.events.first_key_value().is_some_and(|((at, _), _)| *at <= until) {
            let ((at, _), event) = self.events.pop_first().unwrap();
            self.now = at;
            self.happen(event);
        }
        self.now = until;
        self.most += 40;
        self.after(0, Event::Arrive);
        self.run();
    }
}

fn weather(seed: u64) -> Weather {
    match seed % 4 {
        0 => Weather::Clients,
        1 => Weather::Load,
        _ => Weather::Storm,
    }
}

/// What a storm came to: a digest of all that happened, requests served, and ejections by cause.
fn storm(seed: u64) -> (u64, usize, [u64; Cause::ALL.len()]) {
    let settled = Arc::new(Settled::default());
    let observer: Arc<dyn Observer> = settled.clone();
    let mut world = World::new(seed, weather(seed), &observer);
    world.run();
    let mut ejections = [0; Cause::ALL.len()];
    for counts in world.pool.ejections() {
        ejections.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    let served = world.requests.iter().filter(|request| request.served).count();
    world.calm();
    for (at, request) in world.requests.iter().enumerate() {
        assert_eq!(request.ends, 1, "request {at}: {:?}", request.kind);
        let may_fail = matches!(request.kind, Kind::Poison | Kind::Bad | Kind::Left);
        assert!(at < REQUESTS || may_fail || request.served, "request {at} after the storm: {:?}", request.kind);
    }
    for replica in world.fleet.replicas() {
        let load = replica.load();
        assert_eq!((replica.in_flight(), load.prefill, load.decoding, load.resident), (0, Tokens(0), 0, Tokens(0)));
    }
    assert_eq!(settled.0.load(Ordering::Relaxed), world.leases, "each lease settles once");
    assert_eq!(world.pool.replays().made, world.replayed.len() as u64);
    (world.digest, served, ejections)
}

#[test]
fn a_thousand_storms_keep_every_promise() {
    let mut sums = [0; Cause::ALL.len()];
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let (_, served, ejections) = storm(seed);
        if weather(seed) == Weather::Storm {
            sums.iter_mut().zip(ejections).for_each(|(sum, count)| *sum += count);
        } else {
            assert_eq!(ejections, [0; 4], "nothing that clients do, and no load, ejects anybody");
        }
        if weather(seed) == Weather::Clients {
            assert!(served > REQUESTS / 2, "{served}");
        }
    }
    println!("ejections by cause: {sums:?}");
    assert!(sums.iter().all(|sum| *sum > 50), "the storms were storms: {sums:?}");
}

#[test]
fn a_storm_is_the_same_every_time() {
    for seed in [2, 3, 6, 7] {
        assert_eq!(storm(seed), storm(seed), "seed {seed}");
    }
}
