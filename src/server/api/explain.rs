//! `GET /explain/{request-id}` on the admin listener: the candidates of each attempt and the reason for the choice.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Serialize, Serializer};

use crate::fleet::{CandidateTerms, DecisionRecord, DecisionResult};
use crate::log_format::format_rfc3339;
use crate::server::AppState;
use crate::units::Moment;

/// The decisions of one request, one per attempt.
#[derive(Serialize)]
struct ExplanationView {
    request: String,
    tries: Vec<AttemptView>,
}

#[derive(Serialize)]
struct AttemptView {
    at: String,
    pool: String,
    policy: String,
    prompt_tokens: u64,
    candidates: Vec<CandidateView>,
    passed_over: Vec<SkippedView>,
    /// The number of replicas that are in neither list.
    left_out: usize,
    chosen: Option<String>,
    /// The reason for the choice, or for there being none.
    why: String,
    /// The estimated tokens of the prompt in the replica's cache; `None` if the policy does not use it.
    cached_believed: Option<u64>,
    /// `None` while the attempt runs, and if no replica was chosen.
    end: Option<ResultView>,
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
    why: &'static str,
}

#[derive(Serialize)]
struct ResultView {
    outcome: &'static str,
    seconds: f64,
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
    let explanation =
        ExplanationView { request: id, tries: decisions.iter().map(|record| AttemptView::new(&app, record)).collect() };
    if wants_text { explanation.to_text().into_response() } else { Json(explanation).into_response() }
}

/// Serializes terms as an object, in the policy's order.
fn serialize_terms<S: Serializer>(terms: &[(&'static str, f64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(terms.iter().copied())
}

impl AttemptView {
    fn new(app: &AppState, record: &DecisionRecord) -> Self {
        let (chosen, why) = match &record.chosen {
            Ok(name) => (Some(name.to_string()), record.reason.to_owned()),
            Err(none) => (None, none.to_string()),
        };
        let candidate = |CandidateTerms { name, terms }: &CandidateTerms| CandidateView {
            name: name.to_string(),
            terms: terms.clone(),
        };
        let skipped = |(name, why): &(Arc<str>, &'static str)| SkippedView { name: name.to_string(), why };
        Self {
            at: format_time(app, record.chosen_at),
            pool: record.pool.to_string(),
            policy: record.policy.clone(),
            prompt_tokens: record.prompt.0,
            candidates: record.candidates.iter().map(candidate).collect(),
            passed_over: record.skipped.iter().map(skipped).collect(),
            left_out: record.omitted_replicas,
            chosen,
            why,
            cached_believed: record.cached.map(|cached| cached.0),
            end: record.result.as_ref().map(ResultView::new),
        }
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "  {}  pool {}, policy {}, prompt {} tokens",
            self.at, self.pool, self.policy, self.prompt_tokens
        )?;
        self.write_table(out)?;
        for SkippedView { name, why } in &self.passed_over {
            writeln!(out, "    skipped: {name}, {why}")?;
        }
        if self.left_out > 0 {
            writeln!(out, "    and {} more", self.left_out)?;
        }
        match (&self.chosen, &*self.why) {
            (Some(name), "pinned") => writeln!(out, "  chosen: {name}, by its pin")?,
            (Some(name), "only one") => writeln!(out, "  chosen: {name}, the only candidate")?,
            (Some(name), "first free") => {
                writeln!(out, "  chosen: {name}, the first of the busy replicas to be free")?;
            }
            (Some(name), _) => writeln!(out, "  chosen: {name}, by the policy")?,
            (None, why) => writeln!(out, "  none chosen: {why}")?,
        }
        if let Some(cached) = self.cached_believed {
            writeln!(out, "  estimated in its cache: {cached} tokens")?;
        }
        match &self.end {
            Some(end) => end.write_text(out),
            None if self.chosen.is_some() => writeln!(out, "  still running"),
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
        for CandidateView { name, terms } in &self.candidates {
            let mark = if self.chosen.as_deref() == Some(name) { '*' } else { ' ' };
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
    fn new(end: &DecisionResult) -> Self {
        Self {
            outcome: end.outcome.as_str(),
            seconds: end.duration.as_secs_f64(),
            ttft_seconds: end.time_to_first_token.map(|first| first.as_secs_f64()),
            prompt_tokens: end.usage.map(|usage| usage.prompt.0),
            cached_tokens: end.usage.and_then(|usage| usage.cached).map(|cached| cached.0),
            completion_tokens: end.usage.map(|usage| usage.completion.0),
        }
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        write!(out, "  ended: {} after {} s", self.outcome, format_number(self.seconds))?;
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
        for (number, attempt) in (1..).zip(&self.tries) {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{} attempt {number}", self.request);
            let _ = attempt.write_text(&mut out);
        }
        out
    }
}

/// Returns a number with at most three decimals.
fn format_number(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

fn format_time(app: &AppState, moment: Moment) -> String {
    format_rfc3339(app.clock.unix_time().saturating_sub(app.clock.now().since(moment)))
}
