//! What a request's body says that routing needs, owned, so that it outlives the look at the body.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, header};
use tokio::sync::Semaphore;

use super::target::Call;
use super::{App, Refusal};
use crate::prompt::endpoint::BodyKind;
use crate::prompt::multipart::{self, Field};
use crate::prompt::{BadBody, Census, Edit, Model, Prefix, Request, Vocabulary, opening, survey};
use crate::units::{Dialect, Tokens};

/// Bodies up to this size are read on the worker itself; at 0.5 us a KiB that takes at most 0.13 ms.
const INLINE_BYTES: usize = 256 * 1024;

/// What a body says.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) model: Option<String>,
    /// Where the model's name lies in the body, and how it is written there.
    written: Option<(Range<usize>, BodyKind)>,
    /// What the prompt is made of, if the body says.
    pub(super) census: Option<Census>,
    /// How the prompt begins, if some policy wants to know.
    pub(super) prefix: Option<Arc<Prefix>>,
    /// The most tokens that may be generated.
    pub(super) max_output: Option<Tokens>,
    /// What asks for a stream's usage, if it can be asked for and the client has not.
    pub(super) usage: Option<Edit>,
    /// The body's `prompt_cache_key`. This and what follows only if some policy's key asks the body.
    pub(super) cache_key: Option<String>,
    pub(super) user: Option<String>,
    /// A hash of how the conversation began, if neither of the two is there.
    pub(super) opening: Option<u64>,
    pub(super) previous_response: Option<String>,
}

impl Asked {
    /// Counts the prompt with a model's vocabulary, on another thread. Without a free place there the estimate has to do.
    pub(super) async fn count(&mut self, vocabulary: &Vocabulary, body: &Bytes, places: &Arc<Semaphore>) {
        let (Some(mut census), Ok(place)) = (self.census, places.clone().try_acquire_owned()) else { return };
        let (vocabulary, body) = (vocabulary.clone(), body.clone());
        let counting = tokio::task::spawn_blocking(move || {
            if let Ok(request) = Request::parse(&body) {
                vocabulary.count(&request.text, &mut census);
            }
            drop(place);
            census
        });
        if let Ok(census) = counting.await {
            self.census = Some(census);
        }
    }

    /// The edit that puts a replica's own name in the place of an alias.
    pub(super) fn rename(&self, name: &str) -> Option<Edit> {
        let (range, kind) = self.written.clone()?;
        Some(match kind {
            BodyKind::Json => Model { name: name.into(), range }.rename(name),
            BodyKind::Multipart | BodyKind::None => Field { value: name, range }.replace(name),
        })
    }
}

/// What of a body is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) kind: BodyKind,
    /// Some policy's key asks the body.
    pub(super) keyed: bool,
    /// Some policy wants to know how prompts begin, or traffic is written down.
    pub(super) printed: bool,
    /// The endpoint has `stream_options`.
    pub(super) has_options: bool,
}

impl Reading {
    pub(super) fn of(call: &Call, app: &App) -> Self {
        let has_options = matches!(call.dialect, Dialect::Chat | Dialect::Completions);
        let printed = app.fleet.asks_prefix() || app.recorder.is_some();
        Self { kind: call.body, keyed: app.fleet.asks_body(), printed, has_options }
    }
}

/// Reads a body; a large one on another thread, so that the worker's other streams go on.
///
/// *Errors*: the body is not what its endpoint takes.
pub(super) async fn measure(reading: Reading, headers: &HeaderMap, body: &Bytes) -> Result<Asked, Refusal> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    if body.len() <= INLINE_BYTES {
        return Ok(read(reading, &content_type, body)?);
    }
    let body = body.clone();
    match tokio::task::spawn_blocking(move || read(reading, &content_type, &body)).await {
        Ok(asked) => Ok(asked?),
        // Only a runtime that is shutting down drops the work.
        Err(_) => Err(Refusal::BodyBroken),
    }
}

fn read(reading: Reading, content_type: &str, body: &[u8]) -> Result<Asked, BadBody> {
    match reading.kind {
        BodyKind::None => Ok(Asked::default()),
        BodyKind::Json => json(body, reading),
        BodyKind::Multipart => form(content_type, body),
    }
}

fn json(body: &[u8], reading: Reading) -> Result<Asked, BadBody> {
    let request = Request::parse(body)?;
    let (census, prefix) = if reading.printed {
        let salt = request.keys.cache_salt.as_deref().unwrap_or_default();
        let model = request.model.as_ref().map_or("", |model| &model.name);
        let (census, prefix) = survey(&request.text, &[model, salt]);
        (census, Some(Arc::new(prefix)))
    } else {
        (Census::of(&request.text), None)
    };
    let mut asked = Asked {
        written: request.model.as_ref().map(|model| (model.range.clone(), BodyKind::Json)),
        census: Some(census),
        prefix,
        max_output: request.max_output.map(|most| Tokens(most.0.saturating_mul(request.n.unwrap_or(1).into()))),
        usage: if reading.has_options && request.stream { request.ask_for_usage() } else { None },
        previous_response: request.keys.previous_response_id.map(|id| id.into_owned()),
        model: request.model.map(|model| model.name.into_owned()),
        ..Asked::default()
    };
    if reading.keyed {
        asked.cache_key = request.keys.prompt_cache_key.map(|key| key.into_owned());
        asked.user = request.keys.user.map(|user| user.into_owned());
        let named = |name: &Option<String>| name.as_ref().is_some_and(|name| !name.is_empty());
        if !named(&asked.cache_key) && !named(&asked.user) {
            asked.opening = opening(&request.text);
        }
    }
    Ok(asked)
}

fn form(content_type: &str, body: &[u8]) -> Result<Asked, BadBody> {
    let model = multipart::field(content_type, body, "model")?;
    Ok(Asked {
        written: model.as_ref().map(|field| (field.range.clone(), BodyKind::Multipart)),
        model: model.map(|field| field.value.to_owned()),
        ..Asked::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replicas_name_cannot_break_out_of_the_place_it_is_written_to() {
        let asked = |kind| Asked { written: Some((3..7, kind)), ..Asked::default() };
        let written = |kind| asked(kind).rename("a\"b\r\n--x").unwrap().with;
        assert_eq!(written(BodyKind::Json), &br#""a\"b\r\n--x""#[..]);
        assert_eq!(written(BodyKind::Multipart), &b"a\"b"[..], "a line break would end the part");
    }
}
