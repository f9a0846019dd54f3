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
    /// Not an object with a boolean or null `include_usage`, nor `null`: left to the replica to refuse.
    Invalid,
    Null(Range<usize>),
    Object {
        start: ObjectStart,
        include_usage: Option<(bool, Range<usize>)>,
    },
}

/// The place in an object where members can be inserted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ObjectStart {
    /// The offset after the opening brace.
    pub(super) offset: usize,
    /// The object has no members, so that an inserted one needs no comma.
    pub(super) is_empty: bool,
}

impl StreamOptions {
    /// Parses `value`, which lies in the body `text`.
    pub(super) fn parse(text: &str, value: &RawValue) -> Self {
        let range = json::range_in(text, value);
        if value.get() == "null" {
            return Self::Null(range);
        }
        let (mut include_usage, mut is_empty) = (None, true);
        let parsed = json::for_each_member(value.get(), |name, member| {
            is_empty = false;
            if name == "include_usage" {
                include_usage = Some(member);
            }
            Ok(())
        });
        let start = ObjectStart { offset: range.start + 1, is_empty };
        match (parsed, include_usage.map(|member| (member.get(), json::range_in(text, member)))) {
            (Ok(()), None) => Self::Object { start, include_usage: None },
            (Ok(()), Some(("true", range))) => Self::Object { start, include_usage: Some((true, range)) },
            (Ok(()), Some(("false" | "null", range))) => Self::Object { start, include_usage: Some((false, range)) },
            _ => Self::Invalid,
        }
    }

    /// Returns whether the client itself requested the usage event.
    pub(super) fn is_usage_requested(&self) -> bool {
        matches!(self, Self::Object { include_usage: Some((true, _)), .. })
    }

    /// Returns the edit that requests the usage event in a body that begins at `body_start`; `None` if the client
    /// already does, or wrote something that the replica will refuse.
    pub(super) fn usage_edit(&self, body_start: ObjectStart) -> Option<BodyEdit> {
        match self {
            Self::Absent => Some(body_start.insertion(r#""stream_options":{"include_usage":true}"#)),
            Self::Null(range) => Some(BodyEdit::replace(range.clone(), r#"{"include_usage":true}"#)),
            Self::Object { start, include_usage: None } => Some(start.insertion(r#""include_usage":true"#)),
            Self::Object { include_usage: Some((false, range)), .. } => Some(BodyEdit::replace(range.clone(), "true")),
            Self::Object { include_usage: Some((true, _)), .. } | Self::Invalid => None,
        }
    }
}

impl ObjectStart {
    fn insertion(self, member: &'static str) -> BodyEdit {
        if self.is_empty {
            BodyEdit::insert(self.offset, member)
        } else {
            BodyEdit::insert(self.offset, format!("{member},"))
        }
    }
}
