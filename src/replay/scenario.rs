//! What a trace is replayed against.

use std::time::Duration;

use thiserror::Error;

use crate::balance::{PolicyError, SeededRng};
use crate::engine::EngineModel;
use crate::units::Moment;

use super::trace::Trace;

/// What a trace is replayed against, and how fast.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Replicas behind the routers.
    pub replicas: usize,
    /// What each of them can do.
    pub engine_model: EngineModel,
    /// How many times faster each replica is than its constants; begun again behind the last. Empty: 1.
    pub engine_speeds: Vec<f64>,
    /// How many times faster than recorded requests arrive; of a closed loop, sessions begun per second.
    pub speed: f64,
    /// Routers that share nothing; each request comes to one of them by chance.
    pub routers: usize,
    /// When the routers are begun anew, knowing nothing; what is on its way stays there.
    pub restart_at: Option<Duration>,
    /// What a good answer is.
    pub slo: Slo,
    /// Makes chance repeatable.
    pub seed: u64,
}

/// By the shape of an 8B model: 524,288 operations a pair (32 layers of 4,096, four each), at 437 Tflop/s, somewhat below
/// the rate that `prefill_token` stands for. Not measured on an engine.
const ATTENTION_PAIR_TIME: Duration = Duration::from_nanos(1_200);

/// How fast an answer has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slo {
    /// Longest time to the first token.
    pub ttft: Duration,
    /// Longest mean time between two tokens.
    pub tpot: Duration,
}

/// Why nothing can be replayed.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The policy cannot be made for the replicas.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The fleet cannot be made.
    #[error("{0}")]
    Fleet(String),
    /// The speed is no positive number.
    #[error("a speed of {0} is not above 0")]
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
    /// What the replica at `at` can do.
    pub(super) fn replica_model(&self, at: usize) -> EngineModel {
        let speeds = &self.engine_speeds;
        let speed = at.checked_rem(speeds.len()).and_then(|at| speeds.get(at)).copied().unwrap_or(1.0);
        EngineModel { speed: self.engine_model.speed * speed, ..self.engine_model }
    }

    /// When the requests that wait for no other are sent: as recorded, or, in a closed loop, by chance.
    pub(super) fn schedule_starts(&self, trace: &Trace, dice: &mut SeededRng) -> Vec<(Moment, usize)> {
        let mut now = 0.0;
        let start = |at: &usize| {
            let recorded = trace.requests().get(*at).map_or(0.0, |request| request.sent_at.as_secs_f64());
            if trace.is_closed_loop() {
                now -= sample_unit(dice).ln() / self.speed;
            } else {
                now = recorded / self.speed;
            }
            (Moment::ZERO + Duration::try_from_secs_f64(now).unwrap_or(Duration::MAX), *at)
        };
        trace.start_indices().iter().map(start).collect()
    }
}

/// Uniform, above 0 and up to 1.
pub(super) fn sample_unit(dice: &mut SeededRng) -> f64 {
    ((dice.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64
}
