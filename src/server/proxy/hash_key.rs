//! The value of a policy's hash key for one request.

use std::io::Write as _;

use http::HeaderMap;
use http::request::Parts;

use super::session_headers::find_session_header;
use crate::balance::{HashKey, KeyPart};
use crate::fleet::Pool;
use crate::server::connection::peer_addr::PeerAddr;
use crate::server::request::parse::{ConversationHash, ParsedRequest};

/// The assumed length of a token at a prompt's beginning.
const BYTES_PER_TOKEN: u64 = 4;

/// The parts of a request that hash keys are made of.
#[derive(Clone, Copy)]
pub(super) struct KeyInputs<'a> {
    pub(super) head: &'a Parts,
    pub(super) parsed: &'a ParsedRequest,
    /// The client behind trusted proxies.
    pub(super) client: PeerAddr,
}

impl KeyInputs<'_> {
    /// Returns the values of a key's variables, concatenated. A variable that the request lacks is empty, as in nginx.
    ///
    /// Without a key nothing is allocated.
    pub(super) fn evaluate(&self, key: Option<&HashKey>, pool: &Pool) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in key.map_or(&[][..], HashKey::parts) {
            match part {
                KeyPart::Text(text) => bytes.extend_from_slice(text.as_bytes()),
                KeyPart::RequestUri => {
                    let uri = self.head.uri.path_and_query();
                    bytes.extend_from_slice(uri.map_or("", |uri| uri.as_str()).as_bytes());
                }
                KeyPart::RemoteAddr => bytes.extend_from_slice(self.client.addr_text().as_bytes()),
                KeyPart::Header(name) => push_header(&self.head.headers, name, &mut bytes),
                KeyPart::Model => bytes.extend_from_slice(self.parsed.model.as_deref().unwrap_or_default().as_bytes()),
                KeyPart::User => {
                    bytes.extend_from_slice(self.parsed.identity.user.as_deref().unwrap_or_default().as_bytes());
                }
                KeyPart::Session => self.push_session(pool, &mut bytes),
                KeyPart::Prefix => self.push_prompt_prefix(pool, &mut bytes),
                KeyPart::CacheKey => self.push_cache_key(pool, &mut bytes),
            }
        }
        bytes
    }

    /// Returns the session that the client names: its cache key, else the id in a header or in the body.
    pub(super) fn named_session(&self, pool: &Pool) -> Option<&[u8]> {
        let identity = &self.parsed.identity;
        let cache_key = identity.cache_key.as_deref().map(str::as_bytes);
        let header = || find_session_header(&self.head.headers, &pool.spec().agents.session_headers);
        cache_key.or_else(header).or(identity.session_id.as_deref().map(str::as_bytes))
    }

    /// Appends the session, else the hash of the user's first message, else that of the prompt's beginning.
    fn push_cache_key(&self, pool: &Pool, bytes: &mut Vec<u8>) {
        match (self.named_session(pool), self.parsed.identity.conversation) {
            (Some(session), _) => bytes.extend_from_slice(session),
            (None, Some(ConversationHash::UserTurn(hash))) => push_hash(hash, bytes),
            (None, _) => self.push_prompt_prefix(pool, bytes),
        }
    }

    /// Appends the hash of the prompt's beginning.
    fn push_prompt_prefix(&self, pool: &Pool, bytes: &mut Vec<u8>) {
        if let Some(prefix) = &self.parsed.fingerprint {
            let key = prefix.prefix_hash(pool.spec().token_accounting.prefix_length.0.saturating_mul(BYTES_PER_TOKEN));
            push_hash(key, bytes);
        }
    }

    /// Appends the first of session, user and conversation hash that the request has.
    fn push_session(&self, pool: &Pool, bytes: &mut Vec<u8>) {
        let identity = &self.parsed.identity;
        match (self.named_session(pool).or(identity.user.as_deref().map(str::as_bytes)), identity.conversation) {
            (Some(name), _) => bytes.extend_from_slice(name),
            (None, Some(ConversationHash::UserTurn(hash) | ConversationHash::Prompt(hash))) => push_hash(hash, bytes),
            (None, None) => {}
        }
    }
}

fn push_hash(hash: u64, bytes: &mut Vec<u8>) {
    // Writing to a vector cannot fail.
    let _ = write!(bytes, "{hash:016x}");
}

/// Appends all values of a header, joined by `, ` as in nginx since 1.23.
fn push_header(headers: &HeaderMap, name: &str, bytes: &mut Vec<u8>) {
    for (index, value) in headers.get_all(name).iter().enumerate() {
        if index > 0 {
            bytes.extend_from_slice(b", ");
        }
        bytes.extend_from_slice(value.as_bytes());
    }
}
