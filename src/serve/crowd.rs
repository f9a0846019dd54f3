//! How many requests are under way, in all and for each pool, and how soon there may be room for another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;

use super::{App, Refusal};
use crate::config::Limits;
use crate::fleet::{Pool, Replica};
use crate::units::{Moment, Tokens};

/// Throughput is that of the present turn and the one before it.
const TURN: Duration = Duration::from_secs(10);
/// The longest that anybody is told to wait, in seconds.
const LONGEST: u64 = 30;

/// All requests for replicas.
#[derive(Default)]
pub(super) struct Crowd {
    all: Arc<Room>,
    /// By the pool's name, so that a reload does not forget who is there.
    pools: DashMap<Arc<str>, Arc<Room>>,
}

/// A bound on requests, and how fast they go.
#[derive(Debug, Default)]
struct Room {
    present: AtomicUsize,
    pace: Pace,
}

/// Tokens of ended requests.
#[derive(Debug, Default)]
struct Pace {
    turn: AtomicU64,
    before: AtomicU64,
    present: AtomicU64,
}

/// One request's place, given back when dropped.
pub(super) struct Place {
    all: Arc<Room>,
    pool: Option<(Arc<Room>, Arc<Pool>)>,
}

impl Crowd {
    /// Lets a request in.
    ///
    /// *Errors*: there are as many as there may be.
    pub(super) fn enter(app: &App, limits: &Limits) -> Result<Place, Refusal> {
        let all = app.crowd.all.clone();
        if !all.enter(limits.in_flight_requests) {
            let tokens = app.fleet.replicas().iter().map(|replica| resident(replica)).fold(Tokens(0), |a, b| a + b);
            return Err(Refusal::Crowded { retry_after: all.pace.seconds(tokens, app.clock.now()) });
        }
        Ok(Place { all, pool: None })
    }
}

impl Place {
    /// Lets the request into its pool.
    ///
    /// *Errors*: the pool has as many as it may have.
    pub(super) fn join(&mut self, app: &App, limits: &Limits, pool: &Arc<Pool>) -> Result<(), Refusal> {
        let room = match app.crowd.pools.get(pool.name()) {
            Some(room) => room.clone(),
            None => app.crowd.pools.entry(pool.name().clone()).or_default().clone(),
        };
        let most = limits.pools.get(pool.name()).copied().unwrap_or(usize::MAX);
        let entered = room.enter(most);
        if !entered {
            return Err(Refusal::PoolCrowded { retry_after: room.wait(pool, app.clock.now()) });
        }
        // A request that is for two pools in a row leaves the first.
        if let Some((left, _)) = self.pool.replace((room, pool.clone())) {
            left.leave();
        }
        Ok(())
    }

    /// Seconds until the tokens on the pool's replicas are worked off, as far as one can tell.
    pub(super) fn wait(&self, now: Moment) -> Option<u64> {
        self.pool.as_ref().map(|(room, pool)| room.wait(pool, now))
    }

    /// Notes what the request has come to.
    pub(super) fn ended(&self, tokens: Tokens, now: Moment) {
        for room in self.pool.iter().map(|(room, _)| room).chain([&self.all]) {
            room.pace.add(tokens, now);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((room, _)) = &self.pool {
            room.leave();
        }
        self.all.leave();
    }
}

impl Room {
    fn enter(&self, most: usize) -> bool {
        let one_more = |present: usize| (present < most).then_some(present + 1);
        self.present.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    fn leave(&self) {
        self.present.fetch_sub(1, Ordering::Relaxed);
    }

    fn wait(&self, pool: &Pool, now: Moment) -> u64 {
        let tokens = pool.replicas().map(|replica| resident(replica)).fold(Tokens(0), |a, b| a + b);
        self.pace.seconds(tokens, now)
    }
}

fn resident(replica: &Replica) -> Tokens {
    replica.load().resident
}

impl Pace {
    fn add(&self, tokens: Tokens, now: Moment) {
        self.go_on(now);
        self.present.fetch_add(tokens.0, Ordering::Relaxed);
    }

    /// Begins another turn when it is time. Tokens that are counted at that very moment may go to either.
    fn go_on(&self, now: Moment) {
        let turn = turn(now);
        let last = self.turn.swap(turn, Ordering::Relaxed);
        if last != turn {
            let counted = self.present.swap(0, Ordering::Relaxed);
            self.before.store(if last + 1 == turn { counted } else { 0 }, Ordering::Relaxed);
        }
    }

    /// Seconds that `tokens` take at the present throughput, 1 to 30; 1 if none is known.
    fn seconds(&self, tokens: Tokens, now: Moment) -> u64 {
        self.go_on(now);
        let ended = self.before.load(Ordering::Relaxed) + self.present.load(Ordering::Relaxed);
        let begun = now.since(Moment::from_nanos(turn(now).saturating_mul(nanos(TURN))));
        let spent = nanos(TURN) + nanos(begun);
        let waited = u128::from(tokens.0) * u128::from(spent) / u128::from(ended.max(1)) / 1_000_000_000;
        if ended == 0 { 1 } else { u64::try_from(waited).unwrap_or(LONGEST).clamp(1, LONGEST) }
    }
}

fn turn(now: Moment) -> u64 {
    now.as_nanos() / nanos(TURN)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_room_takes_as_many_as_it_may_and_one_more_when_one_leaves() {
        let room = Room::default();
        assert!(room.enter(2) && room.enter(2) && !room.enter(2));
        room.leave();
        assert!(room.enter(2) && !room.enter(2));
    }

    #[test]
    fn the_wait_is_the_time_that_the_tokens_in_flight_take() {
        let pace = Pace::default();
        assert_eq!(pace.seconds(Tokens(1_000_000), at(100)), 1, "nothing is known");
        pace.add(Tokens(1_000), at(101));
        pace.add(Tokens(1_000), at(109));
        // 2,000 tokens in 20 s, as far as is known.
        assert_eq!(pace.seconds(Tokens(1_200), at(110)), 6);
        assert_eq!(pace.seconds(Tokens(5), at(110)), 1);
        assert_eq!(pace.seconds(Tokens(1 << 60), at(110)), 30);
        assert_eq!(pace.seconds(Tokens(1_200), at(130)), 1, "what is long over says nothing");
    }
}
