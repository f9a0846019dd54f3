//! The two shapes of `/v1/models`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use http::{HeaderMap, HeaderName};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::dialect::Dialect;
use crate::fleet::Pool;
use crate::log_format::format_rfc3339;
use crate::server::RequestError;
use crate::units::Tokens;

/// The header that Anthropic's clients send with every request.
const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");
/// Most models of a page, and those of a page without `limit`: Claude Code reads one page only.
const MAX_PAGE_MODELS: usize = 1_000;

/// The shape that a client expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum ModelShape {
    OpenAi,
    Anthropic,
}

/// A model as clients see it.
pub(super) struct ModelView {
    id: String,
    pool: Arc<str>,
    /// The Unix time of the router's start: engines give the time of the request or of theirs.
    created: Duration,
    /// The longest prompt and answer together; `None` if no replica lists it.
    context: Option<Tokens>,
}

/// The page of Anthropic's list that a client wants; OpenAI's list has no pages.
#[derive(Debug, Default, Deserialize)]
pub(super) struct PageQuery {
    limit: Option<String>,
    /// The page begins after this id, whether or not it exists.
    after_id: Option<String>,
    /// The page ends before this id, whether or not it exists.
    before_id: Option<String>,
}

impl ModelView {
    pub(super) fn new(id: &str, pool: &Pool, created: Duration) -> Self {
        Self { id: id.to_owned(), pool: pool.name().clone(), created, context: pool.context_length(id) }
    }
}

impl ModelShape {
    /// Returns the shape that a request expects.
    pub(in crate::server) fn requested_by(headers: &HeaderMap) -> Self {
        if headers.contains_key(ANTHROPIC_VERSION) { Self::Anthropic } else { Self::OpenAi }
    }

    /// Returns the dialect in which errors are written.
    pub(in crate::server) const fn error_dialect(self) -> Dialect {
        match self {
            Self::OpenAi => Dialect::Other,
            Self::Anthropic => Dialect::Messages,
        }
    }

    /// Returns one model.
    pub(super) fn object(self, model: &ModelView) -> Json<Value> {
        Json(self.object_json(model))
    }

    /// Returns a list of `models`, which are sorted by id.
    ///
    /// *Errors*: the page's `limit` is not a number from 1 to 1,000.
    pub(super) fn list(self, models: &[ModelView], query: &PageQuery) -> Result<Json<Value>, RequestError> {
        let objects = |models: &[ModelView]| models.iter().map(|model| self.object_json(model)).collect::<Vec<_>>();
        if self == Self::OpenAi {
            return Ok(Json(json!({ "object": "list", "data": objects(models) })));
        }
        let (page, has_more) = query.select_page(models)?;
        let id = |model: Option<&ModelView>| model.map(|model| model.id.clone());
        Ok(Json(json!({
            "data": objects(page),
            "has_more": has_more,
            "first_id": id(page.first()),
            "last_id": id(page.last()),
        })))
    }

    fn object_json(self, ModelView { id, pool, created, context }: &ModelView) -> Value {
        let (mut object, context_member) = match self {
            Self::OpenAi => {
                let created = created.as_secs();
                (json!({ "id": id, "object": "model", "created": created, "owned_by": &**pool }), "max_model_len")
            }
            Self::Anthropic => {
                let created = format_rfc3339(Duration::from_secs(created.as_secs()));
                let object = json!({ "type": "model", "id": id, "display_name": id, "created_at": created });
                (object, "max_input_tokens")
            }
        };
        if let Some(context) = context {
            object[context_member] = context.0.into();
        }
        object
    }
}

impl PageQuery {
    /// Returns the models of the page, and whether there are more in its direction.
    fn select_page<'m>(&self, models: &'m [ModelView]) -> Result<(&'m [ModelView], bool), RequestError> {
        let limit = match &self.limit {
            Some(text) => text.parse().ok().filter(|limit| (1..=MAX_PAGE_MODELS).contains(limit)),
            None => Some(MAX_PAGE_MODELS),
        };
        let limit = limit.ok_or(RequestError::InvalidPageLimit { max: MAX_PAGE_MODELS })?;
        let start = self.after_id.as_ref().map_or(0, |id| models.partition_point(|model| model.id <= *id));
        let end = self.before_id.as_ref().map_or(models.len(), |id| models.partition_point(|model| model.id < *id));
        let range = models.get(start..end).unwrap_or_default();
        let has_more = range.len() > limit;
        let page = match self.before_id {
            Some(_) if has_more => range.get(range.len() - limit..),
            _ => range.get(..limit.min(range.len())),
        };
        Ok((page.unwrap_or_default(), has_more))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(query: &[(&str, &str)]) -> Result<(String, bool), RequestError> {
        let model =
            |id: &str| ModelView { id: id.to_owned(), pool: "p".into(), created: Duration::ZERO, context: None };
        let models: Vec<ModelView> = ["a", "b", "c/d", "e"].map(model).into_iter().collect();
        let given = |name: &str| query.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let query = PageQuery { limit: given("limit"), after_id: given("after_id"), before_id: given("before_id") };
        let (page, has_more) = query.select_page(&models)?;
        Ok((page.iter().map(|model| &*model.id).collect::<Vec<_>>().join(" "), has_more))
    }

    #[test]
    fn page_begins_after_or_ends_before_an_id() {
        for (query, wanted, has_more) in [
            (&[][..], "a b c/d e", false),
            (&[("limit", "2")], "a b", true),
            (&[("limit", "4")], "a b c/d e", false),
            (&[("limit", "2"), ("after_id", "b")], "c/d e", false),
            (&[("limit", "1"), ("after_id", "b")], "c/d", true),
            (&[("after_id", "e")], "", false),
            (&[("after_id", "bb")], "c/d e", false),
            (&[("limit", "2"), ("before_id", "e")], "b c/d", true),
            (&[("limit", "9"), ("before_id", "c/d")], "a b", false),
            (&[("after_id", "e"), ("before_id", "a")], "", false),
        ] {
            assert_eq!(page(query).unwrap(), (wanted.to_owned(), has_more), "{query:?}");
        }
    }

    #[test]
    fn limit_is_a_number_from_1_to_1000() {
        for limit in ["0", "-1", "1001", "", "x", "1.5", "99999999999999999999"] {
            assert!(matches!(page(&[("limit", limit)]), Err(RequestError::InvalidPageLimit { .. })), "{limit}");
        }
        assert!(page(&[("limit", "1000")]).is_ok());
    }
}
