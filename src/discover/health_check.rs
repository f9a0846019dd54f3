//! Asking replicas whether they are well, and looking for those from which nothing comes.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use reqwest::header::CONTENT_TYPE;

use crate::clock::Clock;
use crate::fleet::{Fleet, HealthCheck, HealthTransition, Pool, Replica};
use crate::telemetry::{ErrorLog, LogLevel};

/// How often pools are looked at for replicas from which nothing comes.
const STALL_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A replica to ask on behalf of one pool.
pub(super) struct HealthChecker {
    pub(super) replica: Arc<Replica>,
    pool: Arc<Pool>,
    check: HealthCheck,
}

impl HealthChecker {
    /// Every replica of every pool that wants it checked, those aside that are never chosen.
    pub(super) fn from_fleet(fleet: &Fleet) -> Vec<Self> {
        let of = |pool: Arc<Pool>| -> Vec<Self> {
            let Some(check) = pool.spec().failure_policy.health_check.clone() else { return Vec::new() };
            let members = pool.replicas().zip(&pool.spec().members).filter(|(_, spec)| !spec.down);
            let one = |(replica, _): (&Arc<Replica>, _)| Self {
                replica: replica.clone(),
                pool: pool.clone(),
                check: check.clone(),
            };
            members.map(one).collect()
        };
        fleet.pools().into_iter().flat_map(of).collect()
    }

    /// Asks for ever.
    pub(super) async fn poll(self, client: reqwest::Client, log: Arc<ErrorLog>, clock: Clock) {
        let HealthCheck { interval: every, timeout, .. } = self.check;
        loop {
            let found = self.probe_once(&client).await;
            let now = clock.now();
            // An engine may be too busy to say that it is well.
            let works = found.is_err() && self.replica.is_active_within(every + timeout, now);
            let passed = works || found.is_ok();
            if let Some(turn) = self.pool.record_check(self.replica.id(), &self.check, passed, now) {
                log_transition(&log, &self.pool, &turn, found.err().as_deref());
            }
            tokio::time::sleep(every).await;
        }
    }

    /// Asks once.
    ///
    /// *Errors*: how the answer is not as it should be.
    async fn probe_once(&self, client: &reqwest::Client) -> Result<(), String> {
        let HealthCheck { path, timeout, status, model, .. } = &self.check;
        let method = if model.is_some() { Method::POST } else { Method::GET };
        let mut request = super::build_request(client, (method, self.replica.origin()), path, self.pool.api_key());
        if let Some(model) = model {
            request = request.header(CONTENT_TYPE, "application/json").body(build_token_request(path, model.as_str()));
        }
        let answer = request.timeout(*timeout).send().await.map_err(|error| match error.is_timeout() {
            true => format!("no answer within {timeout:?}"),
            false => super::root_cause(&error),
        })?;
        let found = answer.status();
        let good = status.map_or(found.is_success(), |wanted| found.as_u16() == wanted);
        if good { Ok(()) } else { Err(format!("{path} answered {found}")) }
    }
}

/// A request for one token, as the path takes it.
fn build_token_request(path: &str, model: &str) -> String {
    let mut body = serde_json::json!({ "model": model, "max_tokens": 1 });
    if path.contains("/chat/") || path.ends_with("/messages") {
        body["messages"] = serde_json::json!([{ "role": "user", "content": "1" }]);
    } else {
        body["prompt"] = "1".into();
    }
    body.to_string()
}

/// Looks every second, for ever, for replicas that have taken requests and from which nothing comes.
pub async fn watch_stalls(fleet: &Fleet, log: &ErrorLog, clock: Clock) {
    loop {
        tokio::time::sleep(STALL_CHECK_INTERVAL).await;
        for pool in fleet.pools() {
            for turn in pool.detect_stalls(clock.now()) {
                log_transition(log, &pool, &turn, Some("requests wait on it and nothing comes, while others answer"));
            }
        }
    }
}

fn log_transition(log: &ErrorLog, pool: &Pool, turn: &HealthTransition, why: Option<&str>) {
    let (replica, pool, cause) = (&turn.replica, pool.name(), turn.cause.as_str());
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    if turn.ejected {
        log.write(LogLevel::Warn, format_args!("replica {replica} of pool {pool} is left alone ({cause}){why}"));
    } else {
        log.write(LogLevel::Info, format_args!("replica {replica} of pool {pool} is back ({cause})"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_asked_for_as_the_path_takes_it() {
        assert_eq!(build_token_request("/v1/completions", "a\"b"), r#"{"max_tokens":1,"model":"a\"b","prompt":"1"}"#);
        assert!(
            build_token_request("/v1/chat/completions", "m").contains(r#""messages":[{"content":"1","role":"user"}]"#)
        );
    }
}
