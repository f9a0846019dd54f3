//! `GET /explain/{request-id}` on the admin listener: the candidates of each attempt and the reason for the choice.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Serialize, Serializer};

use crate::fleet::{CandidateTerms, ChoiceReason, ChosenReplica, DecisionRecord, DecisionResult, NoReplica};
use crate::log_format::format_rfc3339;
use crate::server::AppState;
use crate::units::Moment;

/// The decisions of one request, one per attempt.
#[derive(Serialize)]
struct ExplanationView {
    request_id: String,
    attempts: Vec<AttemptView>,
}

#[derive(Serialize)]
struct AttemptView {
    /// Time of the choice.
    time: String,
    pool: String,
    policy: String,
    /// The requested model; `None` if the request names none.
    model: Option<String>,
    /// The name of its API key; `None` without one.
    key: Option<String>,
    prompt_tokens: u64,
    candidates: Vec<CandidateView>,
    skipped: Vec<SkippedView>,
    /// The number of replicas that are in neither list.
    omitted_replicas: usize,
    /// The members `chosen` and `reason`.
    #[serde(flatten, serialize_with = "serialize_choice")]
    choice: Result<ChosenReplica, NoReplica>,
    /// The prompt tokens estimated to be in the replica's cache; `None` if the policy does not use it.
    estimated_cached_tokens: Option<u64>,
    /// `None` while the attempt runs, and if no replica was chosen.
    result: Option<ResultView>,
}

/// The choice as JSON.
#[derive(Serialize)]
struct ChoiceView<'a> {
    /// The replica's name; `None` if none was chosen.
    chosen: Option<&'a str>,
    /// The reason for the choice, or for there being none.
    reason: Cow<'static, str>,
}

#[derive(Serialize)]
struct CandidateView {
    name: String,
    #[serde(serialize_with = "serialize_terms")]
    terms: Vec<(&'static str, f64)>,
}

#[derive(Serialize)]
struct SkippedView {
    name: String,
    reason: &'static str,
}

#[derive(Serialize)]
struct ResultView {
    outcome: &'static str,
    /// Time from the choice to the end.
    duration_seconds: f64,
    ttft_seconds: Option<f64>,
    prompt_tokens: Option<u64>,
    cached_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

pub(super) fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/explain/{*id}", get(explain))
}

async fn explain(State(app): State<Arc<AppState>>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    let decisions = app.logs.decisions.find_by_request_id(&id);
    let wants_text = headers.get(header::ACCEPT).is_some_and(|kinds| kinds.as_bytes().starts_with(b"text/plain"));
    if decisions.is_empty() {
        let message = format!(
            "no decision found for this request; the latest {} are kept (`explain`)",
            app.logs.decisions.capacity()
        );
        let status = StatusCode::NOT_FOUND;
        return match wants_text {
            true => (status, message + "\n").into_response(),
            false => (status, Json(serde_json::json!({ "error": { "message": message } }))).into_response(),
        };
    }
    let attempts = decisions.iter().map(|record| AttemptView::new(&app, record)).collect();
    let explanation = ExplanationView { request_id: id, attempts };
    if wants_text { explanation.to_text().into_response() } else { Json(explanation).into_response() }
}

/// Serializes terms as an object, in the policy's order.
fn serialize_terms<S: Serializer>(terms: &[(&'static str, f64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(terms.iter().copied())
}

/// Serializes a choice as [`ChoiceView`].
fn serialize_choice<S: Serializer>(
    choice: &Result<ChosenReplica, NoReplica>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let view = match choice {
        Ok(ChosenReplica { name, reason }) => ChoiceView { chosen: Some(name), reason: reason.as_str().into() },
        Err(none) => ChoiceView { chosen: None, reason: none.to_string().into() },
    };
    view.serialize(serializer)
}

impl AttemptView {
    fn new(app: &AppState, record: &DecisionRecord) -> Self {
        let candidate = |CandidateTerms { name, terms }: &CandidateTerms| CandidateView {
            name: name.to_string(),
            terms: terms.clone(),
        };
        let skipped = |(name, reason): &(Arc<str>, &'static str)| SkippedView { name: name.to_string(), reason };
        Self {
            time: format_time(app, record.chosen_at),
            pool: record.pool.to_string(),
            policy: record.policy.clone(),
            model: record.request.model.as_deref().map(str::to_owned),
            key: record.request.key.as_deref().map(str::to_owned),
            prompt_tokens: record.prompt.0,
            candidates: record.candidates.iter().map(candidate).collect(),
            skipped: record.skipped.iter().map(skipped).collect(),
            omitted_replicas: record.omitted_replicas,
            choice: record.chosen.clone(),
            estimated_cached_tokens: record.cached.map(|cached| cached.0),
            result: record.result.as_ref().map(ResultView::new),
        }
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "  {}  pool {}, policy {}, prompt {} tokens",
            self.time, self.pool, self.policy, self.prompt_tokens
        )?;
        self.write_table(out)?;
        for SkippedView { name, reason } in &self.skipped {
            writeln!(out, "    skipped: {name}, {reason}")?;
        }
        if self.omitted_replicas > 0 {
            writeln!(out, "    omitted: {} more replicas", self.omitted_replicas)?;
        }
        match &self.choice {
            Ok(ChosenReplica { name, reason }) => writeln!(out, "  chosen: {name}, {}", describe_reason(*reason))?,
            Err(none) => writeln!(out, "  no replica chosen: {none}")?,
        }
        if let Some(cached) = self.estimated_cached_tokens {
            writeln!(out, "  estimated cached tokens: {cached}")?;
        }
        match &self.result {
            Some(result) => result.write_text(out),
            None if self.choice.is_ok() => writeln!(out, "  still running"),
            None => Ok(()),
        }
    }

    /// Writes one line per candidate, under the names of the terms.
    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        let Some(first) = self.candidates.first() else { return Ok(()) };
        let width = self.candidates.iter().map(|c| c.name.chars().count()).max().unwrap_or_default();
        write!(out, "    {:width$}", "")?;
        for (name, _) in &first.terms {
            write!(out, "  {name:>8}")?;
        }
        writeln!(out)?;
        let chosen = self.choice.as_ref().ok().map(|chosen| &*chosen.name);
        for CandidateView { name, terms } in &self.candidates {
            let mark = if chosen == Some(&**name) { '*' } else { ' ' };
            write!(out, "  {mark} {name:width$}")?;
            for (term, value) in terms {
                let width = term.len().max(8);
                write!(out, "  {:>width$}", format_number(*value))?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

impl ResultView {
    fn new(result: &DecisionResult) -> Self {
        Self {
            outcome: result.outcome.as_str(),
            duration_seconds: result.duration.as_secs_f64(),
            ttft_seconds: result.time_to_first_token.map(|first| first.as_secs_f64()),
            prompt_tokens: result.usage.map(|usage| usage.prompt.0),
            cached_tokens: result.usage.and_then(|usage| usage.cached).map(|cached| cached.0),
            completion_tokens: result.usage.map(|usage| usage.completion.0),
        }
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        write!(out, "  ended: {} after {} s", self.outcome, format_number(self.duration_seconds))?;
        if let Some(ttft) = self.ttft_seconds {
            write!(out, ", first token after {} s", format_number(ttft))?;
        }
        let counts = [
            (self.prompt_tokens, "prompt tokens"),
            (self.cached_tokens, "of them cached"),
            (self.completion_tokens, "generated"),
        ];
        for (count, label) in counts {
            if let Some(count) = count {
                write!(out, "; {count} {label}")?;
            }
        }
        writeln!(out)
    }
}

impl ExplanationView {
    fn to_text(&self) -> String {
        let mut out = String::new();
        for (number, attempt) in (1..).zip(&self.attempts) {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{} attempt {number}", self.request_id);
            let _ = attempt.write_text(&mut out);
        }
        out
    }
}

/// Returns a reason as the end of the sentence "chosen: gpu1, ...".
const fn describe_reason(reason: ChoiceReason) -> &'static str {
    match reason {
        ChoiceReason::Policy => "by the policy",
        ChoiceReason::OnlyCandidate => "the only candidate",
        ChoiceReason::Pinned => "to which the request is pinned",
        ChoiceReason::FirstFree => "the first of the busy replicas to be free",
    }
}

/// Returns a number with at most three decimals.
fn format_number(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

fn format_time(app: &AppState, moment: Moment) -> String {
    format_rfc3339(app.clock.unix_time().saturating_sub(app.clock.now().since(moment)))
}
