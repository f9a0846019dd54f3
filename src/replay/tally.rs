//! Gathers what a replay comes to.

use std::time::Duration;

use crate::units::Moment;

use super::figures::{Counts, Figures};
use super::scenario::{Scenario, Slo};

/// Of a hundred requests, in the order in which they come, so many are left out of the figures: caches fill meanwhile.
const WARM_UP: usize = 15;

/// One answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) sent: Moment,
    pub(super) first: Moment,
    pub(super) last: Moment,
    pub(super) prompt: u64,
    pub(super) cached: u64,
    pub(super) output: u64,
}

/// The tokens in flight on one replica.
#[derive(Clone, Copy, Debug, Default)]
struct InFlight {
    tokens: u64,
    since: Moment,
    /// Tokens times nanoseconds.
    area: u128,
}

/// Gathers what a replay comes to.
#[derive(Debug)]
pub(super) struct Tally {
    slo: Slo,
    warm_up: usize,
    sent: usize,
    measured: u64,
    refused: u64,
    ttft: Vec<f64>,
    tpot: (f64, u64),
    e2e: f64,
    prompt: u64,
    cached: u64,
    good: u64,
    in_flight: Vec<InFlight>,
}

impl InFlight {
    fn pass(&mut self, now: Moment) {
        self.area += u128::from(self.tokens) * now.since(self.since).as_nanos();
        self.since = now;
    }
}

impl Tally {
    pub(super) fn new(requests: usize, scenario: &Scenario) -> Self {
        Self {
            slo: scenario.slo,
            warm_up: (requests * WARM_UP).div_ceil(100),
            sent: 0,
            measured: 0,
            refused: 0,
            ttft: Vec::with_capacity(requests),
            tpot: (0.0, 0),
            e2e: 0.0,
            prompt: 0,
            cached: 0,
            good: 0,
            in_flight: vec![InFlight::default(); scenario.replicas.max(1)],
        }
    }

    /// A request has come; returns whether it is measured.
    pub(super) fn arrive(&mut self, now: Moment) -> bool {
        let measures = self.sent >= self.warm_up;
        if self.sent == self.warm_up {
            for replica in &mut self.in_flight {
                replica.pass(now);
                replica.area = 0;
            }
        }
        self.sent += 1;
        self.measured += u64::from(measures);
        measures
    }

    /// No engine could take a request.
    pub(super) fn refuse(&mut self) {
        self.refused += 1;
    }

    /// `more` tokens are on a replica.
    pub(super) fn grow(&mut self, replica: usize, more: u64, now: Moment) {
        if let Some(replica) = self.in_flight.get_mut(replica) {
            replica.pass(now);
            replica.tokens += more;
        }
    }

    /// `fewer` tokens are on a replica.
    pub(super) fn shrink(&mut self, replica: usize, fewer: u64, now: Moment) {
        if let Some(replica) = self.in_flight.get_mut(replica) {
            replica.pass(now);
            replica.tokens = replica.tokens.saturating_sub(fewer);
        }
    }

    /// A measured request has had its answer.
    pub(super) fn answer(&mut self, answer: &Answer) {
        let ttft = answer.first.since(answer.sent);
        let gaps = u32::try_from(answer.output.saturating_sub(1)).unwrap_or(u32::MAX);
        let tpot = answer.last.since(answer.first).checked_div(gaps);
        self.ttft.push(ttft.as_secs_f64());
        if let Some(tpot) = tpot {
            self.tpot.0 += tpot.as_secs_f64();
            self.tpot.1 += 1;
        }
        self.e2e += answer.last.since(answer.sent).as_secs_f64();
        self.prompt += answer.prompt;
        self.cached += answer.cached;
        self.good += u64::from(ttft < self.slo.ttft && tpot.unwrap_or(Duration::ZERO) < self.slo.tpot);
    }

    /// What it comes to; `counts` says what the engines have done.
    pub(super) fn finish(mut self, policy: String, counts: Counts) -> Figures {
        self.ttft.sort_by(f64::total_cmp);
        let answered = self.ttft.len() as f64;
        let areas: Vec<f64> = self.in_flight.iter().map(|replica| replica.area as f64).collect();
        let busiest = areas.iter().copied().fold(0.0, f64::max);
        Figures {
            policy,
            ttft_mean_s: ratio(self.ttft.iter().sum(), answered),
            ttft_p50_s: percentile(&self.ttft, 50),
            ttft_p99_s: percentile(&self.ttft, 99),
            tpot_mean_s: ratio(self.tpot.0, self.tpot.1 as f64),
            e2e_mean_s: ratio(self.e2e, answered),
            hit_pct: 100.0 * ratio(self.cached as f64, self.prompt as f64),
            imbalance: ratio(busiest * areas.len() as f64, areas.iter().sum()),
            goodput_pct: 100.0 * ratio(self.good as f64, self.measured as f64),
            counts: Counts { measured: self.measured, refused: self.refused, ..counts },
            work: Vec::new(),
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
