//! Edits of a body: ranges of bytes replaced, all other bytes shared with the original.

use std::ops::Range;

use bytes::Bytes;
use thiserror::Error;

/// A replacement of a range of a body; of an empty range, an insertion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyEdit {
    /// The bytes to replace.
    pub range: Range<usize>,
    /// The bytes to put there.
    pub replacement: Bytes,
}

/// Edits that do not fit the body or overlap. A bug of the router, never the client's fault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("edit of bytes {}..{} overlaps another or is not within the body", .range.start, .range.end)]
pub struct EditError {
    range: Range<usize>,
}

/// An edited body, as a short list of pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodyPieces(Vec<Bytes>);

impl BodyEdit {
    /// Returns an edit that inserts `text` before the byte at `offset`.
    pub fn insert(offset: usize, text: impl Into<Bytes>) -> Self {
        Self::replace(offset..offset, text)
    }

    /// Returns an edit that replaces `range` by `text`.
    pub fn replace(range: Range<usize>, text: impl Into<Bytes>) -> Self {
        Self { range, replacement: text.into() }
    }
}

impl BodyPieces {
    /// Returns the length of all pieces together, in bytes.
    pub fn len_bytes(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// Returns the pieces in order; none is empty.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.0.iter()
    }

    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.0.push(piece);
        }
    }
}

impl IntoIterator for BodyPieces {
    type Item = Bytes;
    type IntoIter = std::vec::IntoIter<Bytes>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Applies `edits` to `body`.
///
/// *Shape*: edits in any order; insertions at one place keep their order. *Errors*: a range is reversed, overlaps
/// another or is not within the body. *Cost*: no byte of the body is copied.
pub fn splice(body: &Bytes, mut edits: Vec<BodyEdit>) -> Result<BodyPieces, EditError> {
    edits.sort_by_key(|edit| (edit.range.start, edit.range.end));
    let mut pieces = BodyPieces(Vec::with_capacity(2 * edits.len() + 1));
    let mut done = 0;
    for BodyEdit { range, replacement } in edits {
        if range.start < done || range.end < range.start || range.end > body.len() {
            return Err(EditError { range });
        }
        pieces.push(body.slice(done..range.start));
        pieces.push(replacement);
        done = range.end;
    }
    pieces.push(body.slice(done..));
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn splice_digits(edits: Vec<BodyEdit>) -> Result<String, EditError> {
        let pieces = splice(&Bytes::from_static(b"0123456789"), edits)?;
        let joined: Vec<u8> = pieces.iter().flatten().copied().collect();
        assert_eq!(joined.len(), pieces.len_bytes());
        assert!(pieces.into_iter().all(|piece| !piece.is_empty()));
        Ok(String::from_utf8(joined).unwrap())
    }

    #[test]
    fn edits_replace_and_insert_in_any_order() {
        assert_eq!(splice_digits(vec![]).unwrap(), "0123456789");
        let edits = vec![
            BodyEdit::replace(5..7, "x"),
            BodyEdit::insert(0, "a"),
            BodyEdit::insert(10, "z"),
            BodyEdit::insert(0, "b"),
        ];
        assert_eq!(splice_digits(edits).unwrap(), "ab01234x789z");
        assert_eq!(splice_digits(vec![BodyEdit::replace(0..10, "")]).unwrap(), "");
        assert_eq!(splice_digits(vec![BodyEdit::replace(3..5, "x"), BodyEdit::insert(3, "y")]).unwrap(), "012yx56789");
    }

    #[test]
    fn edits_that_do_not_fit_are_refused() {
        let reversed = Range { start: 4, end: 3 };
        for edits in [
            vec![BodyEdit::insert(11, "x")],
            vec![BodyEdit::replace(0..11, "x")],
            vec![BodyEdit::replace(0..5, "x"), BodyEdit::replace(4..6, "y")],
            vec![BodyEdit::replace(reversed, "x")],
        ] {
            assert!(splice_digits(edits).is_err());
        }
    }

    #[test]
    fn untouched_bytes_are_shared_not_copied() {
        let body = Bytes::from(vec![b'x'; 100]);
        let pieces = splice(&body, vec![BodyEdit::insert(50, "y")]).unwrap();
        let starts: Vec<_> = pieces.iter().map(|piece| piece.as_ptr()).collect();
        assert_eq!((starts[0], starts[2]), (body.as_ptr(), body[50..].as_ptr()));
    }
}
