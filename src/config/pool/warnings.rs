//! Warnings of policies that send nearly all requests of a pool to one replica, or spread them without affinity.

use super::draft::PoolDraft;
use crate::balance::{KeyPart, PolicySpec};
use crate::config::diagnostics::{Diagnostic, SpannedValue};
use crate::config::settings::Settings;
use crate::fleet::PathPolicy;

/// Variables with one value for nearly all requests of a pool.
const CONSTANT_VARIABLES: [&str; 8] = [
    "${host}",
    "${https}",
    "${request_method}",
    "${scheme}",
    "${server_addr}",
    "${server_name}",
    "${server_port}",
    "${server_protocol}",
];
/// Nearly all requests of an API have the same path.
const PATH_VARIABLES: [&str; 4] = ["${document_uri}", "${path}", "${request}", "${uri}"];

const SESSION_HINT: &str = "`hash $session consistent` keeps each conversation on its replica";

/// Returns the warnings of these pools' policies; `default` is for pools that name none.
pub(in crate::config) fn skewed_key_warnings(
    drafts: &[PoolDraft],
    default: Option<&SpannedValue<PolicySpec>>,
    settings: &Settings,
) -> Vec<Diagnostic> {
    let warning = |draft: &PoolDraft| skewed_key_warning(draft.policy.as_ref().or(default)?, draft, settings);
    drafts.iter().filter_map(warning).collect()
}

fn skewed_key_warning(policy: &SpannedValue<PolicySpec>, draft: &PoolDraft, settings: &Settings) -> Option<Diagnostic> {
    let SpannedValue { value: policy, span } = policy;
    let any_path = matches!(&draft.routing.paths, Some(SpannedValue { value: PathPolicy::Any, .. }));
    let one_model = matches!(&*draft.routing.models, [model] if !model.value.as_str().ends_with('*'));
    let parts = policy.key().map_or(&[][..], |key| key.parts());
    let warning = |message: &str, help: &str| {
        Some(span.diagnostic(format!("warning: `{policy}` {message}")).with_help(format!("{help}; {SESSION_HINT}")))
    };
    let is_constant = |part: &KeyPart| match part {
        KeyPart::Text(_) => true,
        // Nearly all requests of an API have the same path.
        KeyPart::RequestUri => !any_path,
        KeyPart::Model => !any_path && one_model,
        KeyPart::Variable(variable) => {
            CONSTANT_VARIABLES.contains(&variable.source()) || !any_path && PATH_VARIABLES.contains(&variable.source())
        }
        KeyPart::RemoteAddr | KeyPart::Header(_) => false,
        KeyPart::User | KeyPart::Session | KeyPart::Prefix | KeyPart::CacheKey => false,
    };
    let is_per_client = |part: &KeyPart| match part {
        KeyPart::RemoteAddr => true,
        KeyPart::Variable(variable) if variable.source() == "${binary_remote_addr}" => true,
        part => is_constant(part),
    };
    if !parts.is_empty() && parts.iter().all(is_constant) {
        return warning("gives nearly all requests of this pool the same key", "one replica would get them all");
    }
    let hashes_client = policy.needs_client_addr() || !parts.is_empty() && parts.iter().all(is_per_client);
    if hashes_client && !settings.scope.client_address.trusts_any_peer() {
        let help = "one replica gets all requests of an app server or proxy, unless `trusted_proxies` names it";
        return warning("identifies clients by the address of their connection", help);
    }
    let is_of_body = |part: &KeyPart| {
        matches!(part, KeyPart::Model | KeyPart::User | KeyPart::Session | KeyPart::Prefix | KeyPart::CacheKey)
    };
    if any_path && parts.iter().any(is_of_body) {
        let message = format!("warning: `{policy}` needs request bodies, which are not parsed in this pool");
        let help = "remove `paths = \"any\"`; with it, only the header `x-session-id` gives a `$session`";
        return Some(span.diagnostic(message).with_help(help));
    }
    None
}
