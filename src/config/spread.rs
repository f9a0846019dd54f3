//! Warnings of policies that would give nearly all requests of a pool to one replica, or to each in its turn.

use super::pool::Draft;
use super::report::{At, Issue};
use super::settings::Settings;
use crate::balance::Part;
use crate::fleet::{Paths, PolicySpec};

const SESSION: &str = "`hash $session consistent` keeps each conversation on its replica";

/// What is odd about the policies of these pools; `default` is for those that name none.
pub(super) fn doubts(drafts: &[Draft], default: Option<&At<PolicySpec>>, settings: &Settings) -> Vec<Issue> {
    let doubt = |draft: &Draft| doubt(draft.policy.as_ref().or(default)?, draft, settings);
    drafts.iter().filter_map(doubt).collect()
}

fn doubt(policy: &At<PolicySpec>, draft: &Draft, settings: &Settings) -> Option<Issue> {
    let any = matches!(&draft.paths, Some(At { value: Paths::Any, .. }));
    let one_model = draft.models.len() == 1;
    let unseen = settings.trusted_proxies.is_empty();
    let parts = policy.value.key().map_or(&[][..], |key| key.parts());
    let written = &policy.value;
    let warning = |text: &str, help: String| Some(policy.at.issue(format!("warning: `{written}` {text}")).help(help));
    let constant = |part: &Part| match part {
        Part::Text(_) => true,
        // Nearly all requests of an API go to one of its paths.
        Part::RequestUri => !any,
        Part::Model => !any && one_model,
        Part::RemoteAddr | Part::Header(_) => false,
        Part::User | Part::Session | Part::Prefix | Part::CacheKey => false,
    };
    let by_client = |part: &Part| constant(part) || *part == Part::RemoteAddr;
    if !parts.is_empty() && parts.iter().all(constant) {
        let help = format!("one replica would get them all; {SESSION}");
        return warning("gives nearly all requests of this pool the same key", help);
    }
    if unseen && (policy.value.asks_client() || !parts.is_empty() && parts.iter().all(by_client)) {
        let help = format!(
            "one replica gets all that an app server or another proxy passes on, unless `trusted_proxies` names it; {SESSION}"
        );
        return warning("knows clients by the address that connects", help);
    }
    let of_body =
        |part: &Part| matches!(part, Part::Model | Part::User | Part::Session | Part::Prefix | Part::CacheKey);
    if any && parts.iter().any(of_body) {
        let help = "without `paths = \"any\"` they are; until then only the header `x-session-id` names a `$session`";
        return warning("asks for what is in bodies, which are not read in this pool", help.to_owned());
    }
    None
}
