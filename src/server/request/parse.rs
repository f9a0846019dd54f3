//! What a request's body says that routing needs, owned, so that it outlives the look at the body.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, header};
use tokio::sync::Semaphore;

use super::route::ProxyRoute;
use crate::prompt::endpoint::BodyKind;
use crate::prompt::multipart::{self, FormField};
use crate::prompt::{
    BodyEdit, BodyError, ModelField, ParsedBody, PromptFingerprint, TextStats, Tokenizer, conversation_hash,
    fingerprint_and_count,
};
use crate::server::{AppState, RequestError};
use crate::units::Tokens;

/// Bodies up to this size are read on the worker itself; at 0.5 us a KiB that takes at most 0.13 ms.
const MAX_INLINE_PARSE_BYTES: usize = 256 * 1024;

/// What a body says.
#[derive(Debug, Default)]
pub(in crate::server) struct ParsedRequest {
    pub(in crate::server) model: Option<String>,
    /// Where the model's name lies in the body, and how it is written there.
    model_span: Option<(Range<usize>, BodyKind)>,
    /// What the prompt is made of, if the body says.
    pub(in crate::server) text_stats: Option<TextStats>,
    /// How the prompt begins, if some policy wants to know.
    pub(in crate::server) fingerprint: Option<Arc<PromptFingerprint>>,
    /// The most tokens that may be generated.
    pub(in crate::server) max_output: Option<Tokens>,
    /// What asks for a stream's usage, if it can be asked for and the client has not.
    pub(in crate::server) usage_edit: Option<BodyEdit>,
    /// The body's `prompt_cache_key`. This and what follows only if some policy's key asks the body.
    pub(in crate::server) cache_key: Option<String>,
    pub(in crate::server) user: Option<String>,
    /// A hash of how the conversation began, if neither of the two is there.
    pub(in crate::server) conversation_hash: Option<u64>,
    pub(in crate::server) previous_response_id: Option<String>,
}

impl ParsedRequest {
    /// Counts the prompt with a model's vocabulary, on another thread. Without a free place there the estimate has to do.
    pub(in crate::server) async fn count_tokens(
        &mut self,
        vocabulary: &Tokenizer,
        body: &Bytes,
        places: &Arc<Semaphore>,
    ) {
        let (Some(mut census), Ok(place)) = (self.text_stats, places.clone().try_acquire_owned()) else { return };
        let (vocabulary, body) = (vocabulary.clone(), body.clone());
        let counting = tokio::task::spawn_blocking(move || {
            if let Ok(request) = ParsedBody::parse(&body) {
                vocabulary.count_tokens(&request.prompt, &mut census);
            }
            drop(place);
            census
        });
        if let Ok(census) = counting.await {
            self.text_stats = Some(census);
        }
    }

    /// The edit that puts a replica's own name in the place of an alias.
    pub(in crate::server) fn model_edit(&self, name: &str) -> Option<BodyEdit> {
        let (range, kind) = self.model_span.clone()?;
        Some(match kind {
            BodyKind::Json => ModelField { name: name.into(), range }.replacement(name),
            BodyKind::Multipart | BodyKind::None => FormField { value: name, range }.replacement(name),
        })
    }
}

/// What of a body is read.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct ParseOptions {
    pub(in crate::server) body_kind: BodyKind,
    /// Some policy's key asks the body.
    pub(in crate::server) needs_hash_key: bool,
    /// Some policy wants to know how prompts begin, or traffic is written down.
    pub(in crate::server) needs_fingerprint: bool,
    /// The endpoint has `stream_options`.
    pub(in crate::server) has_stream_options: bool,
}

impl ParseOptions {
    pub(in crate::server) fn new(call: &ProxyRoute, app: &AppState) -> Self {
        let printed = app.fleet.needs_prefix() || app.logs.recorder.is_some();
        Self {
            body_kind: call.body_kind,
            needs_hash_key: app.fleet.needs_body(),
            needs_fingerprint: printed,
            has_stream_options: call.dialect.spec().takes_stream_options,
        }
    }
}

/// Reads a body; a large one on another thread, so that the worker's other streams go on.
///
/// *Errors*: the body is not what its endpoint takes.
pub(in crate::server) async fn parse_body(
    reading: ParseOptions,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<ParsedRequest, RequestError> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    if body.len() <= MAX_INLINE_PARSE_BYTES {
        return Ok(parse_by_kind(reading, &content_type, body)?);
    }
    let body = body.clone();
    match tokio::task::spawn_blocking(move || parse_by_kind(reading, &content_type, &body)).await {
        Ok(asked) => Ok(asked?),
        // Only a runtime that is shutting down drops the work.
        Err(_) => Err(RequestError::BodyIncomplete),
    }
}

fn parse_by_kind(reading: ParseOptions, content_type: &str, body: &[u8]) -> Result<ParsedRequest, BodyError> {
    match reading.body_kind {
        BodyKind::None => Ok(ParsedRequest::default()),
        BodyKind::Json => parse_json(body, reading),
        BodyKind::Multipart => parse_multipart(content_type, body),
    }
}

fn parse_json(body: &[u8], reading: ParseOptions) -> Result<ParsedRequest, BodyError> {
    let request = ParsedBody::parse(body)?;
    let (census, prefix) = if reading.needs_fingerprint {
        let salt = request.affinity_hints.cache_salt.as_deref().unwrap_or_default();
        let model = request.model.as_ref().map_or("", |model| &model.name);
        let (census, prefix) = fingerprint_and_count(&request.prompt, &[model, salt]);
        (census, Some(Arc::new(prefix)))
    } else {
        (TextStats::from_prompt(&request.prompt), None)
    };
    let mut asked = ParsedRequest {
        model_span: request.model.as_ref().map(|model| (model.range.clone(), BodyKind::Json)),
        text_stats: Some(census),
        fingerprint: prefix,
        max_output: request
            .max_output
            .map(|most| Tokens(most.0.saturating_mul(request.choice_count.unwrap_or(1).into()))),
        usage_edit: if reading.has_stream_options && request.stream { request.usage_edit() } else { None },
        previous_response_id: request.affinity_hints.previous_response_id.map(|id| id.into_owned()),
        model: request.model.map(|model| model.name.into_owned()),
        ..ParsedRequest::default()
    };
    if reading.needs_hash_key {
        asked.cache_key = request.affinity_hints.prompt_cache_key.map(|key| key.into_owned());
        asked.user = request.affinity_hints.user.map(|user| user.into_owned());
        let named = |name: &Option<String>| name.as_ref().is_some_and(|name| !name.is_empty());
        if !named(&asked.cache_key) && !named(&asked.user) {
            asked.conversation_hash = conversation_hash(&request.prompt);
        }
    }
    Ok(asked)
}

fn parse_multipart(content_type: &str, body: &[u8]) -> Result<ParsedRequest, BodyError> {
    let model = multipart::find_field(content_type, body, "model")?;
    Ok(ParsedRequest {
        model_span: model.as_ref().map(|field| (field.range.clone(), BodyKind::Multipart)),
        model: model.map(|field| field.value.to_owned()),
        ..ParsedRequest::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replicas_name_cannot_break_out_of_the_place_it_is_written_to() {
        let asked = |kind| ParsedRequest { model_span: Some((3..7, kind)), ..ParsedRequest::default() };
        let written = |kind| asked(kind).model_edit("a\"b\r\n--x").unwrap().replacement;
        assert_eq!(written(BodyKind::Json), &br#""a\"b\r\n--x""#[..]);
        assert_eq!(written(BodyKind::Multipart), &b"a\"b"[..], "a line break would end the part");
    }
}
