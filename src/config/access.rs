//! Who may ask: `[[key]]` and the admin listener's token. Secrets are hashed here and not kept.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use toml::de::DeValue;

use super::keys::{Key, file};
use super::nearest::suggest;
use super::pool::{fits_header, name};
use super::report::{At, Issue, Place};
use super::value::{Read, Value, kind};
use crate::fleet::{Paths, PoolSpec};
use crate::tenants::{Digest, Tenant, Tenants};
use crate::units::ModelName;

/// Shorter secrets can be guessed.
const LEAST_BYTES: usize = 16;

/// A secret as far as it was written: one of its three forms.
#[derive(Default)]
pub(super) struct DraftSecret {
    pub(super) hash: Option<At<Digest>>,
    pub(super) env: Option<At<String>>,
    pub(super) file: Option<At<PathBuf>>,
}

/// A `[[key]]` as far as it was written.
pub(super) struct DraftKey {
    at: Place,
    name: Option<At<Arc<str>>>,
    secret: DraftSecret,
    models: Option<Vec<ModelName>>,
    /// Something in it could not be read, so that what seems to be missing need not be.
    broken: bool,
}

pub(super) const HASH: &str = "`sha256:` and 64 hexadecimal digits, as `printf %s KEY | sha256sum` prints them";
pub(super) const ENV: &str = "the name of an environment variable";
pub(super) const FILE: &str = "the path of a file";

pub(super) static KEY: &[Key<DraftKey>] = &[
    Key { path: "name", wants: "a name", default: "", set: |d, v| name(v).map(|name| d.name = Some(v.here(name))) },
    Key { path: "hash", wants: HASH, default: "", set: |d, v| hash(v).map(|hash| d.secret.hash = Some(hash)) },
    Key { path: "env", wants: ENV, default: "", set: |d, v| variable(v).map(|env| d.secret.env = Some(env)) },
    Key { path: "file", wants: FILE, default: "", set: |d, v| path(v).map(|file| d.secret.file = Some(file)) },
    Key {
        path: "models",
        wants: "a model's name, or a list of at least one",
        default: "",
        set: |d, v| models(v).map(|models| d.models = Some(models)),
    },
];

/// Reads a hash. What is none is not shown: it may be the secret.
pub(super) fn hash(value: &Value<'_>) -> Read<At<Digest>> {
    value.text().ok().and_then(|text| text.parse().ok()).map(|hash| value.here(hash)).ok_or_else(|| value.wrong())
}

pub(super) fn variable(value: &Value<'_>) -> Read<At<String>> {
    name(value).map(|name| value.here(name.to_string()))
}

pub(super) fn path(value: &Value<'_>) -> Read<At<PathBuf>> {
    file(value).map(|file| value.here(file))
}

/// A list of none would open nothing, and is a slip.
fn models(value: &Value<'_>) -> Read<Vec<ModelName>> {
    let models = value.each(|item| Ok((&*name(item)?).into()))?;
    if models.is_empty() { Err(value.wrong()) } else { Ok(models) }
}

impl DraftKey {
    /// Reads one `[[key]]`.
    pub(super) fn read(given: &DeValue<'_>, at: &Place, issues: &mut Vec<Issue>) -> Self {
        let secret = DraftSecret::default();
        let mut draft = Self { at: at.clone(), name: None, secret, models: None, broken: false };
        let before = issues.len();
        match given {
            DeValue::Table(table) => {
                for (key, value) in table {
                    let (name, spot) = (key.get_ref().as_ref(), at.at(value.span()));
                    let Some(row) = KEY.iter().find(|row| row.path == name) else {
                        // The line is not shown: it may hold the key itself.
                        let issue = at.at(key.span()).issue(format!("unknown key `{name}` in `[[key]]`")).bare();
                        let known: Vec<&str> = KEY.iter().map(|row| row.path).collect();
                        issues.push(issue.help(suggest(name, "keys", &known)));
                        continue;
                    };
                    let value =
                        Value { key: name, wants: row.wants, given: value.get_ref(), at: spot, unquoted: false };
                    issues.extend((row.set)(&mut draft, &value).err().unwrap_or_default());
                }
            }
            other => {
                let issue = at.issue(format!("a key is a table, not {}", kind(other))).bare();
                issues.push(issue.help("write `[[key]]`, one for each key"));
            }
        }
        draft.broken = issues.len() > before;
        draft
    }
}

impl DraftSecret {
    /// The secret's hash, wherever it is; `None` if there is none. `names` are those of the three forms.
    ///
    /// *Errors*: it is given twice, is not there, or can be guessed.
    pub(super) fn digest(
        &self,
        names: [&str; 3],
        env: &BTreeMap<String, String>,
    ) -> Result<Option<(Digest, &Place)>, Issue> {
        let [hash, variable, path] = names;
        let places = [
            (hash, self.hash.as_ref().map(|hash| &hash.at)),
            (variable, self.env.as_ref().map(|env| &env.at)),
            (path, self.file.as_ref().map(|file| &file.at)),
        ];
        let mut given = places.into_iter().filter_map(|(name, at)| Some((name, at?)));
        let Some((first, at)) = given.next() else { return Ok(None) };
        if let Some((second, other)) = given.next() {
            let message = format!("`{first}` ({}) and `{second}` are both given", at.seen_from(other));
            return Err(other.issue(message).bare().help("keep one"));
        }
        let told = match (&self.hash, &self.env, &self.file) {
            (Some(hash), ..) => return Ok(Some((hash.value.clone(), at))),
            (_, Some(At { value: name, .. }), _) => match env.get(name) {
                Some(secret) => (format!("the environment variable `{name}`"), secret.clone()),
                None => return Err(at.issue(format!("the environment variable `{name}` is not set"))),
            },
            (_, _, Some(At { value: path, .. })) => match fs::read_to_string(path) {
                Ok(secret) => (format!("the file `{}`", path.display()), secret.trim_end().to_owned()),
                Err(why) => return Err(at.issue(format!("cannot read `{}`: {why}", path.display()))),
            },
            (None, None, None) => return Ok(None),
        };
        let (place, secret) = told;
        if !fits_header(&secret) {
            return Err(at.issue(format!("{place} holds no key of visible ASCII characters")));
        }
        if secret.len() < LEAST_BYTES {
            let issue = at.issue(format!("the key in {place} can be guessed: it has {} characters", secret.len()));
            return Err(issue.help(format!("take at least {LEAST_BYTES}, such as `openssl rand -hex 32` prints")));
        }
        Ok(Some((Digest::of(secret.as_bytes()), at)))
    }
}

/// Makes the tenants. They mean something only if no issue was found.
pub(super) fn tenants(drafts: &[DraftKey], env: &BTreeMap<String, String>, issues: &mut Vec<Issue>) -> Tenants {
    let mut known: Vec<(Tenant, Place)> = Vec::new();
    for draft in drafts {
        let digest = draft.secret.digest(["hash", "env", "file"], env).unwrap_or_else(|issue| {
            issues.push(issue);
            None
        });
        let Some((name, (digest, at))) = draft.name.as_ref().zip(digest) else {
            if !draft.broken && draft.name.is_none() {
                issues.push(draft.at.issue("a key without `name`").bare().help("logs and metrics call it by its name"));
            } else if !draft.broken && draft.secret.is_missing() {
                let issue = draft.at.issue("a key without its secret").bare();
                issues.push(issue.help("write hash = \"sha256:...\", env = \"VARIABLE\" or file = \"/path\""));
            }
            continue;
        };
        let tenant = Tenant::new(name.value.clone(), digest, draft.models.clone());
        if let Some((_, first)) = known.iter().find(|(other, _)| other.name == tenant.name) {
            let message = format!("two keys are called `{}` (the other: {})", tenant.name, first.seen_from(&name.at));
            issues.push(name.at.issue(message).help("give this one a name of its own"));
        } else if let Some((other, _)) = known.iter().find(|(other, _)| other.shares_key(&tenant)) {
            let message = format!("this is the key of `{}` already", other.name);
            issues.push(at.issue(message).bare().help("whose it is could not be told"));
        } else {
            known.push((tenant, name.at.clone()));
        }
    }
    Tenants::new(known.into_iter().map(|(tenant, _)| tenant))
}

/// A warning where keys with a list of models meet pools whose requests name none.
pub(super) fn closed(drafts: &[DraftKey], pools: &[PoolSpec]) -> Option<Issue> {
    let pool = pools.iter().find(|pool| pool.paths == Paths::Any)?;
    let draft = drafts.iter().find(|draft| draft.models.is_some())?;
    let at = draft.name.as_ref().map_or(&draft.at, |name| &name.at);
    let message = format!("warning: this key opens nothing of pool `{}`, whose requests name no model", pool.name);
    Some(
        at.issue(message)
            .help("with `paths = \"any\"` no model is read, so a key with `models` cannot be held to them"),
    )
}

impl DraftSecret {
    const fn is_missing(&self) -> bool {
        self.hash.is_none() && self.env.is_none() && self.file.is_none()
    }
}
