//! The hash key of a request: a template of text and variables, as in nginx's `hash $request_uri`.

use std::fmt;

use super::PolicyError;

/// A template of text and variables, from a policy's argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashKey {
    parts: Vec<KeyPart>,
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
}

/// The variables except `$http_NAME`.
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
        Ok(Self { parts })
    }

    /// Returns the key of requests that share a cached prefix: `$cache_key`.
    pub(super) fn cache_key() -> Self {
        Self { parts: vec![KeyPart::CacheKey] }
    }

    /// Returns the pieces, in order.
    pub fn parts(&self) -> &[KeyPart] {
        &self.parts
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
    pub fn variables() -> Vec<&'static str> {
        KEY_VARIABLES.iter().map(|(name, _)| *name).chain(["$http_NAME"]).collect()
    }
}

impl fmt::Display for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            KeyPart::Text(text) => f.write_str(text),
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

fn parse_part(name: &str) -> Option<KeyPart> {
    if let Some(header) = name.strip_prefix("http_") {
        let fits = !header.is_empty() && header.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        return fits.then(|| KeyPart::Header(header.to_ascii_lowercase().replace('_', "-")));
    }
    KEY_VARIABLES.iter().find(|(known, _)| &known[1..] == name).map(|(_, part)| part.clone())
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
            assert!(HashKey::parse(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn unknown_variable_is_reported_as_written() {
        for (template, bad) in [
            ("$uri", "$uri"),
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
