//! The hash key of a request: a template of text and variables, as in nginx's `hash $request_uri`.

use std::fmt;

use super::PolicyError;
use crate::log_format::{LogFormat, RequiredFields, ValueAvailability, available_variable_names};

/// A template of text and variables, from a policy's argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashKey {
    parts: Vec<KeyPart>,
    /// What the log format's variables need.
    required_fields: RequiredFields,
}

/// A piece of a [`HashKey`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPart {
    /// Literal text.
    Text(String),
    /// `$request_uri`: path and query as sent by the client.
    RequestUri,
    /// `$remote_addr`: the client's address; `unix:` for a Unix socket.
    RemoteAddr,
    /// `$http_NAME`: a header, its name in lower case with `-`; several values are joined by `, `.
    Header(String),
    /// `$model`: the requested model.
    Model,
    /// `$user`: the body's `user`.
    User,
    /// `$session`: the first present of the body's `prompt_cache_key`, the session that a header or the body names, the
    /// body's `user` and a hash of the first user message.
    Session,
    /// `$prefix`: a hash of the prompt's first tokens, as many as the pool's `prefix_tokens`.
    Prefix,
    /// `$cache_key`: the first present of the body's `prompt_cache_key`, the session that a header or the body names, a
    /// hash of the first user message and `$prefix`. Not the user, who has several conversations; not the prefix first,
    /// which for an agent is the tools that all its users share.
    CacheKey,
    /// One of the log format's variables that has its value before a replica is chosen, such as `$arg_NAME`.
    Variable(LogFormat),
}

/// The variables of bodies, and those that are often used.
const KEY_VARIABLES: [(&str, KeyPart); 7] = [
    ("$session", KeyPart::Session),
    ("$user", KeyPart::User),
    ("$model", KeyPart::Model),
    ("$remote_addr", KeyPart::RemoteAddr),
    ("$request_uri", KeyPart::RequestUri),
    ("$prefix", KeyPart::Prefix),
    ("$cache_key", KeyPart::CacheKey),
];

impl HashKey {
    /// Parses a template; `$name` and `${name}` are variables, all else is text.
    ///
    /// *Errors*: a variable is unknown.
    pub fn parse(template: &str) -> Result<Self, PolicyError> {
        let mut parts = Vec::new();
        let mut rest = template;
        while !rest.is_empty() {
            let text_len = rest.find('$').unwrap_or(rest.len());
            if text_len > 0 {
                parts.push(KeyPart::Text(rest[..text_len].to_owned()));
                rest = &rest[text_len..];
                continue;
            }
            let (written, name) = split_variable(rest);
            parts.push(parse_part(name).ok_or_else(|| PolicyError::UnknownVariable(written.to_owned()))?);
            rest = &rest[written.len()..];
        }
        let mut key = Self { parts, required_fields: RequiredFields::default() };
        for part in &key.parts {
            if let KeyPart::Variable(variable) = part {
                key.required_fields.merge(variable.required_fields());
            }
        }
        Ok(key)
    }

    /// Returns the key of requests that share a cached prefix: `$cache_key`.
    pub(super) fn cache_key() -> Self {
        Self { parts: vec![KeyPart::CacheKey], required_fields: RequiredFields::default() }
    }

    /// Returns the pieces, in order.
    pub fn parts(&self) -> &[KeyPart] {
        &self.parts
    }

    /// Returns whether the key has a variable of the log format.
    pub fn has_log_variables(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, KeyPart::Variable(_)))
    }

    /// Returns the fields of a request that the variables of the log format need.
    pub const fn required_fields(&self) -> &RequiredFields {
        &self.required_fields
    }

    /// Returns whether the key depends on the body, apart from its model.
    pub fn needs_body(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, KeyPart::User | KeyPart::Session | KeyPart::CacheKey))
    }

    /// Returns whether the key depends on the prompt's prefix.
    pub fn needs_prefix(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, KeyPart::Prefix | KeyPart::CacheKey))
    }

    /// Returns the variables as they are written.
    pub fn variables() -> Vec<String> {
        let own = KEY_VARIABLES.iter().map(|(name, _)| (*name).to_owned());
        let of_log = available_variable_names(ValueAvailability::AtChoice).into_iter().map(|name| format!("${name}"));
        let of_log = of_log.filter(|name| !KEY_VARIABLES.iter().any(|(own, _)| own == name));
        own.chain(of_log).collect()
    }
}

impl fmt::Display for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            KeyPart::Text(text) => f.write_str(text),
            KeyPart::Variable(variable) => f.write_str(variable.source()),
            KeyPart::Header(name) => write!(f, "${{http_{}}}", name.replace('-', "_")),
            part => {
                let name = KEY_VARIABLES.iter().find(|(_, known)| known == part).map_or("", |(name, _)| &name[1..]);
                write!(f, "${{{name}}}")
            }
        })
    }
}

/// Returns the variable at the start of `text`: as written, and its name without `$` and braces.
fn split_variable(text: &str) -> (&str, &str) {
    if let Some(inner) = text.strip_prefix("${") {
        return match inner.find('}') {
            Some(end) => (&text[..end + 3], &inner[..end]),
            None => (text, ""),
        };
    }
    let name = &text[1..];
    let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
    (&text[..=end], &name[..end])
}

/// Returns the variable of this name, in any case as in nginx.
fn parse_part(name: &str) -> Option<KeyPart> {
    let name = &*name.to_ascii_lowercase();
    if let Some(header) = name.strip_prefix("http_") {
        let fits = !header.is_empty() && header.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        return fits.then(|| KeyPart::Header(header.to_ascii_lowercase().replace('_', "-")));
    }
    if let Some((_, part)) = KEY_VARIABLES.iter().find(|(known, _)| &known[1..] == name) {
        return Some(part.clone());
    }
    LogFormat::for_hash_key(&format!("${{{name}}}")).ok().map(KeyPart::Variable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_has_text_and_variables() {
        let key = HashKey::parse("a$request_uri-${user}b$http_X_Team").unwrap();
        let text = |text: &str| KeyPart::Text(text.to_owned());
        let header = KeyPart::Header("x-team".to_owned());
        assert_eq!(key.parts(), [text("a"), KeyPart::RequestUri, text("-"), KeyPart::User, text("b"), header]);
        assert_eq!(HashKey::parse(&key.to_string()), Ok(key));
        for name in HashKey::variables() {
            assert!(HashKey::parse(&name).is_ok(), "{name}");
        }
    }

    #[test]
    fn variables_of_the_log_are_variables_of_keys() {
        let key = HashKey::parse("$Arg_User${cookie_SID}-$binary_remote_addr$server_port").unwrap();
        assert_eq!(key.to_string(), "${arg_user}${cookie_sid}-${binary_remote_addr}${server_port}");
        assert_eq!(HashKey::parse(&key.to_string()).as_ref(), Ok(&key));
        assert_eq!(key.required_fields().request_headers, ["cookie"]);
        assert!(key.has_log_variables() && key.required_fields().socket_addrs);
        assert!(!HashKey::parse("$request_uri$http_a$model").unwrap().has_log_variables());
    }

    #[test]
    fn unknown_variable_is_reported_as_written() {
        for (template, bad) in [
            ("$url", "$url"),
            ("$status", "$status"),
            ("$upstream_addr", "$upstream_addr"),
            ("$sent_http_x", "$sent_http_x"),
            ("$1", "$1"),
            ("x$sesion/", "$sesion"),
            ("${usr}x", "${usr}"),
            ("${user", "${user"),
            ("a$", "$"),
            ("$http_", "$http_"),
            ("$\u{e9}", "$"),
        ] {
            assert_eq!(HashKey::parse(template), Err(PolicyError::UnknownVariable(bad.to_owned())), "{template}");
        }
    }
}
