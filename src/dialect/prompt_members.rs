//! The members of a request that make up its prompt.

/// Distinct prompt members of all dialects, at most.
pub const MAX_PROMPT_MEMBERS: usize = 12;

/// A top-level member of a request that holds a part of the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptMember {
    /// The member's name.
    pub name: &'static str,
    /// The part that it holds.
    pub part: PromptPart,
}

/// A part of a prompt. The order is that in which engines put the parts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PromptPart {
    /// Definitions of tools.
    Tools,
    /// The system prompt.
    System,
    /// The turns of a conversation, or a single input.
    Turns,
    /// Text without turns, token ids, or several of either.
    Text,
}

/// The meaning of a member within a prompt whose value is not plain text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentMember {
    /// The speaker of a turn.
    Role,
    /// Not part of the prompt: types, ids and the like.
    Ignored,
    /// An object that is not part of the prompt, such as a cache breakpoint.
    IgnoredObject,
    /// A URL or base64 data; its kind is that of the object around it.
    MediaSource,
    /// A URL, or an object with a [`ContentMember::MediaSource`].
    MediaUrl(MediaKind),
    /// An object with a [`ContentMember::MediaSource`].
    MediaObject(MediaKind),
}

/// The kind of a piece that is not text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaKind {
    /// An image, a video or a document's pages.
    Image,
    /// A sound.
    Audio,
}
