//! How many requests are under way, in all and for each pool, and how soon there may be room for another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;

use crate::config::Limits;
use crate::fleet::{Pool, Replica};
use crate::server::{AppState, RequestError};
use crate::units::{Moment, Tokens};

/// Throughput is that of the present turn and the one before it.
const THROUGHPUT_WINDOW: Duration = Duration::from_secs(10);
/// The longest that anybody is told to wait, in seconds.
const MAX_RETRY_AFTER_SECONDS: u64 = 30;

/// All requests for replicas.
#[derive(Default)]
pub(in crate::server) struct ConcurrencyLimits {
    global: Arc<RequestLimit>,
    /// By the pool's name, so that a reload does not forget who is there.
    pools: DashMap<Arc<str>, Arc<RequestLimit>>,
}

/// A bound on requests, and how fast they go.
#[derive(Debug, Default)]
struct RequestLimit {
    in_flight: AtomicUsize,
    throughput: TokenThroughput,
}

/// Tokens of ended requests.
#[derive(Debug, Default)]
struct TokenThroughput {
    window: AtomicU64,
    previous_tokens: AtomicU64,
    current_tokens: AtomicU64,
}

/// One request's place, given back when dropped.
pub(in crate::server) struct RequestPermit {
    global: Arc<RequestLimit>,
    pool: Option<(Arc<RequestLimit>, Arc<Pool>)>,
}

impl ConcurrencyLimits {
    /// Lets a request in.
    ///
    /// *Errors*: there are as many as there may be.
    pub(in crate::server) fn acquire(app: &AppState, limits: &Limits) -> Result<RequestPermit, RequestError> {
        let all = app.limits.concurrency.global.clone();
        if !all.try_acquire(limits.in_flight_requests) {
            let tokens =
                app.fleet.replicas().iter().map(|replica| resident_tokens(replica)).fold(Tokens(0), |a, b| a + b);
            return Err(RequestError::RequestLimitReached {
                retry_after_seconds: all.throughput.estimate_seconds(tokens, app.clock.now()),
            });
        }
        Ok(RequestPermit { global: all, pool: None })
    }
}

impl RequestPermit {
    /// Lets the request into its pool.
    ///
    /// *Errors*: the pool has as many as it may have.
    pub(in crate::server) fn acquire_pool(
        &mut self,
        app: &AppState,
        limits: &Limits,
        pool: &Arc<Pool>,
    ) -> Result<(), RequestError> {
        let room = match app.limits.concurrency.pools.get(pool.name()) {
            Some(room) => room.clone(),
            None => app.limits.concurrency.pools.entry(pool.name().clone()).or_default().clone(),
        };
        let most = limits.max_in_flight_by_pool.get(pool.name()).copied().unwrap_or(usize::MAX);
        let entered = room.try_acquire(most);
        if !entered {
            return Err(RequestError::PoolLimitReached {
                retry_after_seconds: room.retry_after_seconds(pool, app.clock.now()),
            });
        }
        // A request that is for two pools in a row leaves the first.
        if let Some((left, _)) = self.pool.replace((room, pool.clone())) {
            left.release();
        }
        Ok(())
    }

    /// Seconds until the tokens on the pool's replicas are worked off, as far as one can tell.
    pub(in crate::server) fn retry_after_seconds(&self, now: Moment) -> Option<u64> {
        self.pool.as_ref().map(|(room, pool)| room.retry_after_seconds(pool, now))
    }

    /// Notes what the request has come to.
    pub(in crate::server) fn record_tokens(&self, tokens: Tokens, now: Moment) {
        for room in self.pool.iter().map(|(room, _)| room).chain([&self.global]) {
            room.throughput.record(tokens, now);
        }
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        if let Some((room, _)) = &self.pool {
            room.release();
        }
        self.global.release();
    }
}

impl RequestLimit {
    fn try_acquire(&self, most: usize) -> bool {
        let one_more = |present: usize| (present < most).then_some(present + 1);
        self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    fn release(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    fn retry_after_seconds(&self, pool: &Pool, now: Moment) -> u64 {
        let tokens = pool.replicas().map(|replica| resident_tokens(replica)).fold(Tokens(0), |a, b| a + b);
        self.throughput.estimate_seconds(tokens, now)
    }
}

fn resident_tokens(replica: &Replica) -> Tokens {
    replica.load().resident
}

impl TokenThroughput {
    fn record(&self, tokens: Tokens, now: Moment) {
        self.rotate(now);
        self.current_tokens.fetch_add(tokens.0, Ordering::Relaxed);
    }

    /// Begins another turn when it is time. Tokens that are counted at that very moment may go to either.
    fn rotate(&self, now: Moment) {
        let turn = window_number(now);
        let last = self.window.swap(turn, Ordering::Relaxed);
        if last != turn {
            let counted = self.current_tokens.swap(0, Ordering::Relaxed);
            self.previous_tokens.store(if last + 1 == turn { counted } else { 0 }, Ordering::Relaxed);
        }
    }

    /// Seconds that `tokens` take at the present throughput, 1 to 30; 1 if none is known.
    fn estimate_seconds(&self, tokens: Tokens, now: Moment) -> u64 {
        self.rotate(now);
        let ended = self.previous_tokens.load(Ordering::Relaxed) + self.current_tokens.load(Ordering::Relaxed);
        let begun = now.since(Moment::from_nanos(window_number(now).saturating_mul(nanos(THROUGHPUT_WINDOW))));
        let spent = nanos(THROUGHPUT_WINDOW) + nanos(begun);
        let waited = u128::from(tokens.0) * u128::from(spent) / u128::from(ended.max(1)) / 1_000_000_000;
        if ended == 0 {
            1
        } else {
            u64::try_from(waited).unwrap_or(MAX_RETRY_AFTER_SECONDS).clamp(1, MAX_RETRY_AFTER_SECONDS)
        }
    }
}

fn window_number(now: Moment) -> u64 {
    now.as_nanos() / nanos(THROUGHPUT_WINDOW)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment_at(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_room_takes_as_many_as_it_may_and_one_more_when_one_leaves() {
        let room = RequestLimit::default();
        assert!(room.try_acquire(2) && room.try_acquire(2) && !room.try_acquire(2));
        room.release();
        assert!(room.try_acquire(2) && !room.try_acquire(2));
    }

    #[test]
    fn the_wait_is_the_time_that_the_tokens_in_flight_take() {
        let pace = TokenThroughput::default();
        assert_eq!(pace.estimate_seconds(Tokens(1_000_000), moment_at(100)), 1, "nothing is known");
        pace.record(Tokens(1_000), moment_at(101));
        pace.record(Tokens(1_000), moment_at(109));
        // 2,000 tokens in 20 s, as far as is known.
        assert_eq!(pace.estimate_seconds(Tokens(1_200), moment_at(110)), 6);
        assert_eq!(pace.estimate_seconds(Tokens(5), moment_at(110)), 1);
        assert_eq!(pace.estimate_seconds(Tokens(1 << 60), moment_at(110)), 30);
        assert_eq!(pace.estimate_seconds(Tokens(1_200), moment_at(130)), 1, "what is long over says nothing");
    }
}
