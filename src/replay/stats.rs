//! Gathers what a replay comes to.

use std::time::Duration;

use crate::units::Moment;

use super::result::{ReplayCounts, ReplayResult};
use super::scenario::{Scenario, Slo};

/// Of a hundred requests, in the order in which they come, so many are left out of the figures: caches fill meanwhile.
const WARM_UP_PERCENT: usize = 15;

/// One answer.
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
    /// Tokens times nanoseconds.
    token_nanoseconds: u128,
}

/// Gathers what a replay comes to.
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

    /// A request has come; returns whether it is measured.
    pub(super) fn record_arrival(&mut self, now: Moment) -> bool {
        let measures = self.sent >= self.warm_up_requests;
        if self.sent == self.warm_up_requests {
            for replica in &mut self.in_flight {
                replica.advance_to(now);
                replica.token_nanoseconds = 0;
            }
        }
        self.sent += 1;
        self.measured += u64::from(measures);
        measures
    }

    /// No engine could take a request.
    pub(super) fn record_refusal(&mut self) {
        self.refused += 1;
    }

    /// `more` tokens are on a replica.
    pub(super) fn add_in_flight(&mut self, replica: usize, more: u64, now: Moment) {
        if let Some(replica) = self.in_flight.get_mut(replica) {
            replica.advance_to(now);
            replica.tokens += more;
        }
    }

    /// `fewer` tokens are on a replica.
    pub(super) fn remove_in_flight(&mut self, replica: usize, fewer: u64, now: Moment) {
        if let Some(replica) = self.in_flight.get_mut(replica) {
            replica.advance_to(now);
            replica.tokens = replica.tokens.saturating_sub(fewer);
        }
    }

    /// A measured request has had its answer.
    pub(super) fn record_answer(&mut self, answer: &AnswerTimes) {
        let ttft = answer.first_token_at.since(answer.sent_at);
        let gaps = u32::try_from(answer.output_tokens.saturating_sub(1)).unwrap_or(u32::MAX);
        let tpot = answer.last_token_at.since(answer.first_token_at).checked_div(gaps);
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

    /// What it comes to; `counts` says what the engines have done.
    pub(super) fn into_result(mut self, policy: String, counts: ReplayCounts) -> ReplayResult {
        self.ttft_seconds.sort_by(f64::total_cmp);
        let answered = self.ttft_seconds.len() as f64;
        let areas: Vec<f64> = self.in_flight.iter().map(|replica| replica.token_nanoseconds as f64).collect();
        let busiest = areas.iter().copied().fold(0.0, f64::max);
        ReplayResult {
            policy,
            ttft_mean_s: ratio(self.ttft_seconds.iter().sum(), answered),
            ttft_p50_s: percentile(&self.ttft_seconds, 50),
            ttft_p99_s: percentile(&self.ttft_seconds, 99),
            tpot_mean_s: ratio(self.tpot_sum_and_count.0, self.tpot_sum_and_count.1 as f64),
            e2e_mean_s: ratio(self.e2e_seconds_sum, answered),
            hit_pct: 100.0 * ratio(self.cached_tokens as f64, self.prompt_tokens as f64),
            imbalance: ratio(busiest * areas.len() as f64, areas.iter().sum()),
            goodput_pct: 100.0 * ratio(self.within_slo as f64, self.measured as f64),
            counts: ReplayCounts { measured: self.measured, refused: self.refused, ..counts },
            replica_work: Vec::new(),
        }
    }
}

/// 0 if there is nothing to divide by.
fn ratio(of: f64, by: f64) -> f64 {
    if by > 0.0 { of / by } else { 0.0 }
}

/// By nearest rank; 0 of nothing.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}
