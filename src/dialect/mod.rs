//! Layer 1: API dialects, the families of request and response shapes that endpoints speak, as rows of one table.
//!
//! Code outside this module never compares dialects. It asks the row: [`Dialect::spec`].
//!
//! To add a dialect, for example `gemini`:
//!
//! 1. Write `dialect/gemini.rs` with a `SPEC`: its event reader, error event, error body, and the members of a request
//!    that hold the prompt. `choices_event` and `event_json` have readers to build on.
//! 2. In this file, add `mod gemini;`, a variant before [`Dialect::Other`], its entry in [`Dialect::ALL`] and its arm
//!    in [`Dialect::spec`].
//! 3. Add a row for each path to `ENDPOINTS` in `prompt/endpoint.rs`.
//!
//! The emulator needs a writer in `emulate/dialects` to speak it in tests.

mod chat;
mod choices_event;
mod completions;
mod error_body;
mod event;
mod event_json;
mod json_object;
mod messages;
mod other;
mod prompt_members;
mod responses;
mod spec;
mod usage;

use std::sync::LazyLock;

use prompt_members::NameTable;

pub use error_body::{ErrorDetails, reports_unknown_model};
pub use event::{ErrorBlame, EventContent, RawEvent, WantedFields};
pub use event_json::{blame_error, is_error_value};
pub use json_object::JsonObject;
pub use prompt_members::{ContentMember, MAX_PROMPT_MEMBERS, MediaKind, PromptMember, PromptPart};
pub use spec::DialectSpec;
pub use usage::{UsageCounts, UsageObject};

/// The family of request and response shapes that an endpoint speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
    /// `/v1/messages`, Anthropic's.
    Messages,
    /// `/v1/responses`.
    Responses,
    /// Any other path: relayed, and observed only for `usage`.
    Other,
}

static PROMPT_MEMBERS: LazyLock<Vec<PromptMember>> = LazyLock::new(|| {
    let mut members: Vec<PromptMember> = Vec::new();
    for member in Dialect::ALL.iter().flat_map(|dialect| dialect.spec().prompt_members) {
        if !members.iter().any(|known| known.name == member.name) {
            members.push(*member);
        }
    }
    members.sort_by_key(|member| member.part);
    members
});

static CONTENT_MEMBERS: LazyLock<NameTable<ContentMember>> =
    LazyLock::new(|| NameTable::new(Dialect::ALL.iter().flat_map(|dialect| dialect.spec().content_members).copied()));

impl Dialect {
    /// All dialects, in the order of their declaration.
    pub const ALL: [Self; 5] = [Self::Chat, Self::Completions, Self::Messages, Self::Responses, Self::Other];

    /// Returns the dialect's row of the table.
    pub const fn spec(self) -> &'static DialectSpec {
        match self {
            Self::Chat => &chat::SPEC,
            Self::Completions => &completions::SPEC,
            Self::Messages => &messages::SPEC,
            Self::Responses => &responses::SPEC,
            Self::Other => &other::SPEC,
        }
    }

    /// Returns whether a stream's events are known, so that it may be filtered and ended by an error event.
    pub const fn has_known_events(self) -> bool {
        self.spec().error_event.is_some()
    }

    /// Returns the error event that ends a stream, with the reason as its message; `None` for [`Dialect::Other`].
    ///
    /// `sequence` is the number of events before it. No `[DONE]` belongs after it.
    pub fn error_event(self, message: &str, sequence: u64) -> Option<String> {
        self.spec().error_event.map(|write| write(message, sequence))
    }
}

/// Returns the members of a request that hold a prompt in any dialect, each once, in the order in which they are read.
///
/// They count on every path, because some engines accept several shapes on one.
pub fn prompt_members() -> &'static [PromptMember] {
    &PROMPT_MEMBERS
}

/// Returns the meaning of a member within a prompt; `None` if its value is text.
pub fn content_member(name: &str) -> Option<ContentMember> {
    CONTENT_MEMBERS.get(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_every_dialect_in_order() {
        assert_eq!(Dialect::ALL.len(), Dialect::Other as usize + 1);
        assert!(Dialect::ALL.iter().enumerate().all(|(index, dialect)| *dialect as usize == index));
    }

    #[test]
    fn prompt_members_are_unique_few_and_in_reading_order() {
        let names: Vec<_> = prompt_members().iter().map(|member| member.name).collect();
        assert_eq!(names, ["tools", "system", "instructions", "messages", "input", "prompt"]);
        assert!(names.len() <= MAX_PROMPT_MEMBERS);
    }

    #[test]
    fn dialects_agree_on_the_meaning_of_a_content_member() {
        for (name, member) in Dialect::ALL.iter().flat_map(|dialect| dialect.spec().content_members) {
            assert_eq!(content_member(name), Some(*member), "{name}");
        }
        assert_eq!(content_member("text"), None);
    }
}
