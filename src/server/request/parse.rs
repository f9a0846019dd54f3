//! The parts of a request's body that routing needs, owned, so that they outlive the parsing of the body.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, header};
use tokio::sync::Semaphore;

use crate::http::query_value;
use crate::prompt::agents::metadata_edits;
use crate::prompt::endpoint::BodyKind;
use crate::prompt::multipart::{self, FormField, FormStart};
use crate::prompt::{
    BodyEdit, BodyError, ModelField, ObjectStart, ParsedBody, PromptFingerprint, TextStats, Tokenizer,
    conversation_hash, fingerprint_and_count, user_turn_hash,
};
use crate::server::RequestError;
use crate::units::Tokens;

/// Bodies up to this size are parsed on the worker itself; at 0.5 us a KiB that takes at most 0.13 ms.
const MAX_INLINE_PARSE_BYTES: usize = 256 * 1024;

/// The parts of a body that routing needs. Everything is empty for a path without a body.
#[derive(Debug, Default)]
pub(in crate::server) struct ParsedRequest {
    /// Shared with the request's log record.
    pub(in crate::server) model: Option<Arc<str>>,
    /// Where the model is written in the body, or can be; `None` without a model.
    model_place: Option<ModelPlace>,
    /// The size of the prompt; `None` if the body has none.
    pub(in crate::server) text_stats: Option<TextStats>,
    /// The hashes of the prompt's beginning; `None` unless a policy or the traffic recorder needs them.
    pub(in crate::server) fingerprint: Option<Arc<PromptFingerprint>>,
    /// The most tokens that may be generated.
    pub(in crate::server) max_output: Option<Tokens>,
    /// Whether the response is wanted as a stream.
    pub(in crate::server) wants_stream: bool,
    /// The edit that requests a stream's usage; `None` if the client requests it or the endpoint cannot report it.
    pub(in crate::server) usage_edit: Option<BodyEdit>,
    /// Whether the client refused a stream's usage.
    pub(in crate::server) is_usage_refused: bool,
    /// The edits that cut clients' metadata; empty unless some pool wants them.
    pub(in crate::server) metadata_edits: Vec<BodyEdit>,
    pub(in crate::server) identity: RequestIdentity,
    pub(super) previous_response_id: Option<String>,
}

/// The members of a body that identify clients and conversations; read only if a hash key or `sticky` needs the body.
#[derive(Debug, Default)]
pub(in crate::server) struct RequestIdentity {
    /// The body's `prompt_cache_key`.
    pub(in crate::server) cache_key: Option<String>,
    /// The session that the body names in other members.
    pub(in crate::server) session_id: Option<String>,
    pub(in crate::server) user: Option<String>,
    /// `None` if the body or a header names the session.
    pub(in crate::server) conversation: Option<ConversationHash>,
}

/// A hash of a conversation's beginning.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) enum ConversationHash {
    /// Of the user's first message.
    UserTurn(u64),
    /// Of the whole prompt, which has no such message.
    Prompt(u64),
}

impl RequestIdentity {
    fn read(request: &ParsedBody<'_>, has_session_header: bool) -> Self {
        let hints = &request.affinity_hints;
        let own = |name: &Option<Cow<'_, str>>| name.as_ref().filter(|name| !name.is_empty()).map(|n| (**n).to_owned());
        let mut identity = Self {
            cache_key: own(&hints.prompt_cache_key),
            session_id: own(&request.session.session_id()),
            user: own(&hints.user).or_else(|| own(&request.session.user())),
            conversation: None,
        };
        if !has_session_header && identity.cache_key.is_none() && identity.session_id.is_none() {
            let user_turn = user_turn_hash(&request.prompt).map(ConversationHash::UserTurn);
            let whole = || conversation_hash(&request.prompt).map(ConversationHash::Prompt);
            identity.conversation = user_turn.or_else(whole);
        }
        identity
    }
}

/// The place of the model in a body.
#[derive(Clone, Debug)]
enum ModelPlace {
    /// A JSON string, quotes included, or `null`.
    JsonValue(Range<usize>),
    /// The value of a form's field.
    FormValue(Range<usize>),
    /// A JSON object that names no model.
    JsonObject(ObjectStart),
    /// A form that names no model.
    Form(FormStart),
}

impl ParsedRequest {
    /// Returns the parts of a request for a WebSocket, which names its model in the query.
    pub(in crate::server) fn for_websocket(query: Option<&str>) -> Self {
        let model = query.and_then(|query| query_value(query, "model"));
        Self { model: model.map(Arc::from), wants_stream: true, ..Self::default() }
    }

    /// Counts the prompt with a model's tokenizer on another thread. Without a free slot the estimate is kept.
    pub(in crate::server) async fn count_tokens(
        &mut self,
        tokenizer: &Tokenizer,
        body: &Bytes,
        slots: &Arc<Semaphore>,
    ) {
        let (Some(mut stats), Ok(slot)) = (self.text_stats, slots.clone().try_acquire_owned()) else { return };
        let (tokenizer, body) = (tokenizer.clone(), body.clone());
        let counting = tokio::task::spawn_blocking(move || {
            if let Ok(request) = ParsedBody::parse(&body) {
                tokenizer.count_tokens(&request.prompt, &mut stats);
            }
            drop(slot);
            stats
        });
        if let Ok(stats) = counting.await {
            self.text_stats = Some(stats);
        }
    }

    /// Returns the edit that writes the model as a replica's own name for it; `None` if the request names no model.
    pub(in crate::server) fn model_edit(&self, name: &str) -> Option<BodyEdit> {
        Some(match self.model_place.clone()? {
            ModelPlace::JsonValue(range) => ModelField { name: name.into(), range }.replacement(name),
            ModelPlace::FormValue(range) => FormField { value: name, range }.replacement(name),
            ModelPlace::JsonObject(start) => start.insertion(&format!("\"model\":{}", serde_json::Value::from(name))),
            ModelPlace::Form(start) => start.insertion("model", name),
        })
    }
}

/// The parts of a body to parse.
#[derive(Clone, Debug)]
pub(in crate::server) struct ParseOptions {
    pub(in crate::server) body_kind: BodyKind,
    /// Some policy's hash key needs the body.
    pub(in crate::server) needs_hash_key: bool,
    /// Some policy or the traffic recorder needs the fingerprint.
    pub(in crate::server) needs_fingerprint: bool,
    /// A header names the session, so that the conversation needs no other name.
    pub(in crate::server) has_session_header: bool,
    /// Some pool cuts clients' metadata.
    pub(in crate::server) cuts_metadata: bool,
    /// The endpoint has `stream_options`.
    pub(in crate::server) has_stream_options: bool,
    /// The model that the path names, in place of the body's.
    pub(in crate::server) path_model: Option<Arc<str>>,
}

/// Parses a body; a large one on another thread, so that the worker's other streams do not wait.
///
/// *Errors*: the body is not valid for its endpoint.
pub(in crate::server) async fn parse_body(
    options: ParseOptions,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<ParsedRequest, RequestError> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    if body.len() <= MAX_INLINE_PARSE_BYTES {
        return Ok(parse_by_kind(&options, &content_type, body)?);
    }
    let body = body.clone();
    match tokio::task::spawn_blocking(move || parse_by_kind(&options, &content_type, &body)).await {
        Ok(parsed) => Ok(parsed?),
        // Only a runtime that is shutting down drops the task.
        Err(_) => Err(RequestError::BodyIncomplete),
    }
}

fn parse_by_kind(options: &ParseOptions, content_type: &str, body: &[u8]) -> Result<ParsedRequest, BodyError> {
    match options.body_kind {
        BodyKind::None => Ok(ParsedRequest::default()),
        BodyKind::Json => parse_json(body, options),
        BodyKind::Multipart => parse_multipart(content_type, body, options),
    }
}

fn parse_json(body: &[u8], options: &ParseOptions) -> Result<ParsedRequest, BodyError> {
    let request = ParsedBody::parse(body)?;
    let model = options.path_model.clone().or_else(|| request.model.as_ref().map(|model| Arc::from(&*model.name)));
    let (text_stats, fingerprint) = if options.needs_fingerprint {
        let salt = request.affinity_hints.cache_salt.as_deref().unwrap_or_default();
        let model = model.as_deref().unwrap_or_default();
        let (stats, fingerprint) = fingerprint_and_count(&request.prompt, &[model, salt]);
        (stats, Some(Arc::new(fingerprint)))
    } else {
        (TextStats::from_prompt(&request.prompt), None)
    };
    let mut parsed = ParsedRequest {
        model_place: model.as_ref().map(|_| match request.model_range() {
            Some(range) => ModelPlace::JsonValue(range),
            None => ModelPlace::JsonObject(request.object_start()),
        }),
        text_stats: Some(text_stats),
        fingerprint,
        max_output: request
            .max_output
            .map(|max| Tokens(max.0.saturating_mul(request.choice_count.unwrap_or(1).into()))),
        wants_stream: request.stream,
        usage_edit: if options.has_stream_options && request.stream { request.usage_edit() } else { None },
        is_usage_refused: options.has_stream_options && request.is_usage_refused(),
        previous_response_id: request.affinity_hints.previous_response_id.as_ref().map(|id| (**id).to_owned()),
        model,
        ..ParsedRequest::default()
    };
    if options.needs_hash_key {
        parsed.identity = RequestIdentity::read(&request, options.has_session_header);
    }
    if options.cuts_metadata {
        parsed.metadata_edits = metadata_edits(body, &request.prompt);
    }
    Ok(parsed)
}

fn parse_multipart(content_type: &str, body: &[u8], options: &ParseOptions) -> Result<ParsedRequest, BodyError> {
    let field = multipart::find_field(content_type, body, "model")?;
    let model_place = match (&field, &options.path_model) {
        (Some(field), _) => Some(ModelPlace::FormValue(field.range.clone())),
        (None, Some(_)) => Some(ModelPlace::Form(multipart::find_start(content_type, body)?)),
        (None, None) => None,
    };
    let model = options.path_model.clone().or_else(|| field.map(|field| Arc::from(field.value)));
    Ok(ParsedRequest { model_place, model, ..ParsedRequest::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replica_model_name_is_escaped_in_json_and_multipart_bodies() {
        let written = |place| {
            let parsed = ParsedRequest { model_place: Some(place), ..ParsedRequest::default() };
            parsed.model_edit("a\"b\r\n--x").unwrap().replacement
        };
        assert_eq!(written(ModelPlace::JsonValue(3..7)), &br#""a\"b\r\n--x""#[..]);
        assert_eq!(written(ModelPlace::FormValue(3..7)), &b"a\"b"[..], "a line break would end the part");
        assert_eq!(written(ModelPlace::JsonObject(ObjectStart::default())), &br#""model":"a\"b\r\n--x","#[..]);
        let form = multipart::find_start("multipart/form-data; boundary=B", b"--B--").unwrap();
        let part = b"--B\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\na\"b\r\n";
        assert_eq!(written(ModelPlace::Form(form)), &part[..]);
    }
}
