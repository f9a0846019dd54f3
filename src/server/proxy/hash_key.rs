//! The value of a policy's hash key for one request.

use http::HeaderMap;
use http::request::Parts;

use crate::balance::{HashKey, KeyPart};
use crate::fleet::Pool;
use crate::server::connection::peer_addr::PeerAddr;
use crate::server::request::parse::ParsedRequest;

const X_SESSION_ID: &str = "x-session-id";
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
                KeyPart::User => bytes.extend_from_slice(self.parsed.user.as_deref().unwrap_or_default().as_bytes()),
                KeyPart::Session => self.push_session(&mut bytes),
                KeyPart::Prefix => self.push_prompt_prefix(pool, &mut bytes),
                KeyPart::CacheKey => {
                    let before = bytes.len();
                    self.push_cache_key(&mut bytes);
                    if bytes.len() == before {
                        self.push_prompt_prefix(pool, &mut bytes);
                    }
                }
            }
        }
        bytes
    }

    /// Appends the client's cache key, else its session id.
    fn push_cache_key(&self, bytes: &mut Vec<u8>) {
        let before = bytes.len();
        bytes.extend_from_slice(self.parsed.cache_key.as_deref().unwrap_or_default().as_bytes());
        if bytes.len() == before {
            push_header(&self.head.headers, X_SESSION_ID, bytes);
        }
    }

    /// Appends the hash of the prompt's beginning.
    fn push_prompt_prefix(&self, pool: &Pool, bytes: &mut Vec<u8>) {
        if let Some(prefix) = &self.parsed.fingerprint {
            let key = prefix.prefix_hash(pool.spec().token_accounting.prefix_length.0.saturating_mul(BYTES_PER_TOKEN));
            bytes.extend_from_slice(format!("{key:016x}").as_bytes());
        }
    }

    /// Appends the first of cache key, session id, user and conversation hash that the request has.
    fn push_session(&self, bytes: &mut Vec<u8>) {
        let before = bytes.len();
        self.push_cache_key(bytes);
        if bytes.len() == before {
            bytes.extend_from_slice(self.parsed.user.as_deref().unwrap_or_default().as_bytes());
        }
        if bytes.len() == before
            && let Some(hash) = self.parsed.conversation_hash
        {
            bytes.extend_from_slice(format!("{hash:016x}").as_bytes());
        }
    }
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
