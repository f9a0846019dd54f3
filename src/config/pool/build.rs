//! From the drafts to the pools.

use std::collections::{BTreeMap, BTreeSet};

use super::checks::{check_fallbacks, check_models, check_pool_names, check_replicas, check_slow_start};
use super::draft::PoolDraft;
use super::upstream_auth::{build_upstream_tls, resolve_api_key};
use crate::balance::PolicySpec;
use crate::config::build_context::BuildContext;
use crate::config::diagnostics::SpannedValue;
use crate::fleet::{PathPolicy, PoolSpec};

/// Builds the pools; `routed` are those that routes name, `policy` is for pools that name none. They are usable only if `context` has no errors.
pub(in crate::config) fn build_pools(
    drafts: Vec<PoolDraft>,
    routed: &BTreeSet<&str>,
    policy: Option<&SpannedValue<PolicySpec>>,
    env: &BTreeMap<String, String>,
    context: &mut BuildContext,
) -> Vec<PoolSpec> {
    check_pool_names(&drafts, context);
    check_replicas(&drafts, context);
    check_models(&drafts, routed, context);
    check_fallbacks(&drafts, context);
    drafts.into_iter().map(|draft| build_pool(draft, policy, env, context)).collect()
}

fn build_pool(
    draft: PoolDraft,
    policy: Option<&SpannedValue<PolicySpec>>,
    env: &BTreeMap<String, String>,
    context: &mut BuildContext,
) -> PoolSpec {
    let policy = draft.policy.as_ref().or(policy);
    let policy = policy.map(|policy| policy.value.clone()).unwrap_or_default();
    context.errors.extend(check_slow_start(&policy, &draft));
    if let Some(SpannedValue { value: PathPolicy::Any, span }) = &draft.routing.paths {
        let message = "warning: clients can reach every path of these replicas, control endpoints included";
        let help = "list the paths you need, for example paths = [\"/v1/videos\"]";
        context.warnings.push(span.diagnostic(message).with_help(help));
    }
    let api_key = resolve_api_key(&draft.upstream, env).unwrap_or_else(|error| {
        context.errors.push(error);
        None
    });
    let tls = build_upstream_tls(&draft, context);
    let name = draft.name_or_default().value;
    let paths = draft.routing.paths.map_or(PathPolicy::Listed(Vec::new()), |paths| paths.value);
    let mut members: Vec<_> = draft.members.unwrap_or_default().into_iter().map(|member| member.value).collect();
    for member in &mut members {
        member.origin.set_tls(&tls);
        draft.failure_policy.apply_backoff(member);
    }
    PoolSpec {
        failure_policy: draft.failure_policy.into_policy(&paths),
        token_accounting: draft.token_accounting.into_accounting(&paths),
        name,
        models: draft.routing.models.into_iter().map(|model| model.value).collect(),
        policy,
        shadow: draft.shadow,
        members,
        route: draft.routing.route,
        accepts_azure: draft.routing.accepts_azure,
        path_policy: paths,
        websocket: draft.routing.websocket,
        fallback: draft.routing.fallback.map(|fallback| fallback.value),
        api_key,
        sticky: draft.sticky,
        agents: draft.agents,
        tls,
    }
}
