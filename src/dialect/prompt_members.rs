//! The members of a request that make up its prompt, and the look-up of members by name on the request path.

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

/// Values by name, for a few dozen short names known at start. *Cost*: mostly one comparison a look-up.
pub(super) struct NameTable<T> {
    by_length: Vec<Vec<(&'static str, T)>>,
}

impl<T: Copy> NameTable<T> {
    /// Returns a table of `entries`; of entries with one name the first stays.
    pub(super) fn new(entries: impl IntoIterator<Item = (&'static str, T)>) -> Self {
        let mut table = Self { by_length: Vec::new() };
        for (name, value) in entries {
            if table.get(name).is_none() {
                let lengths = table.by_length.len().max(name.len() + 1);
                table.by_length.resize_with(lengths, Vec::new);
                table.by_length[name.len()].push((name, value));
            }
        }
        table
    }

    /// Returns the value of `name`.
    pub(super) fn get(&self, name: &str) -> Option<T> {
        let first = name.bytes().next();
        let same_length = self.by_length.get(name.len())?;
        // Comparing the first byte here saves most calls of `memcmp`.
        same_length.iter().find(|(known, _)| known.bytes().next() == first && *known == name).map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_whole_and_the_first_value_of_a_name_stays() {
        let table = NameTable::new([("id", 1), ("url", 2), ("uri", 3), ("id", 4)]);
        assert_eq!(["id", "url", "uri"].map(|name| table.get(name)), [Some(1), Some(2), Some(3)]);
        assert_eq!(["", "i", "idx", "urn", "a longer name"].map(|name| table.get(name)), [None; 5]);
    }
}
