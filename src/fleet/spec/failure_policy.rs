//! How a pool handles replicas that fail, as plain data.

use std::time::Duration;

use crate::fleet::RetryBudgetLimits;
use crate::units::ModelName;

/// How a pool handles replicas that fail, in addition to `max_fails` and `fail_timeout`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailurePolicy {
    /// Limits of the retry budget.
    pub retry_limits: RetryBudgetLimits,
    /// Time beyond the expected one after which a silent replica is ejected as stalled; `None` for never.
    pub stall_timeout: Option<Duration>,
    /// Active health checks; `None` for none.
    pub health_check: Option<HealthCheck>,
}

/// An active health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The path to request, after the origin's prefix.
    pub path: String,
    /// Time between two checks.
    pub interval: Duration,
    /// Time limit for the whole response.
    pub timeout: Duration,
    /// Consecutive passes that readmit a replica.
    pub rise: u32,
    /// Consecutive failures that eject it.
    pub fall: u32,
    /// The status that passes; `None` for any from 200 to 299.
    pub status: Option<u16>,
    /// The model of which one token is requested by POST to `path`; `None` for a GET.
    pub model: Option<ModelName>,
}

impl Default for FailurePolicy {
    /// Retries for a fifth of the requests, a stall timeout of 30 s, no health checks.
    fn default() -> Self {
        Self {
            retry_limits: RetryBudgetLimits::default(),
            stall_timeout: Some(Duration::from_secs(30)),
            health_check: None,
        }
    }
}

impl Default for HealthCheck {
    /// `GET /health` every 5 s with a timeout of 2 s; three failures eject, two passes readmit.
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
