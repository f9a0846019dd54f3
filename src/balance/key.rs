//! What a request is known by to a policy: a template of text and variables, as in nginx's `hash $request_uri`.

use std::fmt;

use super::BadPolicy;

/// A template of text and variables, read from a policy's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    parts: Vec<Part>,
}

/// A piece of a [`Key`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text that stands for itself.
    Text(String),
    /// `$request_uri`: path and query as the client sent them.
    RequestUri,
    /// `$remote_addr`: the client's address; `unix:` for a Unix socket.
    RemoteAddr,
    /// `$http_NAME`: a header by its name in lower case with `-`; several are joined by `, `.
    Header(String),
    /// `$model`: the model asked for.
    Model,
    /// `$user`: the body's `user`.
    User,
    /// `$session`: the first there is of the body's `prompt_cache_key`, the header `x-session-id`, the body's `user` and
    /// a hash of the first message.
    Session,
    /// `$prefix`: a hash of how the prompt begins, as far as the pool's `prefix_tokens`.
    Prefix,
    /// `$cache_key`: the first there is of the body's `prompt_cache_key`, the header `x-session-id` and `$prefix`.
    CacheKey,
}

/// The variables that stand for themselves; a header follows `$http_`.
const VARIABLES: [(&str, Part); 7] = [
    ("$session", Part::Session),
    ("$user", Part::User),
    ("$model", Part::Model),
    ("$remote_addr", Part::RemoteAddr),
    ("$request_uri", Part::RequestUri),
    ("$prefix", Part::Prefix),
    ("$cache_key", Part::CacheKey),
];

impl Key {
    /// Reads a template; `$name` and `${name}` are variables, all else is text.
    ///
    /// *Errors*: a variable there is not.
    pub fn parse(template: &str) -> Result<Self, BadPolicy> {
        let mut parts = Vec::new();
        let mut rest = template;
        while !rest.is_empty() {
            let text = rest.find('$').unwrap_or(rest.len());
            if text > 0 {
                parts.push(Part::Text(rest[..text].to_owned()));
                rest = &rest[text..];
                continue;
            }
            let (written, name) = variable(rest);
            parts.push(part(name).ok_or_else(|| BadPolicy::Variable(written.to_owned()))?);
            rest = &rest[written.len()..];
        }
        Ok(Self { parts })
    }

    /// What requests that share a cache are known by: `$cache_key`.
    pub(super) fn cache() -> Self {
        Self { parts: vec![Part::CacheKey] }
    }

    /// The pieces, in order.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Tells whether the body has a say in the key, besides its model.
    pub fn asks_body(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::User | Part::Session | Part::CacheKey))
    }

    /// Tells whether how the prompt begins has a say in the key.
    pub fn asks_prefix(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Prefix | Part::CacheKey))
    }

    /// The variables there are, as they are written.
    pub fn variables() -> Vec<&'static str> {
        VARIABLES.iter().map(|(name, _)| *name).chain(["$http_NAME"]).collect()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Header(name) => write!(f, "${{http_{}}}", name.replace('-', "_")),
            part => {
                let name = VARIABLES.iter().find(|(_, known)| known == part).map_or("", |(name, _)| &name[1..]);
                write!(f, "${{{name}}}")
            }
        })
    }
}

/// The variable at the start of `text`, as it is written and without braces but with its `$` in front of its name cut off.
fn variable(text: &str) -> (&str, &str) {
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

fn part(name: &str) -> Option<Part> {
    if let Some(header) = name.strip_prefix("http_") {
        let fits = !header.is_empty() && header.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        return fits.then(|| Part::Header(header.to_ascii_lowercase().replace('_', "-")));
    }
    VARIABLES.iter().find(|(known, _)| &known[1..] == name).map(|(_, part)| part.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_text_and_variables() {
        let key = Key::parse("a$request_uri-${user}b$http_X_Team").unwrap();
        let text = |text: &str| Part::Text(text.to_owned());
        let header = Part::Header("x-team".to_owned());
        assert_eq!(key.parts(), [text("a"), Part::RequestUri, text("-"), Part::User, text("b"), header]);
        assert_eq!(Key::parse(&key.to_string()), Ok(key));
        for name in Key::variables() {
            assert!(Key::parse(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn what_is_no_variable_is_told_as_it_is_written() {
        for (template, bad) in [
            ("$uri", "$uri"),
            ("x$sesion/", "$sesion"),
            ("${usr}x", "${usr}"),
            ("${user", "${user"),
            ("a$", "$"),
            ("$http_", "$http_"),
            ("$\u{e9}", "$"),
        ] {
            assert_eq!(Key::parse(template), Err(BadPolicy::Variable(bad.to_owned())), "{template}");
        }
    }
}
