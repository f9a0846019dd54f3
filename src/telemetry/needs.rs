//! What formats need to be kept of a request.

use http::{HeaderMap, HeaderName, header};

use super::format::Part;
use super::variables::Keep;

/// What must be kept while a request runs, besides what costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Headers of the client's.
    pub asked: Vec<HeaderName>,
    /// Headers to the client.
    pub sent: Vec<HeaderName>,
    /// Headers of the replica's.
    pub upstream: Vec<HeaderName>,
    /// The pool.
    pub pool: bool,
    /// How many bytes the heads have.
    pub sizes: bool,
    /// The addresses and ports of both ends of the connection.
    pub ends: bool,
}

impl Needs {
    /// Tells whether anything at all must be kept of a request.
    pub fn any(&self) -> bool {
        !(self.asked.is_empty() && self.sent.is_empty() && self.upstream.is_empty()) || self.pool || self.sizes
    }

    /// Needs all that another needs as well.
    pub fn join(&mut self, other: &Self) {
        for (names, more) in
            [(&mut self.asked, &other.asked), (&mut self.sent, &other.sent), (&mut self.upstream, &other.upstream)]
        {
            names.extend(more.iter().cloned());
            names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
            names.dedup();
        }
        self.pool |= other.pool;
        self.sizes |= other.sizes;
        self.ends |= other.ends;
    }

    pub(super) fn of(parts: &[Part]) -> Self {
        let mut needs = Self::default();
        for part in parts {
            match part {
                Part::Text(_) | Part::Argument(_) => {}
                Part::Asked(name) => needs.asked.push(name.clone()),
                Part::Sent(name) => needs.sent.push(name.clone()),
                Part::Upstream(name) => needs.upstream.push(name.clone()),
                Part::Cookie(_) => needs.asked.push(header::COOKIE),
                Part::Plain(row) => match row.keep {
                    Keep::Nothing => {}
                    Keep::Asked(name) => needs.asked.push(HeaderName::from_static(name)),
                    Keep::Pool => needs.pool = true,
                    Keep::Sizes => needs.sizes = true,
                    Keep::Ends => needs.ends = true,
                },
            }
        }
        for names in [&mut needs.asked, &mut needs.sent, &mut needs.upstream] {
            names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
            names.dedup();
        }
        needs
    }

    /// The `names` among `headers`.
    pub fn select(names: &[HeaderName], headers: &HeaderMap) -> HeaderMap {
        let mut kept = HeaderMap::new();
        for name in names {
            for value in headers.get_all(name) {
                kept.append(name, value.clone());
            }
        }
        kept
    }
}
