//! `stream_options`, and the edit that adds `include_usage` to it.

use std::ops::Range;

use serde_json::value::RawValue;

use super::json;
use super::splice::BodyEdit;

/// The `stream_options` member, as far as `include_usage` is concerned.
#[derive(Clone, Debug, Default)]
pub(super) enum StreamOptions {
    #[default]
    Absent,
    Null(Range<usize>),
    /// Anything else. It reaches the replica as it is.
    Written {
        include_usage: Option<bool>,
    },
}

/// The place in an object where members can be inserted.
#[derive(Clone, Copy, Debug, Default)]
pub struct ObjectStart {
    /// The offset after the opening brace.
    pub(super) offset: usize,
    /// The object has no members, so that an inserted one needs no comma.
    pub(super) is_empty: bool,
}

impl StreamOptions {
    /// Parses `value`, which lies in the body `text`.
    pub(super) fn parse(text: &str, value: &RawValue) -> Self {
        if value.get() == "null" {
            return Self::Null(json::range_in(text, value));
        }
        let mut include_usage = None;
        // What is not an object is left to the replica to refuse.
        let _ = json::for_each_member(value.get(), |name, member| {
            if name == "include_usage" {
                include_usage = serde_json::from_str(member.get()).ok();
            }
            Ok(())
        });
        Self::Written { include_usage }
    }

    /// Returns whether the client itself requested the usage event.
    pub(super) fn is_usage_requested(&self) -> bool {
        matches!(self, Self::Written { include_usage: Some(true) })
    }

    /// Returns whether the client itself refused it.
    pub(super) fn is_usage_refused(&self) -> bool {
        matches!(self, Self::Written { include_usage: Some(false) })
    }

    /// Returns the edit that requests the usage event in a body that begins at `body_start`; `None` if the client wrote
    /// options of its own. Their meaning differs: without `include_usage`, vLLM reports usage and OpenAI does not.
    pub(super) fn usage_edit(&self, body_start: ObjectStart) -> Option<BodyEdit> {
        match self {
            Self::Absent => Some(body_start.insertion(r#""stream_options":{"include_usage":true}"#)),
            Self::Null(range) => Some(BodyEdit::replace(range.clone(), r#"{"include_usage":true}"#)),
            Self::Written { .. } => None,
        }
    }
}

impl ObjectStart {
    /// Returns the edit that inserts `member`, a name and a value.
    pub fn insertion(self, member: &str) -> BodyEdit {
        BodyEdit::insert(self.offset, format!("{member}{}", if self.is_empty { "" } else { "," }))
    }
}
