//! The turns of a conversation as they are written, and their roles.

use std::fmt;

use serde::de::{Deserializer as _, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::json;

/// Returns the first element of an array for which `matches` is true; `None` also for other JSON.
pub(super) fn find_element<'a>(array: &'a RawValue, matches: impl FnMut(&'a RawValue) -> bool) -> Option<&'a RawValue> {
    let mut search = ElementSearch { matches, found: None };
    // The visitor returns an error to stop at the element it looks for; the body as a whole has been checked before.
    let _ = serde_json::Deserializer::from_str(array.get()).deserialize_seq(&mut search);
    search.found
}

/// Returns the role of a turn, with its quotes; `None` if it has none or is no object.
pub(super) fn turn_role(turn: &RawValue) -> Option<&str> {
    find_member(turn, "role").map(RawValue::get)
}

/// Returns the last member of an object with this name.
pub(super) fn find_member<'a>(object: &'a RawValue, name: &str) -> Option<&'a RawValue> {
    let mut found = None;
    let parsed = json::for_each_member(object.get(), |member, value| {
        if member == name {
            found = Some(value);
        }
        Ok(())
    });
    parsed.ok().and(found)
}

/// Returns whether a role, with its quotes, is that of instructions.
pub(super) fn is_system_role(role: &str) -> bool {
    matches!(role, "\"system\"" | "\"developer\"")
}

/// Returns the JSON value with which `text` begins.
pub(super) fn first_value(text: &str) -> Option<&RawValue> {
    serde_json::Deserializer::from_str(text).into_iter().next()?.ok()
}

struct ElementSearch<'a, F> {
    matches: F,
    found: Option<&'a RawValue>,
}

impl<'a, F: FnMut(&'a RawValue) -> bool> Visitor<'a> for &mut ElementSearch<'a, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element::<&'a RawValue>()? {
            if (self.matches)(element) {
                self.found = Some(element);
                return Err(A::Error::custom("found"));
            }
        }
        Ok(())
    }
}
