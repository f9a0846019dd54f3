//! Warnings of policies that would give nearly all requests of a pool to one replica, or to each in its turn.

use super::diagnostics::{Diagnostic, SpannedValue};
use super::schema::pool::PoolDraft;
use super::settings::Settings;
use crate::balance::{KeyPart, PolicySpec};
use crate::fleet::PathPolicy;

const SESSION_HINT: &str = "`hash $session consistent` keeps each conversation on its replica";

/// What is odd about the policies of these pools; `default` is for those that name none.
pub(super) fn skewed_key_warnings(
    drafts: &[PoolDraft],
    default: Option<&SpannedValue<PolicySpec>>,
    settings: &Settings,
) -> Vec<Diagnostic> {
    let doubt = |draft: &PoolDraft| skewed_key_warning(draft.policy.as_ref().or(default)?, draft, settings);
    drafts.iter().filter_map(doubt).collect()
}

fn skewed_key_warning(policy: &SpannedValue<PolicySpec>, draft: &PoolDraft, settings: &Settings) -> Option<Diagnostic> {
    let any = matches!(&draft.paths, Some(SpannedValue { value: PathPolicy::Any, .. }));
    let one_model = draft.models.len() == 1;
    let unseen = settings.trusted_proxies.is_empty();
    let parts = policy.value.key().map_or(&[][..], |key| key.parts());
    let written = &policy.value;
    let warning =
        |text: &str, help: String| Some(policy.span.diagnostic(format!("warning: `{written}` {text}")).with_help(help));
    let constant = |part: &KeyPart| match part {
        KeyPart::Text(_) => true,
        // Nearly all requests of an API go to one of its paths.
        KeyPart::RequestUri => !any,
        KeyPart::Model => !any && one_model,
        KeyPart::RemoteAddr | KeyPart::Header(_) => false,
        KeyPart::User | KeyPart::Session | KeyPart::Prefix | KeyPart::CacheKey => false,
    };
    let by_client = |part: &KeyPart| constant(part) || *part == KeyPart::RemoteAddr;
    if !parts.is_empty() && parts.iter().all(constant) {
        let help = format!("one replica would get them all; {SESSION_HINT}");
        return warning("gives nearly all requests of this pool the same key", help);
    }
    if unseen && (policy.value.needs_client_addr() || !parts.is_empty() && parts.iter().all(by_client)) {
        let help = format!(
            "one replica gets all that an app server or another proxy passes on, unless `trusted_proxies` names it; {SESSION_HINT}"
        );
        return warning("knows clients by the address that connects", help);
    }
    let of_body = |part: &KeyPart| {
        matches!(part, KeyPart::Model | KeyPart::User | KeyPart::Session | KeyPart::Prefix | KeyPart::CacheKey)
    };
    if any && parts.iter().any(of_body) {
        let help = "without `paths = \"any\"` they are; until then only the header `x-session-id` names a `$session`";
        return warning("asks for what is in bodies, which are not read in this pool", help.to_owned());
    }
    None
}
