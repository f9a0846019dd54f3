//! What a request is known by to its pool's policy.

use http::HeaderMap;
use http::request::Parts;

use super::identify::Peer;
use super::measure::Asked;
use crate::balance::{Key, Part};
use crate::fleet::Pool;

const X_SESSION_ID: &str = "x-session-id";
/// What a token of a prompt's beginning is taken for.
const BYTES_PER_TOKEN: u64 = 4;

/// All that a key can be made of.
#[derive(Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) head: &'a Parts,
    pub(super) asked: &'a Asked,
    /// Whom a trusted proxy names, else who is connected.
    pub(super) client: Peer,
}

impl Facts<'_> {
    /// The values of a key's variables in a row; what a request does not have is empty, as in nginx. Without a key nothing
    /// is allocated.
    pub(super) fn evaluate(&self, key: Option<&Key>, pool: &Pool) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in key.map_or(&[][..], Key::parts) {
            match part {
                Part::Text(text) => bytes.extend_from_slice(text.as_bytes()),
                Part::RequestUri => {
                    let uri = self.head.uri.path_and_query();
                    bytes.extend_from_slice(uri.map_or("", |uri| uri.as_str()).as_bytes());
                }
                Part::RemoteAddr => bytes.extend_from_slice(self.client.text().as_bytes()),
                Part::Header(name) => header(&self.head.headers, name, &mut bytes),
                Part::Model => bytes.extend_from_slice(self.asked.model.as_deref().unwrap_or_default().as_bytes()),
                Part::User => bytes.extend_from_slice(self.asked.user.as_deref().unwrap_or_default().as_bytes()),
                Part::Session => self.session(&mut bytes),
                Part::Prefix => self.prefix(pool, &mut bytes),
                Part::CacheKey => {
                    let before = bytes.len();
                    self.named(&mut bytes);
                    if bytes.len() == before {
                        self.prefix(pool, &mut bytes);
                    }
                }
            }
        }
        bytes
    }

    /// What the client calls its session or its cache by.
    fn named(&self, bytes: &mut Vec<u8>) {
        let before = bytes.len();
        bytes.extend_from_slice(self.asked.cache_key.as_deref().unwrap_or_default().as_bytes());
        if bytes.len() == before {
            header(&self.head.headers, X_SESSION_ID, bytes);
        }
    }

    /// How the prompt begins.
    fn prefix(&self, pool: &Pool, bytes: &mut Vec<u8>) {
        if let Some(prefix) = &self.asked.prefix {
            let key = prefix.key(pool.spec().metering.prefix.0.saturating_mul(BYTES_PER_TOKEN));
            bytes.extend_from_slice(format!("{key:016x}").as_bytes());
        }
    }

    /// The first there is of the names for a session.
    fn session(&self, bytes: &mut Vec<u8>) {
        let before = bytes.len();
        self.named(bytes);
        if bytes.len() == before {
            bytes.extend_from_slice(self.asked.user.as_deref().unwrap_or_default().as_bytes());
        }
        if bytes.len() == before
            && let Some(hash) = self.asked.opening
        {
            bytes.extend_from_slice(format!("{hash:016x}").as_bytes());
        }
    }
}

/// All values of a header, joined by `, ` as in nginx since 1.23.
fn header(headers: &HeaderMap, name: &str, bytes: &mut Vec<u8>) {
    for (at, value) in headers.get_all(name).iter().enumerate() {
        if at > 0 {
            bytes.extend_from_slice(b", ");
        }
        bytes.extend_from_slice(value.as_bytes());
    }
}
