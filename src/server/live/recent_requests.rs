//! The requests that were chosen for last, as rows.

use std::sync::Arc;

use serde_json::{Value, json};

use super::rounded::rounded;
use crate::fleet::RecentDecision;
use crate::server::AppState;
use crate::units::Moment;

/// The members of a row, in order.
pub(super) const REQUEST_FIELDS: [&str; 14] = [
    "id",
    "time",
    "key",
    "model",
    "pool",
    "replica",
    "why",
    "attempts",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "ttft",
    "duration",
    "outcome",
];

/// Rows that are shown.
const MAX_REQUESTS: usize = 50;
/// Decisions that are read for them: a request has several if it was retried.
const MAX_DECISIONS: usize = 150;

/// A request as it was last sent to viewers.
#[derive(PartialEq, Eq)]
struct SentRow {
    id: Arc<str>,
    attempts: usize,
    has_ended: bool,
}

/// The rows that viewers have.
#[derive(Default)]
pub(super) struct SentRows(Vec<SentRow>);

/// A request and its attempts, of which there is at least one.
struct RecentRequest {
    attempts: Vec<RecentDecision>,
}

/// Returns the rows of the last requests, oldest first.
pub(super) fn recent_rows(app: &AppState, now: Moment) -> Vec<Value> {
    recent_requests(app).iter().map(|request| request.to_row(app, now)).collect()
}

impl SentRows {
    /// Returns the rows of requests that are new, retried or ended since the last call.
    pub(super) fn take_changed(&mut self, app: &AppState, now: Moment) -> Vec<Value> {
        let requests = recent_requests(app);
        let rows: Vec<SentRow> = requests.iter().map(RecentRequest::sent_row).collect();
        let changed = requests.iter().zip(&rows).filter(|(_, row)| !self.0.contains(row));
        let changed = changed.map(|(request, _)| request.to_row(app, now)).collect();
        self.0 = rows;
        changed
    }
}

fn recent_requests(app: &AppState) -> Vec<RecentRequest> {
    let mut requests: Vec<RecentRequest> = Vec::new();
    for decision in app.logs.decisions.recent(MAX_DECISIONS) {
        let known =
            requests.iter_mut().find(|request| request.attempts.iter().any(|a| a.request.id == decision.request.id));
        match known {
            Some(request) => request.attempts.push(decision),
            None => requests.push(RecentRequest { attempts: vec![decision] }),
        }
    }
    requests.drain(..requests.len().saturating_sub(MAX_REQUESTS));
    requests
}

impl RecentRequest {
    fn sent_row(&self) -> SentRow {
        let last = self.attempts.last();
        SentRow {
            id: last.map(|last| last.request.id.clone()).unwrap_or_default(),
            attempts: self.attempts.len(),
            has_ended: last.is_some_and(|last| last.result.is_some() || last.replica.is_none()),
        }
    }

    /// Returns the row by [`REQUEST_FIELDS`]: of the last attempt, but for the time, which is that of the first.
    fn to_row(&self, app: &AppState, now: Moment) -> Value {
        let Some((first, last)) = self.attempts.first().zip(self.attempts.last()) else { return Value::Null };
        let time = app.clock.unix_time().saturating_sub(now.since(first.chosen_at));
        let result = last.result.as_ref();
        let usage = result.and_then(|result| result.usage);
        let seconds = |time: std::time::Duration| rounded(time.as_secs_f64(), 3);
        let why = if self.attempts.len() > 1 && last.replica.is_some() { "retried" } else { last.why };
        let outcome = match (&last.replica, result) {
            (None, _) => Some("no_replica"),
            (Some(_), result) => result.map(|result| result.outcome.as_str()),
        };
        json!([
            &*last.request.id,
            rounded(time.as_secs_f64(), 3),
            last.request.key.as_deref(),
            last.request.model.as_deref(),
            &*last.pool,
            last.replica.as_deref(),
            why,
            self.attempts.len(),
            usage.map_or(last.prompt.0, |usage| usage.prompt.0),
            usage.and_then(|usage| usage.cached).or(last.cached).map(|cached| cached.0),
            usage.map(|usage| usage.completion.0),
            result.and_then(|result| result.time_to_first_token).map(seconds),
            result.map(|result| seconds(result.duration)),
            outcome,
        ])
    }
}
