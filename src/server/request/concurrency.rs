//! Concurrency limits of all pools together and of each pool, and the time until a request may be retried.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;

use crate::config::Limits;
use crate::fleet::{Fleet, Pool, Replica};
use crate::server::RequestError;
use crate::units::{Moment, Tokens};

/// Throughput is measured over the present window and the one before it.
const THROUGHPUT_WINDOW: Duration = Duration::from_secs(10);
/// The longest `Retry-After`, in seconds.
const MAX_RETRY_AFTER_SECONDS: u64 = 30;

/// The concurrency limits of all requests to replicas.
#[derive(Default)]
pub(in crate::server) struct ConcurrencyLimits {
    global: Arc<RequestLimit>,
    /// By the pool's name, so that a reload keeps the counts.
    pools: DashMap<Arc<str>, Arc<RequestLimit>>,
}

/// The requests that count against one limit, and their throughput.
#[derive(Debug, Default)]
struct RequestLimit {
    in_flight: AtomicUsize,
    throughput: TokenThroughput,
}

/// Tokens of ended requests.
#[derive(Debug, Default)]
struct TokenThroughput {
    /// The number of the present window since the start.
    window: AtomicU64,
    previous_tokens: AtomicU64,
    current_tokens: AtomicU64,
}

/// One request counted against a limit; uncounted on drop.
struct LimitGuard(Arc<RequestLimit>);

/// One request counted against its pool's limit.
struct PoolPermit {
    guard: LimitGuard,
    pool: Arc<Pool>,
}

/// One request's share of the limits; given back on drop.
pub(in crate::server) struct RequestPermit {
    /// `None` until the request has a pool. Given back before the global share.
    pool: Option<PoolPermit>,
    global: LimitGuard,
}

impl ConcurrencyLimits {
    /// Counts a request against the global limit. Its pool is not known before its body is read.
    ///
    /// *Errors*: the limit is reached.
    pub(in crate::server) fn acquire(
        &self,
        limits: &Limits,
        fleet: &Fleet,
        now: Moment,
    ) -> Result<RequestPermit, RequestError> {
        let Some(global) = LimitGuard::acquire(&self.global, limits.in_flight_requests) else {
            let tokens = sum_resident_tokens(fleet.replicas().iter());
            return Err(RequestError::RequestLimitReached {
                retry_after_seconds: self.global.throughput.estimate_seconds(tokens, now),
            });
        };
        Ok(RequestPermit { pool: None, global })
    }

    /// Counts a request against its pool's limit.
    ///
    /// *Errors*: the limit is reached.
    pub(in crate::server) fn acquire_pool(
        &self,
        permit: &mut RequestPermit,
        limits: &Limits,
        pool: &Arc<Pool>,
        now: Moment,
    ) -> Result<(), RequestError> {
        let limit = match self.pools.get(pool.name()) {
            Some(limit) => limit.clone(),
            None => self.pools.entry(pool.name().clone()).or_default().clone(),
        };
        let max = limits.max_in_flight_by_pool.get(pool.name()).copied().unwrap_or(usize::MAX);
        let Some(guard) = LimitGuard::acquire(&limit, max) else {
            return Err(RequestError::PoolLimitReached { retry_after_seconds: limit.retry_after_seconds(pool, now) });
        };
        permit.pool = Some(PoolPermit { guard, pool: pool.clone() });
        Ok(())
    }
}

impl RequestPermit {
    /// Returns the seconds until the pool's replicas have worked off their tokens, 1 to 30; `None` without a pool.
    pub(in crate::server) fn retry_after_seconds(&self, now: Moment) -> Option<u64> {
        self.pool.as_ref().map(|permit| permit.guard.0.retry_after_seconds(&permit.pool, now))
    }

    /// Records the tokens of the request at its end.
    pub(in crate::server) fn record_tokens(&self, tokens: Tokens, now: Moment) {
        for guard in self.pool.iter().map(|permit| &permit.guard).chain([&self.global]) {
            guard.0.throughput.record(tokens, now);
        }
    }
}

impl LimitGuard {
    /// Counts a request; `None` if `max` requests are counted already.
    fn acquire(limit: &Arc<RequestLimit>, max: usize) -> Option<Self> {
        limit.try_acquire(max).then(|| Self(limit.clone()))
    }
}

impl Drop for LimitGuard {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl RequestLimit {
    fn try_acquire(&self, max: usize) -> bool {
        let one_more = |in_flight: usize| (in_flight < max).then_some(in_flight + 1);
        self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    fn release(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    fn retry_after_seconds(&self, pool: &Pool, now: Moment) -> u64 {
        self.throughput.estimate_seconds(sum_resident_tokens(pool.replicas()), now)
    }
}

fn sum_resident_tokens<'a>(replicas: impl Iterator<Item = &'a Arc<Replica>>) -> Tokens {
    replicas.map(|replica| replica.load().resident).fold(Tokens(0), |a, b| a + b)
}

impl TokenThroughput {
    fn record(&self, tokens: Tokens, now: Moment) {
        self.rotate(now);
        self.current_tokens.fetch_add(tokens.0, Ordering::Relaxed);
    }

    /// Starts another window when it is time. Tokens recorded at that very moment may count for either.
    fn rotate(&self, now: Moment) {
        let window = window_number(now);
        let last = self.window.swap(window, Ordering::Relaxed);
        if last != window {
            let tokens = self.current_tokens.swap(0, Ordering::Relaxed);
            self.previous_tokens.store(if last + 1 == window { tokens } else { 0 }, Ordering::Relaxed);
        }
    }

    /// Returns the seconds that `tokens` take at the present throughput, 1 to 30; 1 if none is known.
    fn estimate_seconds(&self, tokens: Tokens, now: Moment) -> u64 {
        self.rotate(now);
        let ended = self.previous_tokens.load(Ordering::Relaxed) + self.current_tokens.load(Ordering::Relaxed);
        if ended == 0 {
            return 1;
        }
        let window_start = Moment::from_nanos(window_number(now).saturating_mul(nanos(THROUGHPUT_WINDOW)));
        let measured = nanos(THROUGHPUT_WINDOW) + nanos(now.since(window_start));
        let wait = u128::from(tokens.0) * u128::from(measured) / u128::from(ended) / 1_000_000_000;
        u64::try_from(wait).unwrap_or(MAX_RETRY_AFTER_SECONDS).clamp(1, MAX_RETRY_AFTER_SECONDS)
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
    fn limit_admits_its_maximum_and_one_more_after_a_release() {
        let limit = RequestLimit::default();
        assert!(limit.try_acquire(2) && limit.try_acquire(2) && !limit.try_acquire(2));
        limit.release();
        assert!(limit.try_acquire(2) && !limit.try_acquire(2));
    }

    #[test]
    fn retry_after_is_the_time_for_the_tokens_in_flight() {
        let throughput = TokenThroughput::default();
        assert_eq!(throughput.estimate_seconds(Tokens(1_000_000), moment_at(100)), 1, "no throughput is known");
        throughput.record(Tokens(1_000), moment_at(101));
        throughput.record(Tokens(1_000), moment_at(109));
        // 2,000 tokens in 20 s.
        assert_eq!(throughput.estimate_seconds(Tokens(1_200), moment_at(110)), 6);
        assert_eq!(throughput.estimate_seconds(Tokens(5), moment_at(110)), 1);
        assert_eq!(throughput.estimate_seconds(Tokens(1 << 60), moment_at(110)), 30);
        assert_eq!(throughput.estimate_seconds(Tokens(1_200), moment_at(130)), 1, "old windows do not count");
    }
}
