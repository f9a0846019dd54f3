//! Capacity: the load that replicas can serve, and the replicas that a load needs.

use std::fmt::Write;

use serde::Serialize;

use super::run::replay_trace;
use super::scenario::{ReplayError, Scenario};
use super::trace::Trace;
use crate::balance::PolicySpec;

/// Least goodput at which a load counts as served, in percent.
pub const GOODPUT_GOAL_PCT: f64 = 90.0;
/// The highest speed is found to within one part in this number.
const SPEED_PRECISION: f64 = 64.0;
/// Speeds are searched up to this factor above and below the first.
const MAX_SPEED_FACTOR: f64 = 4096.0;
/// Replicas are searched up to this number, or up to eight times the first if that is more.
const MAX_REPLICAS: usize = 64;

/// The capacity under one policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CapacityResult {
    /// The policy as written in the configuration.
    pub policy: String,
    /// The highest speed at which goodput is at least [`GOODPUT_GOAL_PCT`], to within a 64th. `None` if there is none.
    pub speed: Option<f64>,
    /// The fewest replicas that serve the scenario's own speed. `None` if more than 64, or eight times its own, are
    /// needed.
    pub replicas: Option<usize>,
}

impl CapacityResult {
    /// Returns a text table with a row per result.
    pub fn format_text(rows: &[Self]) -> String {
        let width = rows.iter().map(|row| row.policy.chars().count()).max().unwrap_or(0).max("policy".len());
        let mut out = format!("{:<width$}  {:>13}  {:>15}\n", "policy", "highest speed", "fewest replicas");
        for row in rows {
            let speed = row.speed.map_or("none".to_owned(), |speed| format!("{speed:.3}"));
            let replicas = row.replicas.map_or("more".to_owned(), |replicas| replicas.to_string());
            let _ = writeln!(out, "{:<width$}  {speed:>13}  {replicas:>15}", row.policy);
        }
        out
    }

    /// Returns CSV with a header; values that were not found are empty.
    pub fn format_csv(rows: &[Self]) -> String {
        let mut out = "policy,speed,replicas\n".to_owned();
        for Self { policy, speed, replicas } in rows {
            let speed = speed.map_or(String::new(), |speed| format!("{speed:.6}"));
            let replicas = replicas.map_or(String::new(), |replicas| replicas.to_string());
            let _ = writeln!(out, "{policy},{speed},{replicas}");
        }
        out
    }

    /// Returns a JSON array with an object per result; values that were not found are null.
    pub fn format_json(rows: &[Self]) -> String {
        serde_json::to_string_pretty(rows).expect("names and numbers can be written as JSON") + "\n"
    }
}

/// Returns the highest speed that the scenario's replicas serve, and the fewest replicas that serve its speed.
///
/// Both are found by bisection, which assumes that goodput falls with load and rises with replicas. If it crosses the
/// goal several times, one of the crossings is found. A closed loop of few sessions may serve any speed, so the search
/// ends at 4096 times the scenario's. `on_replay` is called after each replay.
///
/// *Errors*: as [`replay_trace`]. *Cost*: some twenty replays.
pub fn find_capacity(
    trace: &Trace,
    policy: &PolicySpec,
    scenario: &Scenario,
    on_replay: &mut dyn FnMut(),
) -> Result<CapacityResult, ReplayError> {
    let mut serves = |speed: f64, replicas: usize| {
        let scenario = Scenario { speed, replicas, ..scenario.clone() };
        let result = replay_trace(trace, policy, &scenario, &mut |_| ())?;
        on_replay();
        Ok(result.goodput_pct >= GOODPUT_GOAL_PCT)
    };
    let speed = find_max_speed(scenario.speed, |speed| serves(speed, scenario.replicas))?;
    let replicas = find_min_replicas(scenario.replicas, |replicas| serves(scenario.speed, replicas))?;
    Ok(CapacityResult { policy: policy.to_string(), speed, replicas })
}

/// Returns the highest speed for which `serves` is true, starting from a guess.
///
/// *Errors*: as `serves`.
fn find_max_speed(
    guess: f64,
    mut serves: impl FnMut(f64) -> Result<bool, ReplayError>,
) -> Result<Option<f64>, ReplayError> {
    let (mut low, mut high) = (guess, guess);
    if serves(guess)? {
        while high < guess * MAX_SPEED_FACTOR {
            high *= 2.0;
            if !serves(high)? {
                break;
            }
            low = high;
        }
    } else {
        loop {
            low /= 2.0;
            if low < guess / MAX_SPEED_FACTOR {
                return Ok(None);
            }
            if serves(low)? {
                break;
            }
            high = low;
        }
    }
    while high > low * (1.0 + 1.0 / SPEED_PRECISION) {
        let middle = (low * high).sqrt();
        *(if serves(middle)? { &mut low } else { &mut high }) = middle;
    }
    Ok(Some(low))
}

/// Returns the fewest replicas for which `serve` is true, starting from a guess.
///
/// *Errors*: as `serve`.
fn find_min_replicas(
    guess: usize,
    mut serve: impl FnMut(usize) -> Result<bool, ReplayError>,
) -> Result<Option<usize>, ReplayError> {
    let guess = guess.max(1);
    let max = MAX_REPLICAS.max(8 * guess);
    // After the first loop, `too_few` do not serve the load and `enough` do.
    let mut enough = guess;
    let mut too_few;
    if serve(guess)? {
        while enough > 1 && serve(enough / 2)? {
            enough /= 2;
        }
        too_few = if enough > 1 { enough / 2 } else { 0 };
    } else {
        loop {
            too_few = enough;
            enough = (2 * enough).min(max);
            if too_few == max {
                return Ok(None);
            }
            if serve(enough)? {
                break;
            }
        }
    }
    while enough - too_few > 1 {
        let middle = too_few + (enough - too_few) / 2;
        *(if serve(middle)? { &mut enough } else { &mut too_few }) = middle;
    }
    Ok(Some(enough))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn highest_speed_is_found_from_any_guess() {
        for guess in [0.01, 1.0, 2.5, 700.0] {
            let found = find_max_speed(guess, |speed| Ok(speed <= 2.5)).unwrap().unwrap();
            assert!((2.45..=2.5).contains(&found), "{found} from {guess}");
        }
        assert_eq!(find_max_speed(1.0, |_| Ok(false)).unwrap(), None);
    }

    #[test]
    fn fewest_replicas_are_found_from_any_guess() {
        for needed in [1, 2, 3, 7, 40, 64] {
            for guess in [1, 5, 8, 64] {
                assert_eq!(
                    find_min_replicas(guess, |replicas| Ok(replicas >= needed)).unwrap(),
                    Some(needed),
                    "from {guess}"
                );
            }
        }
        assert_eq!(find_min_replicas(8, |replicas| Ok(replicas > 64)).unwrap(), None);
    }
}
