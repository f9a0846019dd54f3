//! Secrets in their three forms: a hash, an environment variable or a file. Secrets are hashed here and not kept.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::key_spec::{is_header_safe, parse_file_path, parse_name};
use crate::config::diagnostics::{Diagnostic, Span, SpannedValue};
use crate::config::parse::value::{ReadResult, TomlValue};
use crate::tenants::KeyDigest;

/// Shorter secrets can be guessed.
const MIN_SECRET_BYTES: usize = 16;

pub(super) const EXPECTED_HASH: &str =
    "`sha256:` and 64 hexadecimal digits, as `printf %s KEY | sha256sum` prints them";
pub(super) const EXPECTED_ENV: &str = "the name of an environment variable";
pub(super) const EXPECTED_FILE: &str = "the path of a file";

/// The forms of a secret that are given.
#[derive(Default)]
pub(in crate::config) struct SecretDraft {
    pub(super) hash: Option<SpannedValue<KeyDigest>>,
    pub(super) env: Option<SpannedValue<String>>,
    pub(super) file: Option<SpannedValue<PathBuf>>,
}

/// Reads a hash. A malformed one is not shown: it may be the secret itself.
pub(super) fn parse_hash(value: &TomlValue<'_>) -> ReadResult<SpannedValue<KeyDigest>> {
    let digest = value.string().ok().and_then(|text| text.parse().ok());
    digest.map(|digest| value.spanned(digest)).ok_or_else(|| value.invalid())
}

pub(super) fn parse_env_name(value: &TomlValue<'_>) -> ReadResult<SpannedValue<String>> {
    parse_name(value).map(|name| value.spanned(name.to_string()))
}

pub(super) fn parse_secret_path(value: &TomlValue<'_>) -> ReadResult<SpannedValue<PathBuf>> {
    parse_file_path(value).map(|file| value.spanned(file))
}

impl SecretDraft {
    pub(super) const fn is_missing(&self) -> bool {
        self.hash.is_none() && self.env.is_none() && self.file.is_none()
    }

    /// Returns the secret's hash and its place; `None` if no form is given. `keys` are the names of the three forms.
    ///
    /// *Errors*: two forms are given, or the secret is missing or too short.
    pub(in crate::config) fn resolve_digest(
        &self,
        keys: [&str; 3],
        env: &BTreeMap<String, String>,
    ) -> Result<Option<(KeyDigest, &Span)>, Diagnostic> {
        let Some(span) = self.only_span(keys)? else { return Ok(None) };
        let (place, secret) = match (&self.hash, &self.env, &self.file) {
            (Some(hash), ..) => return Ok(Some((hash.value.clone(), span))),
            (_, Some(SpannedValue { value: name, .. }), _) => match env.get(name) {
                Some(secret) => (format!("the environment variable `{name}`"), secret.clone()),
                None => return Err(span.diagnostic(format!("the environment variable `{name}` is not set"))),
            },
            (_, _, Some(SpannedValue { value: path, .. })) => match fs::read_to_string(path) {
                Ok(secret) => (format!("the file `{}`", path.display()), secret.trim_end().to_owned()),
                Err(error) => return Err(span.diagnostic(format!("cannot read `{}`: {error}", path.display()))),
            },
            (None, None, None) => return Ok(None),
        };
        if !is_header_safe(&secret) {
            return Err(span.diagnostic(format!("{place} is not a key: only visible ASCII characters are allowed")));
        }
        if secret.len() < MIN_SECRET_BYTES {
            let message = format!("the key in {place} is too short: {} characters", secret.len());
            let help = format!("use at least {MIN_SECRET_BYTES}, for example from `openssl rand -hex 32`");
            return Err(span.diagnostic(message).with_help(help));
        }
        Ok(Some((KeyDigest::from_secret(secret.as_bytes()), span)))
    }

    /// Returns the place of the form that is given; `None` if none is.
    ///
    /// *Errors*: two are given.
    fn only_span(&self, [hash, env, file]: [&str; 3]) -> Result<Option<&Span>, Diagnostic> {
        let places = [
            (hash, self.hash.as_ref().map(|hash| &hash.span)),
            (env, self.env.as_ref().map(|env| &env.span)),
            (file, self.file.as_ref().map(|file| &file.span)),
        ];
        let mut given = places.into_iter().filter_map(|(name, span)| Some((name, span?)));
        let Some((first, span)) = given.next() else { return Ok(None) };
        let Some((second, other)) = given.next() else { return Ok(Some(span)) };
        let message = format!("`{first}` ({}) and `{second}` are both given", span.relative_to(other));
        Err(other.diagnostic(message).without_excerpt().with_help("keep one"))
    }
}
