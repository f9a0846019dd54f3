//! One pool as it is written, before pools are compared with each other.

use std::path::PathBuf;
use std::sync::Arc;

use super::failing::{self, DraftFailing};
use super::headers::{self, OwnHeaders};
use super::keys::{HEADERS, Key, file};
use super::metering::{self, DraftMetering};
use super::nearest::suggest;
use super::replica::replica;
use super::report::{At, Place};
use super::route::{host, paths, prefix, refused};
use super::sticky::sticky;
use super::value::{Read, Value};
use crate::balance::{self, BadPolicy};
use crate::fleet::{ApiKey, MemberSpec, Paths, PolicySpec, Route, Sticky};
use crate::telemetry::Known;
use crate::units::ModelName;

/// A pool as far as it was written.
pub(super) struct Draft {
    /// Its `[[pool]]`, or the whole file in the short form.
    pub(super) at: Place,
    pub(super) name: Option<At<Arc<str>>>,
    pub(super) models: Vec<At<ModelName>>,
    pub(super) policy: Option<At<PolicySpec>>,
    pub(super) shadow: Option<PolicySpec>,
    /// `None` if not given, or not readable.
    pub(super) members: Option<Vec<At<MemberSpec>>>,
    pub(super) route: Route,
    pub(super) headers: OwnHeaders,
    pub(super) fallback: Option<At<Arc<str>>>,
    pub(super) paths: Option<At<Paths>>,
    pub(super) metering: DraftMetering,
    pub(super) api_key: Option<At<ApiKey>>,
    pub(super) api_key_env: Option<At<String>>,
    pub(super) sticky: Option<Sticky>,
    pub(super) max_in_flight: Option<usize>,
    pub(super) tls: DraftTls,
    pub(super) failing: DraftFailing,
    /// The keys that were given, readable or not.
    pub(super) given: Vec<At<&'static str>>,
}

/// How replicas behind TLS are verified, as far as it was written.
#[derive(Default)]
pub(super) struct DraftTls {
    pub(super) ca: Option<At<PathBuf>>,
    pub(super) name: Option<At<String>>,
    pub(super) verify: Option<At<bool>>,
}

/// The keys that may stand at the top of the file when there is one pool.
pub(super) const SHORT: [&str; 24] = [
    "policy",
    "shadow",
    "replicas",
    "model",
    "paths",
    "refuse",
    "engine_metrics",
    "ask_for_usage",
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
    "eject_growth",
    "replay_percent",
    "replay_spare",
    "stalled",
    "check",
];

pub(super) static POOL: &[Key<Draft>] = &[
    Key { path: "name", wants: "a name", default: "", set: |d, v| name(v).map(|name| d.name = Some(v.here(name))) },
    Key {
        path: "model",
        wants: "a model's name, or a list of names",
        default: "[]",
        set: |d, v| v.each(|item| Ok(item.here((&*name(item)?).into()))).map(|models| d.models = models),
    },
    Key {
        path: "policy",
        wants: "a policy's name and words",
        default: "\"token_cost\"",
        set: |d, v| policy(v).map(|policy| d.policy = Some(v.here(policy))),
    },
    Key {
        path: "shadow",
        wants: "a policy's name and words",
        default: "",
        set: |d, v| policy(v).map(|policy| d.shadow = Some(policy)),
    },
    Key {
        path: "replicas",
        wants: "a list of replicas, each a string or a table",
        default: "",
        set: |d, v| v.each(replica).map(|members| d.members = Some(members)),
    },
    Key {
        path: "host",
        wants: "a host name without scheme, port or wildcard",
        default: "",
        set: |d, v| host(v).map(|host| d.route.host = Some(host)),
    },
    Key {
        path: "path",
        wants: "the beginning of a path, with `/` in front",
        default: "",
        set: |d, v| prefix(v).map(|prefix| d.route.path = prefix),
    },
    Key {
        path: "fallback",
        wants: "another pool's name",
        default: "",
        set: |d, v| name(v).map(|name| d.fallback = Some(v.here(name))),
    },
    Key {
        path: "paths",
        wants: "\"any\", or a list of paths with `/` in front",
        default: "[]",
        set: |d, v| paths(v).map(|paths| d.paths = Some(v.here(paths))),
    },
    Key {
        path: "refuse",
        wants: "a table of paths and statuses such as { \"/admin\" = 403, \"= /ping\" = 404 }",
        default: "{}",
        set: |d, v| refused(v).map(|refused| d.route.refused = refused),
    },
    Key {
        path: "request_headers",
        wants: HEADERS,
        default: "",
        set: |d, v| headers::table(v, Known::Asked).map(|lines| d.headers.request = Some(lines)),
    },
    Key {
        path: "response_headers",
        wants: HEADERS,
        default: "",
        set: |d, v| headers::table(v, Known::Answered).map(|lines| d.headers.response = Some(lines)),
    },
    Key {
        path: "engine_metrics",
        wants: "a time from 100ms such as \"5s\", or \"off\"",
        default: "\"5s\"",
        set: |d, v| metering::engine_metrics(v).map(|every| d.metering.engine_metrics = Some(every)),
    },
    Key {
        path: "ask_for_usage",
        wants: "true or false",
        default: "true",
        set: |d, v| v.flag().map(|ask| d.metering.metering.ask_for_usage = ask),
    },
    Key {
        path: "tokens",
        wants: "\"estimate\", \"o200k\", \"cl100k\" or the path of a tokenizer.json",
        default: "\"estimate\"",
        set: |d, v| metering::tokens(v).map(|vocabulary| d.metering.metering.tokens = vocabulary),
    },
    Key {
        path: "image_tokens",
        wants: "a number of tokens",
        default: "1000",
        set: |d, v| metering::length(v).map(|tokens| d.metering.metering.media.image = tokens),
    },
    Key {
        path: "audio_tokens",
        wants: "a number of tokens",
        default: "750",
        set: |d, v| metering::length(v).map(|tokens| d.metering.metering.media.audio = tokens),
    },
    Key {
        path: "prefix_tokens",
        wants: "a number of tokens",
        default: "1024",
        set: |d, v| metering::length(v).map(|tokens| d.metering.metering.prefix = tokens),
    },
    Key {
        path: "api_key",
        wants: "a key of visible ASCII characters",
        default: "",
        set: |d, v| key(v).map(|key| d.api_key = Some(v.here(key))),
    },
    Key {
        path: "api_key_env",
        wants: "the name of an environment variable",
        default: "",
        set: |d, v| name(v).map(|name| d.api_key_env = Some(v.here(name.to_string()))),
    },
    Key {
        path: "sticky",
        wants: "a table such as { cookie = \"route\", expires = \"1h\" }",
        default: "",
        set: |d, v| sticky(v).map(|sticky| d.sticky = Some(sticky)),
    },
    Key {
        path: "max_in_flight",
        wants: "a whole number, or 0 for no limit",
        default: "0",
        set: |d, v| v.count(0).map(|most| d.max_in_flight = Some(most).filter(|most| *most > 0)),
    },
    Key {
        path: "tls_ca",
        wants: "a PEM file",
        default: "",
        set: |d, v| file(v).map(|file| d.tls.ca = Some(v.here(file))),
    },
    Key {
        path: "tls_name",
        wants: "a host name without scheme or port, and no address",
        default: "",
        set: |d, v| certified(v).map(|name| d.tls.name = Some(v.here(name))),
    },
    Key {
        path: "tls_verify",
        wants: "true or false",
        default: "true",
        set: |d, v| v.flag().map(|verify| d.tls.verify = Some(v.here(verify))),
    },
    Key {
        path: "eject_growth",
        wants: "true or false",
        default: "true",
        set: |d, v| v.flag().map(|grows| d.failing.growth = Some(grows)),
    },
    Key {
        path: "replay_percent",
        wants: "a whole number of percent",
        default: "20",
        set: |d, v| failing::number(v).map(|percent| d.failing.failing.replays.percent = percent),
    },
    Key {
        path: "replay_spare",
        wants: "a whole number",
        default: "3",
        set: |d, v| failing::number(v).map(|spare| d.failing.failing.replays.spare = spare),
    },
    Key {
        path: "stalled",
        wants: "a time above 0 such as \"30s\", or \"off\"",
        default: "\"30s\"",
        set: |d, v| failing::stalled(v).map(|time| d.failing.stalled = Some(time)),
    },
    Key {
        path: "check",
        wants: "a table such as { path = \"/health\", interval = \"5s\" }",
        default: "",
        set: |d, v| failing::check(v).map(|check| d.failing.failing.check = Some(check)),
    },
];

impl Draft {
    pub(super) fn new(at: Place) -> Self {
        Self {
            at,
            name: None,
            models: Vec::new(),
            policy: None,
            shadow: None,
            members: None,
            route: Route::default(),
            headers: OwnHeaders::default(),
            fallback: None,
            paths: None,
            metering: DraftMetering::default(),
            api_key: None,
            api_key_env: None,
            sticky: None,
            max_in_flight: None,
            tls: DraftTls::default(),
            failing: DraftFailing::default(),
            given: Vec::new(),
        }
    }

    /// What the pool is called and where that is said: its name, else its first model, else `default`.
    pub(super) fn called(&self) -> At<Arc<str>> {
        match (&self.name, self.models.first()) {
            (Some(name), _) => name.clone(),
            (None, Some(model)) => At::new(model.value.as_str().into(), model.at.clone()),
            (None, None) => At::new("default".into(), self.at.clone()),
        }
    }

    /// Where `key` was given, readable or not.
    pub(super) fn given(&self, key: &str) -> Option<&Place> {
        self.given.iter().find(|given| given.value == key).map(|given| &given.at)
    }
}

pub(super) fn name(value: &Value<'_>) -> Read<Arc<str>> {
    let text = value.text()?;
    if is_name(&text) { Ok((*text).into()) } else { Err(value.wrong()) }
}

/// Tells whether a text can be a name: it is one line without blanks around it.
pub(crate) fn is_name(text: &str) -> bool {
    !text.trim().is_empty() && text.trim() == text && !text.contains(char::is_control)
}

fn policy(value: &Value<'_>) -> Read<PolicySpec> {
    let text = value.text()?;
    let words = value.words()?;
    balance::Spec::parse(&text).map_err(|bad| {
        let issue = culprit(&words, &bad).unwrap_or_else(|| value.at.clone()).issue(bad.to_string());
        let row = balance::table().iter().find(|row| words.first().is_some_and(|word| word.value == row.name));
        let usage = row.map(|row| format!("write `{}`", row.usage())).unwrap_or_default();
        let example = row.map(|row| format!(", for example `{} {}`", row.name, row.samples[0])).unwrap_or_default();
        let help = match &bad {
            BadPolicy::Unknown(name) => {
                let names: Vec<&str> = balance::table().iter().map(|row| row.name).collect();
                suggest(name, "policies", &names)
            }
            BadPolicy::Argument(_) => usage,
            BadPolicy::Missing(_) => usage + &example,
            BadPolicy::Variable(name) => suggest(name, "variables", &balance::Key::variables()),
        };
        issue.help(help).into()
    })
}

/// The place of what is wrong in a policy's words.
fn culprit(words: &[At<String>], bad: &BadPolicy) -> Option<Place> {
    let text = bad.culprit()?;
    let behind_name = if matches!(bad, BadPolicy::Unknown(_)) { 0 } else { 1 };
    let in_word = |At { value, at }: &At<String>| {
        let from = at.start() + value.find(text).filter(|_| at.written() == value)?;
        Some(at.at(from..from + text.len()))
    };
    words.iter().skip(behind_name).find_map(in_word)
}

/// A name that a certificate can be for; where it is for an address, the URL has that.
fn certified(value: &Value<'_>) -> Read<String> {
    let host = host(value)?;
    let is_name = !host.starts_with('[') && host.parse::<std::net::IpAddr>().is_err();
    if is_name { Ok(host) } else { Err(value.wrong()) }
}

fn key(value: &Value<'_>) -> Read<ApiKey> {
    let text = value.text()?;
    if fits_header(&text) {
        return Ok(ApiKey::new(text));
    }
    Err(value.issue("`api_key` takes a key of visible ASCII characters").into())
}

/// Whether a key can be sent in a header.
pub(super) fn fits_header(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic())
}
