//! Health checks, and the detection of stalled replicas.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use reqwest::header::CONTENT_TYPE;

use super::probe_client::{ProbeClient, root_cause};
use crate::clock::Clock;
use crate::fleet::{Fleet, HealthCheck, HealthTransition, Pool, Replica};
use crate::telemetry::{ErrorLog, LogLevel};

/// How often pools are checked for stalled replicas.
const STALL_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Checks the health of one replica for one pool.
pub(super) struct HealthChecker {
    pub(super) replica: Arc<Replica>,
    pool: Arc<Pool>,
    check: HealthCheck,
}

impl HealthChecker {
    /// Returns a checker for each replica of each pool with a health check; those configured as `down` are left out.
    pub(super) fn from_fleet(fleet: &Fleet) -> Vec<Self> {
        let for_pool = |pool: Arc<Pool>| -> Vec<Self> {
            let Some(check) = pool.spec().failure_policy.health_check.clone() else { return Vec::new() };
            let members = pool.replicas().zip(&pool.spec().members).filter(|(_, spec)| !spec.down);
            let build = |(replica, _): (&Arc<Replica>, _)| Self {
                replica: replica.clone(),
                pool: pool.clone(),
                check: check.clone(),
            };
            members.map(build).collect()
        };
        fleet.pools().into_iter().flat_map(for_pool).collect()
    }

    /// Checks the replica at intervals until it is dropped.
    pub(super) async fn poll(self, client: ProbeClient, log: Arc<ErrorLog>, clock: Clock) {
        let HealthCheck { interval, timeout, .. } = self.check;
        loop {
            let result = self.probe_once(&client).await;
            let now = clock.now();
            // An engine that generates may be too busy to respond to the check.
            let is_busy = result.is_err() && self.replica.is_active_within(interval + timeout, now);
            let passed = is_busy || result.is_ok();
            if let Some(transition) = self.pool.record_check(self.replica.id(), &self.check, passed, now) {
                log_transition(&log, &self.pool, &transition, result.err().as_deref());
            }
            tokio::time::sleep(interval).await;
        }
    }

    /// Sends one health check.
    ///
    /// *Errors*: no response, or one with another status than expected.
    async fn probe_once(&self, client: &ProbeClient) -> Result<(), String> {
        let HealthCheck { path, timeout, status, model, .. } = &self.check;
        let method = if model.is_some() { Method::POST } else { Method::GET };
        let mut request = client.request(method, path, self.pool.api_key());
        if let Some(model) = model {
            request = request.header(CONTENT_TYPE, "application/json").body(build_token_request(path, model.as_str()));
        }
        let response = request.timeout(*timeout).send().await.map_err(|error| match error.is_timeout() {
            true => format!("no response within {timeout:?}"),
            false => root_cause(&error),
        })?;
        let found = response.status();
        let is_expected = status.map_or(found.is_success(), |expected| found.as_u16() == expected);
        if is_expected { Ok(()) } else { Err(format!("{path} returned {found}")) }
    }
}

/// Returns the body of a request for one token, in the format of `path`.
fn build_token_request(path: &str, model: &str) -> String {
    let mut body = serde_json::json!({ "model": model, "max_tokens": 1 });
    if path.contains("/chat/") || path.ends_with("/messages") {
        body["messages"] = serde_json::json!([{ "role": "user", "content": "1" }]);
    } else {
        body["prompt"] = "1".into();
    }
    body.to_string()
}

/// Checks every second, until it is dropped, for replicas that have requests and send no data.
pub async fn watch_stalls(fleet: &Fleet, log: &ErrorLog, clock: Clock) {
    loop {
        tokio::time::sleep(STALL_CHECK_INTERVAL).await;
        for pool in fleet.pools() {
            for transition in pool.detect_stalls(clock.now()) {
                let details = "requests pending, no data, other replicas respond";
                log_transition(log, &pool, &transition, Some(details));
            }
        }
    }
}

fn log_transition(log: &ErrorLog, pool: &Pool, transition: &HealthTransition, details: Option<&str>) {
    let HealthTransition { replica, cause, .. } = transition;
    let (pool, cause) = (pool.name(), cause.as_str());
    if transition.ejected {
        let details = details.map(|details| format!(" ({details})")).unwrap_or_default();
        log.write(LogLevel::Warn, format_args!("replica {replica} ejected from pool {pool}: {cause}{details}"));
    } else {
        log.write(LogLevel::Info, format_args!("replica {replica} is back in pool {pool} ({cause})"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_request_has_the_format_of_its_path() {
        assert_eq!(build_token_request("/v1/completions", "a\"b"), r#"{"max_tokens":1,"model":"a\"b","prompt":"1"}"#);
        assert!(
            build_token_request("/v1/chat/completions", "m").contains(r#""messages":[{"content":"1","role":"user"}]"#)
        );
    }
}
