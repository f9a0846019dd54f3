//! Who may ask: `[[key]]` and the admin listener's token. Secrets are hashed here and not kept.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use toml::de::DeValue;

use super::pool::{is_header_safe, parse_name};
use super::top::{KeySpec, parse_file_path};
use crate::config::diagnostics::{Diagnostic, Span, SpannedValue};
use crate::config::parse::suggest::suggestion;
use crate::config::parse::value::{ReadResult, TomlValue, type_name};
use crate::fleet::{PathPolicy, PoolSpec};
use crate::tenants::{KeyDigest, Tenant, TenantTable};
use crate::units::ModelName;

/// Shorter secrets can be guessed.
const MIN_SECRET_BYTES: usize = 16;

/// A secret as far as it was written: one of its three forms.
#[derive(Default)]
pub(in crate::config) struct SecretDraft {
    pub(in crate::config) hash: Option<SpannedValue<KeyDigest>>,
    pub(in crate::config) env: Option<SpannedValue<String>>,
    pub(in crate::config) file: Option<SpannedValue<PathBuf>>,
}

/// A `[[key]]` as far as it was written.
pub(in crate::config) struct ClientKeyDraft {
    span: Span,
    name: Option<SpannedValue<Arc<str>>>,
    secret: SecretDraft,
    models: Option<Vec<ModelName>>,
    /// Something in it could not be read, so that what seems to be missing need not be.
    has_errors: bool,
}

pub(in crate::config) const EXPECTED_HASH: &str =
    "`sha256:` and 64 hexadecimal digits, as `printf %s KEY | sha256sum` prints them";
pub(in crate::config) const EXPECTED_ENV: &str = "the name of an environment variable";
pub(in crate::config) const EXPECTED_FILE: &str = "the path of a file";

pub(in crate::config) static CLIENT_KEY_SCHEMA: &[KeySpec<ClientKeyDraft>] = &[
    KeySpec {
        path: "name",
        expected: "a name",
        default: "",
        set: |d, v| parse_name(v).map(|name| d.name = Some(v.spanned(name))),
    },
    KeySpec {
        path: "hash",
        expected: EXPECTED_HASH,
        default: "",
        set: |d, v| parse_hash(v).map(|hash| d.secret.hash = Some(hash)),
    },
    KeySpec {
        path: "env",
        expected: EXPECTED_ENV,
        default: "",
        set: |d, v| parse_env_name(v).map(|env| d.secret.env = Some(env)),
    },
    KeySpec {
        path: "file",
        expected: EXPECTED_FILE,
        default: "",
        set: |d, v| parse_secret_path(v).map(|file| d.secret.file = Some(file)),
    },
    KeySpec {
        path: "models",
        expected: "a model's name, or a list of at least one",
        default: "",
        set: |d, v| parse_models(v).map(|models| d.models = Some(models)),
    },
];

/// Reads a hash. What is none is not shown: it may be the secret.
pub(in crate::config) fn parse_hash(value: &TomlValue<'_>) -> ReadResult<SpannedValue<KeyDigest>> {
    value
        .string()
        .ok()
        .and_then(|text| text.parse().ok())
        .map(|hash| value.spanned(hash))
        .ok_or_else(|| value.invalid())
}

pub(in crate::config) fn parse_env_name(value: &TomlValue<'_>) -> ReadResult<SpannedValue<String>> {
    parse_name(value).map(|name| value.spanned(name.to_string()))
}

pub(in crate::config) fn parse_secret_path(value: &TomlValue<'_>) -> ReadResult<SpannedValue<PathBuf>> {
    parse_file_path(value).map(|file| value.spanned(file))
}

/// A list of none would open nothing, and is a slip.
fn parse_models(value: &TomlValue<'_>) -> ReadResult<Vec<ModelName>> {
    let models = value.map_list(|item| Ok((&*parse_name(item)?).into()))?;
    if models.is_empty() { Err(value.invalid()) } else { Ok(models) }
}

impl ClientKeyDraft {
    /// Reads one `[[key]]`.
    pub(in crate::config) fn from_toml(given: &DeValue<'_>, at: &Span, issues: &mut Vec<Diagnostic>) -> Self {
        let secret = SecretDraft::default();
        let mut draft = Self { span: at.clone(), name: None, secret, models: None, has_errors: false };
        let before = issues.len();
        match given {
            DeValue::Table(table) => {
                for (key, value) in table {
                    let (name, spot) = (key.get_ref().as_ref(), at.with_range(value.span()));
                    let Some(row) = CLIENT_KEY_SCHEMA.iter().find(|row| row.path == name) else {
                        // The line is not shown: it may hold the key itself.
                        let issue = at
                            .with_range(key.span())
                            .diagnostic(format!("unknown key `{name}` in `[[key]]`"))
                            .without_excerpt();
                        let known: Vec<&str> = CLIENT_KEY_SCHEMA.iter().map(|row| row.path).collect();
                        issues.push(issue.with_help(suggestion(name, "keys", &known)));
                        continue;
                    };
                    let value = TomlValue {
                        key: name,
                        expected: row.expected,
                        raw: value.get_ref(),
                        span: spot,
                        unquoted: false,
                    };
                    issues.extend((row.set)(&mut draft, &value).err().unwrap_or_default());
                }
            }
            other => {
                let issue = at.diagnostic(format!("a key is a table, not {}", type_name(other))).without_excerpt();
                issues.push(issue.with_help("write `[[key]]`, one for each key"));
            }
        }
        draft.has_errors = issues.len() > before;
        draft
    }
}

impl SecretDraft {
    /// The secret's hash, wherever it is; `None` if there is none. `names` are those of the three forms.
    ///
    /// *Errors*: it is given twice, is not there, or can be guessed.
    pub(in crate::config) fn resolve_digest(
        &self,
        names: [&str; 3],
        env: &BTreeMap<String, String>,
    ) -> Result<Option<(KeyDigest, &Span)>, Diagnostic> {
        let [hash, variable, path] = names;
        let places = [
            (hash, self.hash.as_ref().map(|hash| &hash.span)),
            (variable, self.env.as_ref().map(|env| &env.span)),
            (path, self.file.as_ref().map(|file| &file.span)),
        ];
        let mut given = places.into_iter().filter_map(|(name, at)| Some((name, at?)));
        let Some((first, at)) = given.next() else { return Ok(None) };
        if let Some((second, other)) = given.next() {
            let message = format!("`{first}` ({}) and `{second}` are both given", at.relative_to(other));
            return Err(other.diagnostic(message).without_excerpt().with_help("keep one"));
        }
        let told = match (&self.hash, &self.env, &self.file) {
            (Some(hash), ..) => return Ok(Some((hash.value.clone(), at))),
            (_, Some(SpannedValue { value: name, .. }), _) => match env.get(name) {
                Some(secret) => (format!("the environment variable `{name}`"), secret.clone()),
                None => return Err(at.diagnostic(format!("the environment variable `{name}` is not set"))),
            },
            (_, _, Some(SpannedValue { value: path, .. })) => match fs::read_to_string(path) {
                Ok(secret) => (format!("the file `{}`", path.display()), secret.trim_end().to_owned()),
                Err(why) => return Err(at.diagnostic(format!("cannot read `{}`: {why}", path.display()))),
            },
            (None, None, None) => return Ok(None),
        };
        let (place, secret) = told;
        if !is_header_safe(&secret) {
            return Err(at.diagnostic(format!("{place} holds no key of visible ASCII characters")));
        }
        if secret.len() < MIN_SECRET_BYTES {
            let issue = at.diagnostic(format!("the key in {place} can be guessed: it has {} characters", secret.len()));
            return Err(
                issue.with_help(format!("take at least {MIN_SECRET_BYTES}, such as `openssl rand -hex 32` prints"))
            );
        }
        Ok(Some((KeyDigest::from_secret(secret.as_bytes()), at)))
    }
}

/// Makes the tenants. They mean something only if no issue was found.
pub(in crate::config) fn build_tenants(
    drafts: &[ClientKeyDraft],
    env: &BTreeMap<String, String>,
    issues: &mut Vec<Diagnostic>,
) -> TenantTable {
    let mut known: Vec<(Tenant, Span)> = Vec::new();
    for draft in drafts {
        let digest = draft.secret.resolve_digest(["hash", "env", "file"], env).unwrap_or_else(|issue| {
            issues.push(issue);
            None
        });
        let Some((name, (digest, at))) = draft.name.as_ref().zip(digest) else {
            if !draft.has_errors && draft.name.is_none() {
                issues.push(
                    draft
                        .span
                        .diagnostic("a key without `name`")
                        .without_excerpt()
                        .with_help("logs and metrics call it by its name"),
                );
            } else if !draft.has_errors && draft.secret.is_missing() {
                let issue = draft.span.diagnostic("a key without its secret").without_excerpt();
                issues.push(issue.with_help("write hash = \"sha256:...\", env = \"VARIABLE\" or file = \"/path\""));
            }
            continue;
        };
        let tenant = Tenant::new(name.value.clone(), digest, draft.models.clone());
        if let Some((_, first)) = known.iter().find(|(other, _)| other.name == tenant.name) {
            let message =
                format!("two keys are called `{}` (the other: {})", tenant.name, first.relative_to(&name.span));
            issues.push(name.span.diagnostic(message).with_help("give this one a name of its own"));
        } else if let Some((other, _)) = known.iter().find(|(other, _)| other.has_same_key(&tenant)) {
            let message = format!("this is the key of `{}` already", other.name);
            issues.push(at.diagnostic(message).without_excerpt().with_help("whose it is could not be told"));
        } else {
            known.push((tenant, name.span.clone()));
        }
    }
    TenantTable::new(known.into_iter().map(|(tenant, _)| tenant))
}

/// A warning where keys with a list of models meet pools whose requests name none.
pub(in crate::config) fn unusable_key_warning(drafts: &[ClientKeyDraft], pools: &[PoolSpec]) -> Option<Diagnostic> {
    let pool = pools.iter().find(|pool| pool.path_policy == PathPolicy::Any)?;
    let draft = drafts.iter().find(|draft| draft.models.is_some())?;
    let at = draft.name.as_ref().map_or(&draft.span, |name| &name.span);
    let message = format!("warning: this key opens nothing of pool `{}`, whose requests name no model", pool.name);
    Some(
        at.diagnostic(message)
            .with_help("with `paths = \"any\"` no model is read, so a key with `models` cannot be held to them"),
    )
}

impl SecretDraft {
    const fn is_missing(&self) -> bool {
        self.hash.is_none() && self.env.is_none() && self.file.is_none()
    }
}
