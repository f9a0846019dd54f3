//! The API keys of clients: `[[key]]`.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::de::DeValue;

use super::key_spec::{KeySpec, parse_model_name, parse_name, read_table, unknown_key};
use super::secret::{self, EXPECTED_ENV, EXPECTED_FILE, EXPECTED_HASH, SecretDraft};
use crate::config::diagnostics::{Diagnostic, Span, SpannedValue};
use crate::config::parse::value::{ReadResult, TomlEntry, TomlValue, type_name};
use crate::fleet::{PathPolicy, PoolSpec};
use crate::tenants::{Tenant, TenantTable};
use crate::units::ModelNames;

/// A `[[key]]` as far as it is read.
#[derive(Default)]
pub(in crate::config) struct ClientKeyDraft {
    span: Span,
    name: Option<SpannedValue<Arc<str>>>,
    secret: SecretDraft,
    models: Option<ModelNames>,
    /// Whether a part could not be read, so that a missing part may not be missing in the file.
    has_errors: bool,
}

pub(in crate::config) static CLIENT_KEY_SCHEMA: &[KeySpec<ClientKeyDraft>] = &[
    KeySpec {
        name: "name",
        expected: "a name",
        default: "",
        doc: "The tenant's name in logs (`$tenant`) and metrics.",
        set: |d, v| parse_name(v).map(|name| d.name = Some(v.spanned(name))),
    },
    KeySpec {
        name: "hash",
        expected: EXPECTED_HASH,
        default: "",
        doc: "The hash of the key; one of `hash`, `env` and `file` is needed.",
        set: |d, v| secret::parse_hash(v).map(|hash| d.secret.hash = Some(hash)),
    },
    KeySpec {
        name: "env",
        expected: EXPECTED_ENV,
        default: "",
        doc: "The environment variable that holds the key.",
        set: |d, v| secret::parse_env_name(v).map(|env| d.secret.env = Some(env)),
    },
    KeySpec {
        name: "file",
        expected: EXPECTED_FILE,
        default: "",
        doc: "The file that holds the key.",
        set: |d, v| secret::parse_secret_path(v).map(|file| d.secret.file = Some(file)),
    },
    KeySpec {
        name: "models",
        expected: "a model's name, a beginning such as \"claude-*\", or a list of at least one",
        default: "",
        doc: "The models that the key may use; for others the response is that of an unknown model. Without it: all.",
        set: |d, v| parse_models(v).map(|models| d.models = Some(models)),
    },
];

/// Reads a list of models; an empty list would allow none and is a mistake.
fn parse_models(value: &TomlValue<'_>) -> ReadResult<ModelNames> {
    let models: ModelNames = value.map_list(parse_model_name)?.into_iter().collect();
    if models.is_empty() { Err(value.invalid()) } else { Ok(models) }
}

impl ClientKeyDraft {
    /// Reads one `[[key]]`. The line of an unknown key is not shown: it may hold the secret.
    pub(in crate::config) fn from_toml(given: &SpannedValue<&DeValue<'_>>, errors: &mut Vec<Diagnostic>) -> Self {
        let SpannedValue { value, span } = given;
        let mut draft = Self { span: span.clone(), ..Self::default() };
        let found = match value {
            DeValue::Table(table) => {
                let entries = TomlEntry::of_table(table, span);
                read_table(CLIENT_KEY_SCHEMA, &entries, &mut draft, |key| {
                    unknown_key(CLIENT_KEY_SCHEMA, "`[[key]]`", key).without_excerpt()
                })
            }
            other => {
                let diagnostic = span.diagnostic(format!("a key is a table, not {}", type_name(other)));
                vec![diagnostic.without_excerpt().with_help("write `[[key]]`, one for each key")]
            }
        };
        draft.has_errors = !found.is_empty();
        errors.extend(found);
        draft
    }

    /// Returns the error of a key without its name or its secret.
    fn missing_part(&self) -> Option<Diagnostic> {
        let (message, help) = match (&self.name, self.secret.is_missing()) {
            _ if self.has_errors => return None,
            (None, _) => ("a key without `name`", "logs and metrics show the name"),
            (_, true) => {
                ("a key without its secret", "write hash = \"sha256:...\", env = \"VARIABLE\" or file = \"/path\"")
            }
            _ => return None,
        };
        Some(self.span.diagnostic(message).without_excerpt().with_help(help))
    }
}

/// Builds the tenants; their errors go to `errors`.
pub(in crate::config) fn build_tenants(
    drafts: &[ClientKeyDraft],
    env: &BTreeMap<String, String>,
    errors: &mut Vec<Diagnostic>,
) -> TenantTable {
    let mut known: Vec<(Tenant, Span)> = Vec::new();
    for draft in drafts {
        let digest = draft.secret.resolve_digest(["hash", "env", "file"], env).unwrap_or_else(|error| {
            errors.push(error);
            None
        });
        let Some((name, (digest, span))) = draft.name.as_ref().zip(digest) else {
            errors.extend(draft.missing_part());
            continue;
        };
        let tenant = Tenant::new(name.value.clone(), digest, draft.models.clone());
        if let Some((_, first)) = known.iter().find(|(other, _)| other.name == tenant.name) {
            let first = first.relative_to(&name.span);
            let message = format!("two keys are called `{}` (the other: {first})", tenant.name);
            errors.push(name.span.diagnostic(message).with_help("choose another name"));
        } else if let Some((other, _)) = known.iter().find(|(other, _)| other.has_same_key(&tenant)) {
            let message = format!("keys `{}` and `{}` have the same secret", other.name, tenant.name);
            errors.push(span.diagnostic(message).without_excerpt().with_help("give each tenant its own"));
        } else {
            known.push((tenant, name.span.clone()));
        }
    }
    TenantTable::new(known.into_iter().map(|(tenant, _)| tenant))
}

/// Returns a warning if a key with a list of models meets a pool whose requests name no model.
pub(in crate::config) fn unusable_key_warning(drafts: &[ClientKeyDraft], pools: &[PoolSpec]) -> Option<Diagnostic> {
    let pool = pools.iter().find(|pool| pool.path_policy == PathPolicy::Any)?;
    let draft = drafts.iter().find(|draft| draft.models.is_some())?;
    let span = draft.name.as_ref().map_or(&draft.span, |name| &name.span);
    let message = format!("warning: this key cannot use pool `{}`, whose requests name no model", pool.name);
    Some(span.diagnostic(message).with_help("with `paths = \"any\"` the router reads no model, which `models` needs"))
}
