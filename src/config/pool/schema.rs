//! The keys that every pool may have. They may also stand at the top of a file without `[[pool]]`.

use super::draft::PoolDraft;
use super::failure_policy::parse_stall_timeout;
use super::health_check::parse_health_check;
use super::policy::parse_policy;
use super::replica::parse_replica;
use super::route::{ROUTE_SCHEMA, parse_blocked_paths, parse_paths};
use super::sticky::{parse_session_header, parse_sticky};
use super::token_accounting::{parse_metrics_interval, parse_token_count, parse_tokenizer};
use super::upstream_auth::{parse_api_key, parse_certificate_name};
use crate::config::schema::key_spec::{EXPECTED_BOOLEAN, KeySpec, parse_file_path, parse_model_name, parse_name};

const EXPECTED_POLICY: &str = "a policy's name and words";
const EXPECTED_TOKENS: &str = "a number of tokens";

pub(in crate::config) static POOL_SCHEMA: &[KeySpec<PoolDraft>] = &[
    KeySpec {
        name: "policy",
        expected: EXPECTED_POLICY,
        default: "\"token_cost\"",
        doc: "How a replica is chosen; at the top of a file with `[[pool]]`s, their default.",
        set: |d, v| parse_policy(v).map(|policy| d.policy = Some(v.spanned(policy))),
    },
    KeySpec {
        name: "shadow",
        expected: EXPECTED_POLICY,
        default: "",
        doc: "A second policy that decides on the same requests without effect; metrics show how often it differs.",
        set: |d, v| parse_policy(v).map(|policy| d.shadow = Some(policy)),
    },
    KeySpec {
        name: "replicas",
        expected: "a list of replicas, each a string or a table",
        default: "",
        doc: "The replicas, each a URL (`http://`, `https://` or `unix:/path`) followed by the options below, or a table such as \
              `{ url = \"http://10.0.0.1:8000\", weight = 2 }`.",
        set: |d, v| v.map_list(parse_replica).map(|members| d.members = Some(members)),
    },
    KeySpec {
        name: "model",
        expected: "a model's name, a beginning such as \"claude-*\" or \"*\", or a list of them",
        default: "[]",
        doc: "The models that clients may request, by name or by a beginning (`claude-*`, `*`); empty for those that the \
              replicas list at `/v1/models`.",
        set: |d, v| {
            v.map_list(|item| Ok(item.spanned(parse_model_name(item)?))).map(|models| d.routing.models = models)
        },
    },
    KeySpec {
        name: "paths",
        expected: "\"any\", or a list of paths with `/` in front",
        default: "[]",
        doc: "Paths passed to the replicas in addition to the API's; `any` passes every path, control endpoints included.",
        set: |d, v| parse_paths(v).map(|paths| d.routing.paths = Some(v.spanned(paths))),
    },
    KeySpec {
        name: "block_paths",
        expected: "a table of paths and statuses such as { \"/admin\" = 403, \"= /ping\" = 404 }",
        default: "{}",
        doc: "Paths that are refused, with the status: `/admin` is a prefix, `= /ping` one path; pools with the same \
              `host` and `path` share them.",
        set: |d, v| parse_blocked_paths(v).map(|paths| d.routing.route.blocked_paths = paths),
    },
    KeySpec {
        name: "azure",
        expected: EXPECTED_BOOLEAN,
        default: "false",
        doc: "Whether clients of Azure OpenAI are served: paths such as `/openai/deployments/MODEL/chat/completions`, and \
              the header `api-key`; pools with the same `host` and `path` share it.",
        set: |d, v| v.boolean().map(|on| d.routing.accepts_azure = on),
    },
    KeySpec {
        name: "websocket",
        expected: EXPECTED_BOOLEAN,
        default: "false",
        doc: "Whether clients may open WebSockets on the paths that reach the replicas, such as `/v1/realtime` in `paths`; \
              each is a tunnel that counts as a request until it ends.",
        set: |d, v| v.boolean().map(|on| d.routing.websocket = on),
    },
    KeySpec {
        name: "engine_metrics",
        expected: "a time from 100ms such as \"5s\", or \"off\"",
        default: "\"5s\"",
        doc: "How often the replicas' `/metrics` (vLLM, SGLang) are read, for load that this router did not send; with \
              `paths = \"any\"` the default is `off`.",
        set: |d, v| {
            parse_metrics_interval(v).map(|interval| d.token_accounting.engine_metrics_interval = Some(interval))
        },
    },
    KeySpec {
        name: "request_usage",
        expected: EXPECTED_BOOLEAN,
        default: "true",
        doc: "Whether the router requests the `usage` of streams whose clients did not, and removes it from the response.",
        set: |d, v| v.boolean().map(|on| d.token_accounting.accounting.request_usage = on),
    },
    KeySpec {
        name: "tokens",
        expected: "\"estimate\", \"o200k\", \"cl100k\" or the path of a tokenizer.json",
        default: "\"estimate\"",
        doc: "How prompts are counted: estimated by their text and earlier usage, or exactly by a tokenizer \
              (0.3 ms a KiB); a tokenizer.json needs the feature `tokenizer-json`.",
        set: |d, v| parse_tokenizer(v).map(|tokenizer| d.token_accounting.accounting.tokenizer = tokenizer),
    },
    KeySpec {
        name: "image_tokens",
        expected: EXPECTED_TOKENS,
        default: "1000",
        doc: "Tokens for an image in a prompt.",
        set: |d, v| parse_token_count(v).map(|tokens| d.token_accounting.accounting.media_tokens.image = tokens),
    },
    KeySpec {
        name: "audio_tokens",
        expected: EXPECTED_TOKENS,
        default: "750",
        doc: "Tokens for an audio clip in a prompt.",
        set: |d, v| parse_token_count(v).map(|tokens| d.token_accounting.accounting.media_tokens.audio = tokens),
    },
    KeySpec {
        name: "prefix_tokens",
        expected: EXPECTED_TOKENS,
        default: "1024",
        doc: "The length of the prompt's beginning that the variable `$prefix` covers, at four bytes a token.",
        set: |d, v| parse_token_count(v).map(|tokens| d.token_accounting.accounting.prefix_length = tokens),
    },
    KeySpec {
        name: "api_key",
        expected: "a key of visible ASCII characters",
        default: "",
        doc: "The key sent to the replicas as `Authorization: Bearer`, in place of the client's.",
        set: |d, v| parse_api_key(v).map(|key| d.upstream.api_key = Some(v.spanned(key))),
    },
    KeySpec {
        name: "api_key_env",
        expected: "the name of an environment variable",
        default: "",
        doc: "The environment variable that holds this key.",
        set: |d, v| parse_name(v).map(|name| d.upstream.api_key_env = Some(v.spanned(name.to_string()))),
    },
    KeySpec {
        name: "sticky",
        expected: "a table such as { cookie = \"route\", expires = \"1h\" }",
        default: "",
        doc: "Keeps a client on its replica, whatever the policy; see the keys of `sticky`.",
        set: |d, v| parse_sticky(v).map(|sticky| d.sticky = Some(sticky)),
    },
    KeySpec {
        name: "session_headers",
        expected: "a header's name, or a list of names",
        default: "[]",
        doc: "Request headers that name the session, before those of known agents (see `docs/agent-traffic.md`); for \
              `$session`, `$cache_key` and `sticky`.",
        set: |d, v| v.map_list(parse_session_header).map(|names| d.agents.session_headers = names),
    },
    KeySpec {
        name: "cut_client_metadata",
        expected: EXPECTED_BOOLEAN,
        default: "false",
        doc: "Whether the text that Claude Code puts in front of its system prompt, and changes with each request, is \
              cut from bodies; for engines that do not drop it themselves, whose prefix cache it defeats.",
        set: |d, v| v.boolean().map(|on| d.agents.cuts_metadata = on),
    },
    KeySpec {
        name: "max_in_flight",
        expected: "a whole number, or 0 for no limit",
        default: "0",
        doc: "Requests at once, those queued in the replicas included; further ones are answered 429.",
        set: |d, v| v.integer(0).map(|max| d.max_in_flight = Some(max).filter(|max| *max > 0)),
    },
    KeySpec {
        name: "tls_ca",
        expected: "a PEM file",
        default: "",
        doc: "The issuers that the certificates of `https://` replicas are verified by; without it, the system's.",
        set: |d, v| parse_file_path(v).map(|file| d.upstream.tls_ca = Some(v.spanned(file))),
    },
    KeySpec {
        name: "tls_name",
        expected: "a host name without scheme or port, and no address",
        default: "",
        doc: "The name in the replicas' certificates, sent as SNI; without it, the URL's host.",
        set: |d, v| parse_certificate_name(v).map(|name| d.upstream.tls_name = Some(v.spanned(name))),
    },
    KeySpec {
        name: "tls_verify",
        expected: EXPECTED_BOOLEAN,
        default: "true",
        doc: "Whether the certificates of `https://` replicas are verified; `false` is for tests only.",
        set: |d, v| v.boolean().map(|verify| d.upstream.tls_verify = Some(v.spanned(verify))),
    },
    KeySpec {
        name: "eject_backoff",
        expected: EXPECTED_BOOLEAN,
        default: "true",
        doc: "Whether the n-th ejection in a row lasts n times `fail_timeout`, up to 300 s; if left out, replicas with \
              `max_fails` or `fail_timeout` have none, as in nginx.",
        set: |d, v| v.boolean().map(|on| d.failure_policy.eject_backoff = Some(on)),
    },
    KeySpec {
        name: "retry_budget_percent",
        expected: "a whole number of percent",
        default: "20",
        doc: "Retries on another replica in 10 s, in percent of the requests that arrived in that time or are in flight, \
              whichever is more.",
        set: |d, v| v.integer_u32(0).map(|percent| d.failure_policy.policy.retry_limits.percent = percent),
    },
    KeySpec {
        name: "retry_budget_min",
        expected: "a whole number",
        default: "3",
        doc: "Retries in 10 s on top of `retry_budget_percent`; refused connections and busy replicas do not count.",
        set: |d, v| v.integer_u32(0).map(|retries| d.failure_policy.policy.retry_limits.min_retries = retries),
    },
    KeySpec {
        name: "stall_timeout",
        expected: "a time above 0 such as \"30s\", or \"off\"",
        default: "\"30s\"",
        doc: "How much longer than expected a replica with requests may send nothing, while others respond, before it \
              is ejected; with `paths = \"any\"` the default is `off`.",
        set: |d, v| parse_stall_timeout(v).map(|time| d.failure_policy.stall_timeout = Some(time)),
    },
    KeySpec {
        name: "health_check",
        expected: "a table such as { path = \"/health\", interval = \"5s\" }",
        default: "",
        doc: "Checks each replica periodically; see the keys of `health_check`, and `{}` for their defaults.",
        set: |d, v| parse_health_check(v).map(|check| d.failure_policy.policy.health_check = Some(check)),
    },
];

/// Returns the keys that `[[pool]]` may have.
pub(in crate::config) fn pool_keys() -> impl Iterator<Item = &'static KeySpec<PoolDraft>> {
    ROUTE_SCHEMA.iter().chain(POOL_SCHEMA)
}
