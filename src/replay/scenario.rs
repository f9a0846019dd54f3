//! The scenario of a replay.

use std::time::Duration;

use thiserror::Error;

use crate::balance::{PolicyError, SeededRng};
use crate::engine::EngineModel;
use crate::units::Moment;

use super::trace::Trace;

/// Engines, speed and routers of a replay.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Replicas behind the routers.
    pub replicas: usize,
    /// The model of each replica's engine.
    pub engine_model: EngineModel,
    /// Speed of each replica as a multiple of the model's; repeated after the last. Empty for 1.
    pub engine_speeds: Vec<f64>,
    /// Speed of arrivals as a multiple of the recorded one; in a closed loop, sessions started per second.
    pub speed: f64,
    /// Routers that share nothing; each request goes to a random one.
    pub routers: usize,
    /// Time at which the routers restart without state; requests in flight continue.
    pub restart_at: Option<Duration>,
    /// The bounds of a good answer.
    pub slo: Slo,
    /// Seed of all random choices.
    pub seed: u64,
}

/// Attention time per pair of tokens, from the shape of an 8B model: 524,288 operations a pair (32 layers of 4,096,
/// four each) at 437 Tflop/s, somewhat below the rate of `prefill_token`. Not measured on an engine.
const ATTENTION_PAIR_TIME: Duration = Duration::from_nanos(1_200);

/// The bounds of a good answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slo {
    /// Longest time to the first token.
    pub ttft: Duration,
    /// Longest mean time between two tokens.
    pub tpot: Duration,
}

/// An invalid scenario.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The policy does not support the replicas.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The fleet cannot be created.
    #[error("{0}")]
    Fleet(String),
    /// The speed is not a positive number.
    #[error("speed must be above 0, not {0}")]
    Speed(f64),
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            replicas: 8,
            engine_model: EngineModel { attention_time: ATTENTION_PAIR_TIME, ..EngineModel::default() },
            engine_speeds: Vec::new(),
            speed: 1.0,
            routers: 1,
            restart_at: None,
            slo: Slo { ttft: Duration::from_secs(2), tpot: Duration::from_millis(50) },
            seed: 1,
        }
    }
}

impl Scenario {
    /// Returns the engine model of the replica with this index.
    pub(super) fn replica_model(&self, replica: usize) -> EngineModel {
        let speeds = &self.engine_speeds;
        let speed = replica.checked_rem(speeds.len()).and_then(|index| speeds.get(index)).copied().unwrap_or(1.0);
        EngineModel { speed: self.engine_model.speed * speed, ..self.engine_model }
    }

    /// Returns the times and indices of the requests that wait for no other: as recorded, or random in a closed loop.
    pub(super) fn schedule_starts(&self, trace: &Trace, rng: &mut SeededRng) -> Vec<(Moment, usize)> {
        let mut now = 0.0;
        let start = |index: &usize| {
            let recorded = trace.requests().get(*index).map_or(0.0, |request| request.sent_at.as_secs_f64());
            if trace.is_closed_loop() {
                now -= sample_unit(rng).ln() / self.speed;
            } else {
                now = recorded / self.speed;
            }
            (Moment::ZERO + Duration::try_from_secs_f64(now).unwrap_or(Duration::MAX), *index)
        };
        trace.start_indices().iter().map(start).collect()
    }
}

/// Returns a uniform number above 0 and up to 1.
pub(super) fn sample_unit(rng: &mut SeededRng) -> f64 {
    ((rng.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64
}
