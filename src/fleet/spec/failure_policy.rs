//! What a pool does about replicas that fail, as plain data.

use std::time::Duration;

use crate::fleet::RetryBudgetLimits;
use crate::units::ModelName;

/// What a pool does about replicas that fail, besides `max_fails` and `fail_timeout`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailurePolicy {
    /// How often its requests may be sent a second time.
    pub retry_limits: RetryBudgetLimits,
    /// How much longer than is to be expected a replica with requests may be silent while others are not; `None` for ever.
    pub stall_timeout: Option<Duration>,
    /// How its replicas are asked whether they are well; `None`: they are not.
    pub health_check: Option<HealthCheck>,
}

/// How a replica is asked whether it is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked for, behind the origin's prefix.
    pub path: String,
    /// The time from one question to the next.
    pub interval: Duration,
    /// The time for the whole answer.
    pub timeout: Duration,
    /// Good answers in a row that bring a replica back.
    pub rise: u32,
    /// Bad ones in a row that take it out.
    pub fall: u32,
    /// The status of a good answer; `None` for any from 200 to 299.
    pub status: Option<u16>,
    /// The model that a token is asked of, by POST to `path`; `None`: `path` is asked for by GET.
    pub model: Option<ModelName>,
}

impl Default for FailurePolicy {
    /// A replay for a fifth of the requests, 30 s of silence, no checks.
    fn default() -> Self {
        Self {
            retry_limits: RetryBudgetLimits::default(),
            stall_timeout: Some(Duration::from_secs(30)),
            health_check: None,
        }
    }
}

impl Default for HealthCheck {
    /// `GET /health` every 5 s within 2 s; three bad answers take out, two good ones bring back.
    fn default() -> Self {
        Self {
            path: "/health".to_owned(),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
            status: None,
            model: None,
        }
    }
}
