//! Collects the statistics of a replay.

use std::time::Duration;

use crate::units::Moment;

use super::result::{ReplayCounts, ReplayResult};
use super::scenario::{Scenario, Slo};

/// Share of requests, in order of arrival, that are not measured: caches fill meanwhile.
const WARM_UP_PERCENT: usize = 15;

/// The times and tokens of one answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerTimes {
    pub(super) sent_at: Moment,
    pub(super) first_token_at: Moment,
    pub(super) last_token_at: Moment,
    pub(super) prompt_tokens: u64,
    pub(super) cached_tokens: u64,
    pub(super) output_tokens: u64,
}

/// The tokens in flight on one replica.
#[derive(Clone, Copy, Debug, Default)]
struct InFlightTokens {
    tokens: u64,
    updated_at: Moment,
    /// Tokens in flight integrated over time.
    token_nanoseconds: u128,
}

/// Collects the statistics of a replay.
#[derive(Debug)]
pub(super) struct StatsCollector {
    slo: Slo,
    warm_up_requests: usize,
    sent: usize,
    measured: u64,
    refused: u64,
    ttft_seconds: Vec<f64>,
    tpot_sum_and_count: (f64, u64),
    e2e_seconds_sum: f64,
    prompt_tokens: u64,
    cached_tokens: u64,
    within_slo: u64,
    in_flight: Vec<InFlightTokens>,
}

impl InFlightTokens {
    fn advance_to(&mut self, now: Moment) {
        self.token_nanoseconds += u128::from(self.tokens) * now.since(self.updated_at).as_nanos();
        self.updated_at = now;
    }
}

impl StatsCollector {
    pub(super) fn new(requests: usize, scenario: &Scenario) -> Self {
        Self {
            slo: scenario.slo,
            warm_up_requests: (requests * WARM_UP_PERCENT).div_ceil(100),
            sent: 0,
            measured: 0,
            refused: 0,
            ttft_seconds: Vec::with_capacity(requests),
            tpot_sum_and_count: (0.0, 0),
            e2e_seconds_sum: 0.0,
            prompt_tokens: 0,
            cached_tokens: 0,
            within_slo: 0,
            in_flight: vec![InFlightTokens::default(); scenario.replicas.max(1)],
        }
    }

    /// Records an arrival. Returns whether the request is measured.
    pub(super) fn record_arrival(&mut self, now: Moment) -> bool {
        let is_measured = self.sent >= self.warm_up_requests;
        if self.sent == self.warm_up_requests {
            for replica in &mut self.in_flight {
                replica.advance_to(now);
                replica.token_nanoseconds = 0;
            }
        }
        self.sent += 1;
        self.measured += u64::from(is_measured);
        is_measured
    }

    /// Records a refused request.
    pub(super) fn record_refusal(&mut self) {
        self.refused += 1;
    }

    /// Adds tokens in flight on a replica.
    pub(super) fn add_in_flight(&mut self, replica: usize, tokens: u64, now: Moment) {
        if let Some(replica) = self.in_flight.get_mut(replica) {
            replica.advance_to(now);
            replica.tokens += tokens;
        }
    }

    /// Removes tokens in flight on a replica.
    pub(super) fn remove_in_flight(&mut self, replica: usize, tokens: u64, now: Moment) {
        if let Some(replica) = self.in_flight.get_mut(replica) {
            replica.advance_to(now);
            replica.tokens = replica.tokens.saturating_sub(tokens);
        }
    }

    /// Records the answer to a measured request.
    pub(super) fn record_answer(&mut self, answer: &AnswerTimes) {
        let ttft = answer.first_token_at.since(answer.sent_at);
        let intervals = u32::try_from(answer.output_tokens.saturating_sub(1)).unwrap_or(u32::MAX);
        let tpot = answer.last_token_at.since(answer.first_token_at).checked_div(intervals);
        self.ttft_seconds.push(ttft.as_secs_f64());
        if let Some(tpot) = tpot {
            self.tpot_sum_and_count.0 += tpot.as_secs_f64();
            self.tpot_sum_and_count.1 += 1;
        }
        self.e2e_seconds_sum += answer.last_token_at.since(answer.sent_at).as_secs_f64();
        self.prompt_tokens += answer.prompt_tokens;
        self.cached_tokens += answer.cached_tokens;
        self.within_slo += u64::from(ttft < self.slo.ttft && tpot.unwrap_or(Duration::ZERO) < self.slo.tpot);
    }

    /// Returns the result; `counts` has the counts of the engines.
    pub(super) fn into_result(mut self, policy: String, counts: ReplayCounts) -> ReplayResult {
        self.ttft_seconds.sort_by(f64::total_cmp);
        let answered = self.ttft_seconds.len() as f64;
        let loads: Vec<f64> = self.in_flight.iter().map(|replica| replica.token_nanoseconds as f64).collect();
        let busiest = loads.iter().copied().fold(0.0, f64::max);
        ReplayResult {
            policy,
            ttft_mean_s: ratio(self.ttft_seconds.iter().sum(), answered),
            ttft_p50_s: percentile(&self.ttft_seconds, 50),
            ttft_p99_s: percentile(&self.ttft_seconds, 99),
            tpot_mean_s: ratio(self.tpot_sum_and_count.0, self.tpot_sum_and_count.1 as f64),
            e2e_mean_s: ratio(self.e2e_seconds_sum, answered),
            hit_pct: 100.0 * ratio(self.cached_tokens as f64, self.prompt_tokens as f64),
            imbalance: ratio(busiest * loads.len() as f64, loads.iter().sum()),
            goodput_pct: 100.0 * ratio(self.within_slo as f64, self.measured as f64),
            counts: ReplayCounts { measured: self.measured, refused: self.refused, ..counts },
            replica_work: Vec::new(),
        }
    }
}

/// Returns the quotient; 0 if the divisor is 0.
fn ratio(dividend: f64, divisor: f64) -> f64 {
    if divisor > 0.0 { dividend / divisor } else { 0.0 }
}

/// Returns a percentile by nearest rank; 0 without values.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}
