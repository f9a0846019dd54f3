//! How much load replicas bear, and how many replicas a load needs.

use std::fmt::Write;

use serde::Serialize;

use crate::balance::PolicySpec;

use super::run::replay_trace;
use super::scenario::{ReplayError, Scenario};
use super::trace::Trace;

/// The share of good answers that counts as bearing a load.
pub const GOODPUT_GOAL_PCT: f64 = 90.0;
/// The highest speed is found to within one in so many.
const SPEED_PRECISION: f64 = 64.0;
/// No load is looked at that is more than so many times higher or lower.
const MAX_SPEED_FACTOR: f64 = 4096.0;
/// No more replicas are tried than this, or than eight times those there are.
const MAX_REPLICAS: usize = 64;

/// What a policy makes of a number of replicas.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CapacityResult {
    /// The policy as it is written.
    pub policy: String,
    /// The highest speed that the replicas bear: that goodput is at least [`GOODPUT_GOAL_PCT`], and not a 64th above. `None`:
    /// they bear none.
    pub speed: Option<f64>,
    /// The fewest replicas that bear the scenario's own speed. `None`: not even 64, or eight times as many as there are.
    pub replicas: Option<usize>,
}

impl CapacityResult {
    /// A table for people, a row each.
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

    /// CSV with a line of names; what was not found is empty.
    pub fn format_csv(rows: &[Self]) -> String {
        let mut out = "policy,speed,replicas\n".to_owned();
        for Self { policy, speed, replicas } in rows {
            let speed = speed.map_or(String::new(), |speed| format!("{speed:.6}"));
            let replicas = replicas.map_or(String::new(), |replicas| replicas.to_string());
            let _ = writeln!(out, "{policy},{speed},{replicas}");
        }
        out
    }

    /// A JSON array with an object a row; what was not found is null.
    pub fn format_json(rows: &[Self]) -> String {
        serde_json::to_string_pretty(rows).expect("names and numbers can be written as JSON") + "\n"
    }
}

/// Searches for the highest speed that the scenario's replicas bear and for the fewest replicas that bear its speed.
///
/// A closed loop of few sessions may bear any speed; none is looked at above 4096 times the scenario's. Both by bisection, as if goodput fell with load and rose with replicas throughout; where it wavers around the goal,
/// one of the places where it crosses it is found. `ran` is called after each replay. *Errors*: as [`replay_trace`]. *Cost*:
/// some twenty replays.
pub fn find_capacity(
    trace: &Trace,
    policy: &PolicySpec,
    scenario: &Scenario,
    ran: &mut dyn FnMut(),
) -> Result<CapacityResult, ReplayError> {
    let mut bears = |speed: f64, replicas: usize| {
        let scenario = Scenario { speed, replicas, ..scenario.clone() };
        let figures = replay_trace(trace, policy, &scenario, &mut |_| ())?;
        ran();
        Ok(figures.goodput_pct >= GOODPUT_GOAL_PCT)
    };
    let speed = find_max_speed(scenario.speed, |speed| bears(speed, scenario.replicas))?;
    let replicas = find_min_replicas(scenario.replicas, |replicas| bears(scenario.speed, replicas))?;
    Ok(CapacityResult { policy: policy.to_string(), speed, replicas })
}

/// The highest speed that `bears`, from a first guess.
fn find_max_speed(
    guess: f64,
    mut bears: impl FnMut(f64) -> Result<bool, ReplayError>,
) -> Result<Option<f64>, ReplayError> {
    let (mut low, mut high) = (guess, guess);
    if bears(guess)? {
        while high < guess * MAX_SPEED_FACTOR {
            high *= 2.0;
            if !bears(high)? {
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
            if bears(low)? {
                break;
            }
            high = low;
        }
    }
    while high > low * (1.0 + 1.0 / SPEED_PRECISION) {
        let middle = (low * high).sqrt();
        *(if bears(middle)? { &mut low } else { &mut high }) = middle;
    }
    Ok(Some(low))
}

/// The fewest replicas that `bear`, from a first guess.
fn find_min_replicas(
    guess: usize,
    mut bear: impl FnMut(usize) -> Result<bool, ReplayError>,
) -> Result<Option<usize>, ReplayError> {
    let guess = guess.max(1);
    let most = MAX_REPLICAS.max(8 * guess);
    // `too_few` are too few and `enough` enough once the first loops are over.
    let mut enough = guess;
    let mut too_few;
    if bear(guess)? {
        while enough > 1 && bear(enough / 2)? {
            enough /= 2;
        }
        too_few = if enough > 1 { enough / 2 } else { 0 };
    } else {
        loop {
            too_few = enough;
            enough = (2 * enough).min(most);
            if too_few == most {
                return Ok(None);
            }
            if bear(enough)? {
                break;
            }
        }
    }
    while enough - too_few > 1 {
        let middle = too_few + (enough - too_few) / 2;
        *(if bear(middle)? { &mut enough } else { &mut too_few }) = middle;
    }
    Ok(Some(enough))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_speed_is_found_from_any_guess() {
        for guess in [0.01, 1.0, 2.5, 700.0] {
            let found = find_max_speed(guess, |speed| Ok(speed <= 2.5)).unwrap().unwrap();
            assert!((2.45..=2.5).contains(&found), "{found} from {guess}");
        }
        assert_eq!(find_max_speed(1.0, |_| Ok(false)).unwrap(), None);
    }

    #[test]
    fn the_fewest_replicas_are_found_from_any_guess() {
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
