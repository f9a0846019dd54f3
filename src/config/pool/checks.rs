//! Checks of pools against each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::draft::PoolDraft;
use crate::balance::PolicySpec;
use crate::config::build_context::BuildContext;
use crate::config::diagnostics::{Diagnostic, Span, SpannedValue};
use crate::config::parse::suggest::suggestion;
use crate::fleet::{MemberSpec, Origin, PathPolicy};

const REPLICAS_EXAMPLE: &str = "for example replicas = [\"http://10.0.0.1:8000\", \"http://10.0.0.2:8000\"]";

/// Returns an error if `slow_start` meets a policy whose weights are shares of keys or chances, as in nginx.
pub(super) fn check_slow_start(policy: &PolicySpec, draft: &PoolDraft) -> Option<Diagnostic> {
    if policy.supports_slow_start() {
        return None;
    }
    let slow = draft.members().iter().find(|member| !member.value.slow_start.is_zero())?;
    let message = format!("`slow_start` cannot be combined with `{}`", policy.name());
    Some(slow.span.diagnostic(message).with_help("remove it, or use a policy that is neither by key nor at random"))
}

/// Checks that names are unique: they identify pools in metrics and over reloads.
pub(super) fn check_pool_names(drafts: &[PoolDraft], context: &mut BuildContext) {
    let mut known: BTreeMap<Arc<str>, Span> = BTreeMap::new();
    for draft in drafts {
        let SpannedValue { value: name, span } = draft.name_or_default();
        if let Some(first) = known.get(&name) {
            let message = format!("two pools are called `{name}` (the other: {})", first.relative_to(&span));
            context.errors.push(span.diagnostic(message).with_help("give this one its own `name`"));
        } else {
            known.insert(name, span);
        }
    }
}

/// Checks that every pool has replicas, none of them twice, and that replicas' names are unique.
pub(super) fn check_replicas(drafts: &[PoolDraft], context: &mut BuildContext) {
    let mut named: BTreeMap<Arc<str>, (Origin, Span)> = BTreeMap::new();
    for draft in drafts {
        check_presence(draft, context);
        let mut known: BTreeMap<&Origin, &Span> = BTreeMap::new();
        for SpannedValue { value: MemberSpec { origin, name, dns_lookup, .. }, span } in draft.members() {
            if let Some(first) = known.get(origin) {
                let first = first.relative_to(span);
                let message = format!("the replica `{origin}` is in this pool twice (the other: {first})");
                context.errors.push(span.diagnostic(message).with_help("use `weight` for a larger share"));
                continue;
            }
            known.insert(origin, span);
            if dns_lookup.is_some() {
                // Its replicas are named by their addresses.
                continue;
            }
            let (other, first) = named.entry(Arc::clone(name)).or_insert_with(|| (origin.clone(), span.clone()));
            if other != origin {
                let message = format!("two replicas are called `{name}` (the other: {})", first.relative_to(span));
                context.errors.push(span.diagnostic(message).with_help("give one of them a name: name=..."));
            }
        }
    }
}

fn check_presence(draft: &PoolDraft, context: &mut BuildContext) {
    let members = draft.members();
    let given = draft.replicas_span();
    let span = given.unwrap_or(&draft.span);
    if members.is_empty() && (draft.members.is_some() || given.is_none()) {
        context.errors.push(span.diagnostic("no replicas").with_help(REPLICAS_EXAMPLE));
    }
    if !members.is_empty() && members.iter().all(|member| member.value.down) {
        context.warnings.push(span.diagnostic("warning: every replica of this pool is `down`"));
    }
}

/// Checks that every request leads to one pool. Pools of `routed`, which routes name, lead nowhere by themselves.
pub(super) fn check_models(drafts: &[PoolDraft], routed: &BTreeSet<&str>, context: &mut BuildContext) {
    let mut known: BTreeMap<_, (Arc<str>, Span)> = BTreeMap::new();
    let mut any_path = BTreeMap::new();
    for draft in drafts.iter().filter(|draft| !routed.contains(&*draft.name_or_default().value)) {
        let routing = &draft.routing;
        let route = (routing.route.host.as_deref(), routing.route.path.as_deref());
        for SpannedValue { value: model, span } in &routing.models {
            if let Some((pool, first)) = known.get(&(route, model.as_str())) {
                let first = first.relative_to(span);
                let message = format!("the model `{model}` is already served by pool `{pool}` ({first})");
                let help = "name it once, or give the pools different `host`s or `path`s";
                context.errors.push(span.diagnostic(message).with_help(help));
            } else {
                known.insert((route, model.as_str()), (draft.name_or_default().value, span.clone()));
            }
        }
        let Some(SpannedValue { value: PathPolicy::Any, span }) = &routing.paths else { continue };
        if let Some(pool) = any_path.insert(route, draft.name_or_default().value) {
            let diagnostic = span.diagnostic(format!("pool `{pool}` already has `paths = \"any\"`"));
            context.errors.push(diagnostic.with_help("give the pools different `host`s or `path`s"));
        }
    }
}

/// Checks that fallbacks exist and form no cycle.
pub(super) fn check_fallbacks(drafts: &[PoolDraft], context: &mut BuildContext) {
    let names: Vec<Arc<str>> = drafts.iter().map(|draft| draft.name_or_default().value).collect();
    let fallbacks: Vec<(&str, &SpannedValue<Arc<str>>)> = drafts
        .iter()
        .zip(&names)
        .filter_map(|(draft, name)| Some((&**name, draft.routing.fallback.as_ref()?)))
        .collect();
    let next: BTreeMap<&str, &str> = fallbacks.iter().map(|(from, to)| (*from, &*to.value)).collect();
    let mut reported: Vec<&str> = Vec::new();
    for (from, SpannedValue { value: to, span }) in &fallbacks {
        if !names.contains(to) {
            let others: Vec<&str> = names.iter().map(|name| &**name).filter(|name| name != from).collect();
            let diagnostic = span.diagnostic(format!("unknown pool `{to}`"));
            context.errors.push(diagnostic.with_help(suggestion(to, "pools", &others)));
            continue;
        }
        let mut path: Vec<&str> = vec![from];
        while let Some(step) = path.last().and_then(|last| next.get(last)).filter(|step| !path.contains(step)) {
            path.push(step);
        }
        let is_cycle = path.last().and_then(|last| next.get(last)) == Some(from);
        if is_cycle && !reported.contains(from) {
            let diagnostic = span.diagnostic(format!("fallbacks form a cycle: {} -> {from}", path.join(" -> ")));
            context.errors.push(diagnostic.with_help("remove the `fallback` of one of them"));
            reported.extend(path);
        }
    }
}
