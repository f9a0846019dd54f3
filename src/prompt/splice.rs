//! Edits of a body: ranges of bytes replaced, all other bytes shared with the original.

use std::ops::Range;

use bytes::Bytes;
use thiserror::Error;

/// A replacement of a range of a body; of an empty range, an insertion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The bytes to replace.
    pub range: Range<usize>,
    /// What to put in their place.
    pub with: Bytes,
}

/// Edits that do not fit the body or each other. Never the client's fault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("edit of bytes {}..{} overlaps another or is not within the body", .range.start, .range.end)]
pub struct BadEdit {
    range: Range<usize>,
}

/// An edited body, as a short list of pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pieces(Vec<Bytes>);

impl Edit {
    /// Inserts `with` before the byte at `at`.
    pub fn insert(at: usize, with: impl Into<Bytes>) -> Self {
        Self::replace(at..at, with)
    }

    /// Puts `with` in the place of `range`.
    pub fn replace(range: Range<usize>, with: impl Into<Bytes>) -> Self {
        Self { range, with: with.into() }
    }
}

impl Pieces {
    /// The length of all pieces together, in bytes.
    pub fn len_bytes(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// The pieces in order; none is empty.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.0.iter()
    }

    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.0.push(piece);
        }
    }
}

impl IntoIterator for Pieces {
    type Item = Bytes;
    type IntoIter = std::vec::IntoIter<Bytes>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Applies `edits` to `body`.
///
/// *Shape*: edits in any order; insertions at one place keep theirs. *Errors*: a range that is reversed, overlaps
/// another or is not within the body. *Cost*: no byte of the body is copied.
pub fn splice(body: &Bytes, mut edits: Vec<Edit>) -> Result<Pieces, BadEdit> {
    edits.sort_by_key(|edit| (edit.range.start, edit.range.end));
    let mut pieces = Pieces(Vec::with_capacity(2 * edits.len() + 1));
    let mut done = 0;
    for Edit { range, with } in edits {
        if range.start < done || range.end < range.start || range.end > body.len() {
            return Err(BadEdit { range });
        }
        pieces.push(body.slice(done..range.start));
        pieces.push(with);
        done = range.end;
    }
    pieces.push(body.slice(done..));
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spliced(edits: Vec<Edit>) -> Result<String, BadEdit> {
        let pieces = splice(&Bytes::from_static(b"0123456789"), edits)?;
        let joined: Vec<u8> = pieces.iter().flatten().copied().collect();
        assert_eq!(joined.len(), pieces.len_bytes());
        assert!(pieces.into_iter().all(|piece| !piece.is_empty()));
        Ok(String::from_utf8(joined).unwrap())
    }

    #[test]
    fn edits_replace_and_insert_in_any_order() {
        assert_eq!(spliced(vec![]).unwrap(), "0123456789");
        let edits = vec![Edit::replace(5..7, "x"), Edit::insert(0, "a"), Edit::insert(10, "z"), Edit::insert(0, "b")];
        assert_eq!(spliced(edits).unwrap(), "ab01234x789z");
        assert_eq!(spliced(vec![Edit::replace(0..10, "")]).unwrap(), "");
        assert_eq!(spliced(vec![Edit::replace(3..5, "x"), Edit::insert(3, "y")]).unwrap(), "012yx56789");
    }

    #[test]
    fn edits_that_do_not_fit_are_refused() {
        let reversed = Range { start: 4, end: 3 };
        for edits in [
            vec![Edit::insert(11, "x")],
            vec![Edit::replace(0..11, "x")],
            vec![Edit::replace(0..5, "x"), Edit::replace(4..6, "y")],
            vec![Edit::replace(reversed, "x")],
        ] {
            assert!(spliced(edits).is_err());
        }
    }

    #[test]
    fn untouched_bytes_are_shared_not_copied() {
        let body = Bytes::from(vec![b'x'; 100]);
        let pieces = splice(&body, vec![Edit::insert(50, "y")]).unwrap();
        let starts: Vec<_> = pieces.iter().map(|piece| piece.as_ptr()).collect();
        assert_eq!((starts[0], starts[2]), (body.as_ptr(), body[50..].as_ptr()));
    }
}
