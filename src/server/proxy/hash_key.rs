//! The value of a policy's hash key for one request.

use std::io::Write as _;

use http::header;
use http::request::Parts;

use super::session_headers::find_session_header;
use crate::balance::{HashKey, KeyPart};
use crate::fleet::Pool;
use crate::log_format::{
    AttemptRecords, CapturedFields, LogFormat, RequestRecord, RequestTimes, RequiredFields, ResponseInfo, TokenInfo,
};
use crate::server::request::client::authority_line;
use crate::server::request::context::RequestContext;
use crate::server::request::parse::{ConversationHash, ParsedRequest};

/// The assumed length of a token at a prompt's beginning.
const BYTES_PER_TOKEN: u64 = 4;

/// The parts of a request that hash keys are made of.
#[derive(Clone, Copy)]
pub(super) struct KeyInputs<'a> {
    pub(super) head: &'a Parts,
    pub(super) parsed: &'a ParsedRequest,
    pub(super) context: &'a RequestContext,
}

impl KeyInputs<'_> {
    /// Returns the values of a key's variables, concatenated. A variable that the request lacks is empty, as in nginx.
    ///
    /// Without a key nothing is allocated. Only variables of the log format need a record.
    pub(super) fn evaluate(&self, key: Option<&HashKey>, pool: &Pool) -> Vec<u8> {
        let Some(key) = key else { return Vec::new() };
        let captured = key.has_log_variables().then(|| self.capture_fields(key));
        let mut bytes = Vec::new();
        for part in key.parts() {
            match part {
                KeyPart::Text(text) => bytes.extend_from_slice(text.as_bytes()),
                KeyPart::RequestUri => {
                    let uri = self.head.uri.path_and_query();
                    bytes.extend_from_slice(uri.map_or("", |uri| uri.as_str()).as_bytes());
                }
                KeyPart::RemoteAddr => bytes.extend_from_slice(self.context.client_info.client.addr_text().as_bytes()),
                KeyPart::Header(name) => push_header(self.head, name, &mut bytes),
                KeyPart::Model => bytes.extend_from_slice(self.parsed.model.as_deref().unwrap_or_default().as_bytes()),
                KeyPart::User => {
                    bytes.extend_from_slice(self.parsed.identity.user.as_deref().unwrap_or_default().as_bytes());
                }
                KeyPart::Session => self.push_session(pool, &mut bytes),
                KeyPart::Variable(variable) => self.push_variable(variable, captured.as_ref(), &mut bytes),
                KeyPart::Prefix => self.push_prompt_prefix(pool, &mut bytes),
                KeyPart::CacheKey => self.push_cache_key(pool, &mut bytes),
            }
        }
        bytes
    }

    /// Returns the fields that the variables of the log format need.
    fn capture_fields(&self, key: &HashKey) -> CapturedFields {
        let names = &key.required_fields().request_headers;
        let mut request_headers = RequiredFields::select_headers(names, &self.head.headers);
        if let Some(host) = authority_line(self.head) {
            request_headers.insert(header::HOST, host);
        }
        CapturedFields { request_headers, ..CapturedFields::default() }
    }

    /// Appends the value of a variable of the log format, as far as it is known before a replica is chosen.
    fn push_variable(&self, variable: &LogFormat, captured: Option<&CapturedFields>, bytes: &mut Vec<u8>) {
        let context = self.context;
        let record = RequestRecord {
            id: &context.id,
            client_addr: &context.client_info.client.addr_text(),
            client_port: context.client_info.client_port(context.request_line.connection),
            peer_addr: context.client_info.peer.ip(),
            request_line: &context.request_line,
            server_name: context.server_name(),
            response: ResponseInfo::default(),
            attempts: &AttemptRecords::default(),
            tokens: TokenInfo::default(),
            times: RequestTimes::default(),
            utc_offset: |_| 0,
            tenant: context.tenant_name().map(|name| &**name),
            outcome: "",
            captured,
        };
        variable.render(&record, bytes);
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

/// Appends all values of a header, joined as in nginx since 1.23: by `, `, cookies by `; `.
fn push_header(head: &Parts, name: &str, bytes: &mut Vec<u8>) {
    if let Some(host) = authority_line(head).filter(|_| name == header::HOST) {
        return bytes.extend_from_slice(host.as_bytes());
    }
    let separator = if name == header::COOKIE { b"; " } else { b", " };
    for (index, value) in head.headers.get_all(name).iter().enumerate() {
        if index > 0 {
            bytes.extend_from_slice(separator);
        }
        bytes.extend_from_slice(value.as_bytes());
    }
}
