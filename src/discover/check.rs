//! Asking replicas whether they are well, and looking for those from which nothing comes.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use reqwest::header::CONTENT_TYPE;

use crate::clock::Clock;
use crate::fleet::{Check, Checked, Fleet, Pool, Replica};
use crate::telemetry::{ErrorLog, Level};

/// How often pools are looked at for replicas from which nothing comes.
const LOOK: Duration = Duration::from_secs(1);

/// A replica to ask on behalf of one pool.
pub(super) struct Checker {
    pub(super) replica: Arc<Replica>,
    pool: Arc<Pool>,
    check: Check,
}

impl Checker {
    /// Every replica of every pool that wants it checked, those aside that are never chosen.
    pub(super) fn all(fleet: &Fleet) -> Vec<Self> {
        let of = |pool: Arc<Pool>| -> Vec<Self> {
            let Some(check) = pool.spec().failing.check.clone() else { return Vec::new() };
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
    pub(super) async fn follow(self, client: reqwest::Client, log: Arc<ErrorLog>, clock: Clock) {
        let Check { every, timeout, .. } = self.check;
        loop {
            let found = self.look(&client).await;
            let now = clock.now();
            // An engine may be too busy to say that it is well.
            let works = found.is_err() && self.replica.progressed_within(every + timeout, now);
            let passed = works || found.is_ok();
            if let Some(turn) = self.pool.checked(self.replica.id(), &self.check, passed, now) {
                tell(&log, &self.pool, &turn, found.err().as_deref());
            }
            tokio::time::sleep(every).await;
        }
    }

    /// Asks once.
    ///
    /// *Errors*: how the answer is not as it should be.
    async fn look(&self, client: &reqwest::Client) -> Result<(), String> {
        let Check { path, timeout, status, model, .. } = &self.check;
        let method = if model.is_some() { Method::POST } else { Method::GET };
        let mut request = super::ask_for(client, (method, self.replica.origin()), path, self.pool.api_key());
        if let Some(model) = model {
            request = request.header(CONTENT_TYPE, "application/json").body(token(path, model.as_str()));
        }
        let answer = request.timeout(*timeout).send().await.map_err(|error| match error.is_timeout() {
            true => format!("no answer within {timeout:?}"),
            false => super::innermost(&error),
        })?;
        let found = answer.status();
        let good = status.map_or(found.is_success(), |wanted| found.as_u16() == wanted);
        if good { Ok(()) } else { Err(format!("{path} answered {found}")) }
    }
}

/// A request for one token, as the path takes it.
fn token(path: &str, model: &str) -> String {
    let mut body = serde_json::json!({ "model": model, "max_tokens": 1 });
    if path.contains("/chat/") || path.ends_with("/messages") {
        body["messages"] = serde_json::json!([{ "role": "user", "content": "1" }]);
    } else {
        body["prompt"] = "1".into();
    }
    body.to_string()
}

/// Looks every second, for ever, for replicas that have taken requests and from which nothing comes.
pub async fn watch(fleet: &Fleet, log: &ErrorLog, clock: Clock) {
    loop {
        tokio::time::sleep(LOOK).await;
        for pool in fleet.pools() {
            for turn in pool.tick(clock.now()) {
                tell(log, &pool, &turn, Some("requests wait on it and nothing comes, while others answer"));
            }
        }
    }
}

fn tell(log: &ErrorLog, pool: &Pool, turn: &Checked, why: Option<&str>) {
    let (replica, pool, cause) = (&turn.replica, pool.name(), turn.cause.as_str());
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    if turn.out {
        log.write(Level::Warn, format_args!("replica {replica} of pool {pool} is left alone ({cause}){why}"));
    } else {
        log.write(Level::Info, format_args!("replica {replica} of pool {pool} is back ({cause})"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_asked_for_as_the_path_takes_it() {
        assert_eq!(token("/v1/completions", "a\"b"), r#"{"max_tokens":1,"model":"a\"b","prompt":"1"}"#);
        assert!(token("/v1/chat/completions", "m").contains(r#""messages":[{"content":"1","role":"user"}]"#));
    }
}
