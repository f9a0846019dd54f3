//! One pool as it is written, before pools are compared with each other.

use std::path::PathBuf;
use std::sync::Arc;

use super::headers::{self, PoolHeaderRules};
use super::health_check;
use super::health_check::FailurePolicyDraft;
use super::replica::parse_replica;
use super::route::{parse_blocked_paths, parse_host, parse_path_prefix, parse_paths};
use super::sticky::parse_sticky;
use super::token_accounting;
use super::token_accounting::AccountingDraft;
use super::top::{EXPECTED_HEADERS, KeySpec, parse_file_path};
use crate::balance::{self, PolicyError, PolicySpec};
use crate::config::diagnostics::{Span, SpannedValue};
use crate::config::parse::suggest::{closest_match, suggestion};
use crate::config::parse::value::{ReadResult, TomlValue};
use crate::fleet::{ApiKey, MemberSpec, PathPolicy, Route, Sticky};
use crate::log_format::ValueAvailability;
use crate::units::ModelName;

/// A pool as far as it was written.
pub(in crate::config) struct PoolDraft {
    /// Its `[[pool]]`, or the whole file in the short form.
    pub(in crate::config) span: Span,
    pub(in crate::config) name: Option<SpannedValue<Arc<str>>>,
    pub(in crate::config) models: Vec<SpannedValue<ModelName>>,
    pub(in crate::config) policy: Option<SpannedValue<PolicySpec>>,
    pub(in crate::config) shadow: Option<PolicySpec>,
    /// `None` if not given, or not readable.
    pub(in crate::config) members: Option<Vec<SpannedValue<MemberSpec>>>,
    pub(in crate::config) route: Route,
    pub(in crate::config) headers: PoolHeaderRules,
    pub(in crate::config) fallback: Option<SpannedValue<Arc<str>>>,
    pub(in crate::config) paths: Option<SpannedValue<PathPolicy>>,
    pub(in crate::config) token_accounting: AccountingDraft,
    pub(in crate::config) api_key: Option<SpannedValue<ApiKey>>,
    pub(in crate::config) api_key_env: Option<SpannedValue<String>>,
    pub(in crate::config) sticky: Option<Sticky>,
    pub(in crate::config) max_in_flight: Option<usize>,
    pub(in crate::config) tls: TlsDraft,
    pub(in crate::config) failure_policy: FailurePolicyDraft,
    /// The keys that were given, readable or not.
    pub(in crate::config) given_keys: Vec<SpannedValue<&'static str>>,
}

/// How replicas behind TLS are verified, as far as it was written.
#[derive(Default)]
pub(in crate::config) struct TlsDraft {
    pub(in crate::config) ca: Option<SpannedValue<PathBuf>>,
    pub(in crate::config) name: Option<SpannedValue<String>>,
    pub(in crate::config) verify: Option<SpannedValue<bool>>,
}

/// The keys that may stand at the top of the file when there is one pool.
pub(in crate::config) const TOP_LEVEL_POOL_KEYS: [&str; 24] = [
    "policy",
    "shadow",
    "replicas",
    "model",
    "paths",
    "block_paths",
    "engine_metrics",
    "request_usage",
    "tokens",
    "image_tokens",
    "audio_tokens",
    "prefix_tokens",
    "api_key",
    "api_key_env",
    "sticky",
    "max_in_flight",
    "tls_ca",
    "tls_name",
    "tls_verify",
    "eject_backoff",
    "retry_budget_percent",
    "retry_budget_min",
    "stall_timeout",
    "health_check",
];

pub(in crate::config) static POOL_SCHEMA: &[KeySpec<PoolDraft>] = &[
    KeySpec {
        path: "name",
        expected: "a name",
        default: "",
        set: |d, v| parse_name(v).map(|name| d.name = Some(v.spanned(name))),
    },
    KeySpec {
        path: "model",
        expected: "a model's name, or a list of names",
        default: "[]",
        set: |d, v| v.map_list(|item| Ok(item.spanned((&*parse_name(item)?).into()))).map(|models| d.models = models),
    },
    KeySpec {
        path: "policy",
        expected: "a policy's name and words",
        default: "\"token_cost\"",
        set: |d, v| parse_policy(v).map(|policy| d.policy = Some(v.spanned(policy))),
    },
    KeySpec {
        path: "shadow",
        expected: "a policy's name and words",
        default: "",
        set: |d, v| parse_policy(v).map(|policy| d.shadow = Some(policy)),
    },
    KeySpec {
        path: "replicas",
        expected: "a list of replicas, each a string or a table",
        default: "",
        set: |d, v| v.map_list(parse_replica).map(|members| d.members = Some(members)),
    },
    KeySpec {
        path: "host",
        expected: "a host name without scheme, port or wildcard",
        default: "",
        set: |d, v| parse_host(v).map(|host| d.route.host = Some(host)),
    },
    KeySpec {
        path: "path",
        expected: "the beginning of a path, with `/` in front",
        default: "",
        set: |d, v| parse_path_prefix(v).map(|prefix| d.route.path = prefix),
    },
    KeySpec {
        path: "fallback",
        expected: "another pool's name",
        default: "",
        set: |d, v| parse_name(v).map(|name| d.fallback = Some(v.spanned(name))),
    },
    KeySpec {
        path: "paths",
        expected: "\"any\", or a list of paths with `/` in front",
        default: "[]",
        set: |d, v| parse_paths(v).map(|paths| d.paths = Some(v.spanned(paths))),
    },
    KeySpec {
        path: "block_paths",
        expected: "a table of paths and statuses such as { \"/admin\" = 403, \"= /ping\" = 404 }",
        default: "{}",
        set: |d, v| parse_blocked_paths(v).map(|refused| d.route.blocked_paths = refused),
    },
    KeySpec {
        path: "request_headers",
        expected: EXPECTED_HEADERS,
        default: "",
        set: |d, v| {
            headers::parse_header_rules(v, ValueAvailability::AtRequest).map(|lines| d.headers.request = Some(lines))
        },
    },
    KeySpec {
        path: "response_headers",
        expected: EXPECTED_HEADERS,
        default: "",
        set: |d, v| {
            headers::parse_header_rules(v, ValueAvailability::AtResponse).map(|lines| d.headers.response = Some(lines))
        },
    },
    KeySpec {
        path: "engine_metrics",
        expected: "a time from 100ms such as \"5s\", or \"off\"",
        default: "\"5s\"",
        set: |d, v| {
            token_accounting::parse_metrics_interval(v)
                .map(|every| d.token_accounting.engine_metrics_interval = Some(every))
        },
    },
    KeySpec {
        path: "request_usage",
        expected: "true or false",
        default: "true",
        set: |d, v| v.boolean().map(|ask| d.token_accounting.accounting.request_usage = ask),
    },
    KeySpec {
        path: "tokens",
        expected: "\"estimate\", \"o200k\", \"cl100k\" or the path of a tokenizer.json",
        default: "\"estimate\"",
        set: |d, v| {
            token_accounting::parse_tokenizer(v).map(|vocabulary| d.token_accounting.accounting.tokenizer = vocabulary)
        },
    },
    KeySpec {
        path: "image_tokens",
        expected: "a number of tokens",
        default: "1000",
        set: |d, v| {
            token_accounting::parse_token_count(v)
                .map(|tokens| d.token_accounting.accounting.media_tokens.image = tokens)
        },
    },
    KeySpec {
        path: "audio_tokens",
        expected: "a number of tokens",
        default: "750",
        set: |d, v| {
            token_accounting::parse_token_count(v)
                .map(|tokens| d.token_accounting.accounting.media_tokens.audio = tokens)
        },
    },
    KeySpec {
        path: "prefix_tokens",
        expected: "a number of tokens",
        default: "1024",
        set: |d, v| {
            token_accounting::parse_token_count(v).map(|tokens| d.token_accounting.accounting.prefix_length = tokens)
        },
    },
    KeySpec {
        path: "api_key",
        expected: "a key of visible ASCII characters",
        default: "",
        set: |d, v| parse_api_key(v).map(|key| d.api_key = Some(v.spanned(key))),
    },
    KeySpec {
        path: "api_key_env",
        expected: "the name of an environment variable",
        default: "",
        set: |d, v| parse_name(v).map(|name| d.api_key_env = Some(v.spanned(name.to_string()))),
    },
    KeySpec {
        path: "sticky",
        expected: "a table such as { cookie = \"route\", expires = \"1h\" }",
        default: "",
        set: |d, v| parse_sticky(v).map(|sticky| d.sticky = Some(sticky)),
    },
    KeySpec {
        path: "max_in_flight",
        expected: "a whole number, or 0 for no limit",
        default: "0",
        set: |d, v| v.integer(0).map(|most| d.max_in_flight = Some(most).filter(|most| *most > 0)),
    },
    KeySpec {
        path: "tls_ca",
        expected: "a PEM file",
        default: "",
        set: |d, v| parse_file_path(v).map(|file| d.tls.ca = Some(v.spanned(file))),
    },
    KeySpec {
        path: "tls_name",
        expected: "a host name without scheme or port, and no address",
        default: "",
        set: |d, v| parse_certificate_name(v).map(|name| d.tls.name = Some(v.spanned(name))),
    },
    KeySpec {
        path: "tls_verify",
        expected: "true or false",
        default: "true",
        set: |d, v| v.boolean().map(|verify| d.tls.verify = Some(v.spanned(verify))),
    },
    KeySpec {
        path: "eject_backoff",
        expected: "true or false",
        default: "true",
        set: |d, v| v.boolean().map(|grows| d.failure_policy.eject_backoff = Some(grows)),
    },
    KeySpec {
        path: "retry_budget_percent",
        expected: "a whole number of percent",
        default: "20",
        set: |d, v| health_check::parse_u32(v).map(|percent| d.failure_policy.policy.retry_limits.percent = percent),
    },
    KeySpec {
        path: "retry_budget_min",
        expected: "a whole number",
        default: "3",
        set: |d, v| health_check::parse_u32(v).map(|spare| d.failure_policy.policy.retry_limits.min_retries = spare),
    },
    KeySpec {
        path: "stall_timeout",
        expected: "a time above 0 such as \"30s\", or \"off\"",
        default: "\"30s\"",
        set: |d, v| health_check::parse_stall_timeout(v).map(|time| d.failure_policy.stall_timeout = Some(time)),
    },
    KeySpec {
        path: "health_check",
        expected: "a table such as { path = \"/health\", interval = \"5s\" }",
        default: "",
        set: |d, v| health_check::parse_health_check(v).map(|check| d.failure_policy.policy.health_check = Some(check)),
    },
];

impl PoolDraft {
    pub(in crate::config) fn new(at: Span) -> Self {
        Self {
            span: at,
            name: None,
            models: Vec::new(),
            policy: None,
            shadow: None,
            members: None,
            route: Route::default(),
            headers: PoolHeaderRules::default(),
            fallback: None,
            paths: None,
            token_accounting: AccountingDraft::default(),
            api_key: None,
            api_key_env: None,
            sticky: None,
            max_in_flight: None,
            tls: TlsDraft::default(),
            failure_policy: FailurePolicyDraft::default(),
            given_keys: Vec::new(),
        }
    }

    /// What the pool is called and where that is said: its name, else its first model, else `default`.
    pub(in crate::config) fn name_or_default(&self) -> SpannedValue<Arc<str>> {
        match (&self.name, self.models.first()) {
            (Some(name), _) => name.clone(),
            (None, Some(model)) => SpannedValue::new(model.value.as_str().into(), model.span.clone()),
            (None, None) => SpannedValue::new("default".into(), self.span.clone()),
        }
    }

    /// Where `key` was given, readable or not.
    pub(in crate::config) fn key_span(&self, key: &str) -> Option<&Span> {
        self.given_keys.iter().find(|given| given.value == key).map(|given| &given.span)
    }
}

pub(in crate::config) fn parse_name(value: &TomlValue<'_>) -> ReadResult<Arc<str>> {
    let text = value.string()?;
    if is_name(&text) { Ok((*text).into()) } else { Err(value.invalid()) }
}

/// Tells whether a text can be a name: it is one line without blanks around it.
pub(crate) fn is_name(text: &str) -> bool {
    !text.trim().is_empty() && text.trim() == text && !text.contains(char::is_control)
}

fn parse_policy(value: &TomlValue<'_>) -> ReadResult<PolicySpec> {
    let text = value.string()?;
    let words = value.words()?;
    balance::PolicySpec::parse(&text).map_err(|bad| {
        let issue = bad_span(&words, &bad).unwrap_or_else(|| value.span.clone()).diagnostic(bad.to_string());
        let row = balance::policy_table().iter().find(|row| words.first().is_some_and(|word| word.value == row.name));
        let usage = row.map(|row| format!("write `{}`", row.usage())).unwrap_or_default();
        let example = row.map(|row| format!(", for example `{} {}`", row.name, row.samples[0])).unwrap_or_default();
        let help = match &bad {
            PolicyError::UnknownPolicy(name) => {
                match closest_match(name, balance::policy_table().iter().map(|row| row.name)) {
                    Some(near) => format!("did you mean `{near}`? `tokenweir serve --help` lists the policies"),
                    None => "`tokenweir serve --help` lists the policies".to_owned(),
                }
            }
            PolicyError::InvalidArgument(_) => usage,
            PolicyError::MissingArgument(_) => usage + &example,
            PolicyError::UnknownVariable(name) => suggestion(name, "variables", &balance::HashKey::variables()),
        };
        issue.with_help(help).into()
    })
}

/// The place of what is wrong in a policy's words.
fn bad_span(words: &[SpannedValue<String>], bad: &PolicyError) -> Option<Span> {
    let text = bad.bad_text()?;
    let behind_name = if matches!(bad, PolicyError::UnknownPolicy(_)) { 0 } else { 1 };
    let in_word = |SpannedValue { value, span: at }: &SpannedValue<String>| {
        let from = at.start() + value.find(text).filter(|_| at.text() == value)?;
        Some(at.with_range(from..from + text.len()))
    };
    words.iter().skip(behind_name).find_map(in_word)
}

/// A name that a certificate can be for; where it is for an address, the URL has that.
fn parse_certificate_name(value: &TomlValue<'_>) -> ReadResult<String> {
    let host = parse_host(value)?;
    let is_name = !host.starts_with('[') && host.parse::<std::net::IpAddr>().is_err();
    if is_name { Ok(host) } else { Err(value.invalid()) }
}

fn parse_api_key(value: &TomlValue<'_>) -> ReadResult<ApiKey> {
    let text = value.string()?;
    if is_header_safe(&text) {
        return Ok(ApiKey::new(text));
    }
    Err(value.diagnostic("`api_key` takes a key of visible ASCII characters").into())
}

/// Whether a key can be sent in a header.
pub(in crate::config) fn is_header_safe(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic())
}
