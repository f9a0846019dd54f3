//! From drafts to pools: what only shows when pools are seen together.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::diagnostics::{Diagnostic, Span, SpannedValue};
use super::parse::suggest::suggestion;
use super::referenced_files::ReferencedFiles;
use super::schema::pool::{PoolDraft, TlsDraft, is_header_safe};
use crate::balance::PolicySpec;
use crate::fleet::{ApiKey, MemberSpec, Origin, PathPolicy, PoolSpec, TrustRoots, UpstreamTls};

/// How often engines are asked for their metrics.
const DEFAULT_METRICS_INTERVAL: Duration = Duration::from_secs(5);

/// What was found while assembling.
#[derive(Default)]
pub(super) struct BuildContext {
    pub(super) errors: Vec<Diagnostic>,
    pub(super) warnings: Vec<Diagnostic>,
    pub(super) referenced_files: ReferencedFiles,
}

/// Makes the pools; `policy` is for those that name none. The pools mean something only if no issue was found.
pub(super) fn build_pools(
    drafts: Vec<PoolDraft>,
    policy: Option<&SpannedValue<PolicySpec>>,
    env: &BTreeMap<String, String>,
    found: &mut BuildContext,
) -> Vec<PoolSpec> {
    check_pool_names(&drafts, found);
    check_replicas(&drafts, found);
    check_models(&drafts, found);
    check_fallbacks(&drafts, found);
    drafts.into_iter().map(|draft| build_pool(draft, policy, env, found)).collect()
}

fn build_pool(
    draft: PoolDraft,
    policy: Option<&SpannedValue<PolicySpec>>,
    env: &BTreeMap<String, String>,
    found: &mut BuildContext,
) -> PoolSpec {
    let policy = draft.policy.as_ref().or(policy);
    let policy = policy.map(|policy| policy.value.clone()).unwrap_or_default();
    found.errors.extend(check_slow_start(&policy, &draft));
    if let Some(SpannedValue { value: PathPolicy::Any, span: at }) = &draft.paths {
        let warning = at.diagnostic("warning: every path of these replicas can be reached, control endpoints included");
        found
            .warnings
            .push(warning.with_help("list the paths you need, for example paths = [\"/v1/images/generations\"]"));
    }
    let api_key = resolve_api_key(&draft, env).unwrap_or_else(|issue| {
        found.errors.push(issue);
        None
    });
    let tls = build_tls(&draft, found);
    let name = draft.name_or_default().value;
    let paths = draft.paths.map_or(PathPolicy::Listed(Vec::new()), |paths| paths.value);
    // Behind `paths = "any"` there may be anything, so what was not asked for is not sent there.
    let usual = (paths != PathPolicy::Any).then_some(DEFAULT_METRICS_INTERVAL);
    let members = draft.members.unwrap_or_default().into_iter().map(|SpannedValue { value: mut member, .. }| {
        member.origin.set_tls(&tls);
        draft.failure_policy.apply_backoff(&mut member);
        member
    });
    let members = members.collect();
    PoolSpec {
        failure_policy: draft.failure_policy.into_policy(paths != PathPolicy::Any),
        token_accounting: draft.token_accounting.into_accounting(usual),
        name,
        models: draft.models.into_iter().map(|model| model.value).collect(),
        policy,
        shadow: draft.shadow,
        members,
        route: draft.route,
        path_policy: paths,
        fallback: draft.fallback.map(|fallback| fallback.value),
        api_key,
        sticky: draft.sticky,
        tls,
    }
}

/// As in nginx: where a weight is a share of keys or of chances, nobody can grow into it.
fn check_slow_start(policy: &PolicySpec, draft: &PoolDraft) -> Option<Diagnostic> {
    let members = draft.members.as_deref().unwrap_or_default();
    let slow = members.iter().find(|member| !member.value.slow_start.is_zero() && !policy.supports_slow_start())?;
    let issue = slow.span.diagnostic(format!("`slow_start` cannot go with `{}`", policy.name()));
    Some(issue.with_help("leave it out, or choose a policy that is neither by key nor at random"))
}

/// How a pool's replicas are verified.
fn build_tls(draft: &PoolDraft, found: &mut BuildContext) -> UpstreamTls {
    let TlsDraft { ca, name, verify } = &draft.tls;
    let members = draft.members.as_deref().unwrap_or_default();
    let off = verify.as_ref().filter(|verify| !verify.value);
    let places = [ca.as_ref().map(|ca| &ca.span), name.as_ref().map(|name| &name.span), off.map(|off| &off.span)];
    if let Some(at) = places.into_iter().flatten().next()
        && !members.is_empty()
        && members.iter().all(|member| member.value.origin.tls().is_none())
    {
        let warning = at.diagnostic("warning: no replica of this pool is reached by TLS");
        found.warnings.push(warning.with_help("write `https://` in front of those that are"));
    }
    let trust = match (ca, off) {
        (Some(ca), Some(SpannedValue { span: at, .. })) => {
            let issue = at.diagnostic(format!("`tls_ca` ({}) says who to trust", ca.span.relative_to(at)));
            found.errors.push(issue.with_help("keep one: `tls_verify = false` trusts anybody"));
            TrustRoots::Insecure
        }
        (None, Some(SpannedValue { span: at, .. })) => {
            let warning = at.diagnostic("warning: whoever can redirect these connections can read and answer them");
            found.warnings.push(warning.with_help("`tls_ca` names the file of the issuer to trust"));
            TrustRoots::Insecure
        }
        (Some(SpannedValue { value: file, span: at }), None) => {
            found.referenced_files.add(file, at);
            TrustRoots::File(file.clone())
        }
        (None, None) => {
            if let Some(member) = members.iter().find(|member| member.value.origin.tls().is_some()) {
                found.referenced_files.add(Path::new(""), &member.span);
            }
            TrustRoots::System
        }
    };
    UpstreamTls { trust_roots: trust, server_name: name.as_ref().map(|name| name.value.clone()) }
}

fn resolve_api_key(draft: &PoolDraft, env: &BTreeMap<String, String>) -> Result<Option<ApiKey>, Diagnostic> {
    match (&draft.api_key, &draft.api_key_env) {
        (Some(key), Some(name)) => {
            let other = key.span.relative_to(&name.span);
            Err(name
                .span
                .diagnostic(format!("`api_key` ({other}) and `api_key_env` are both given"))
                .with_help("keep one"))
        }
        (key, None) => Ok(key.as_ref().map(|key| key.value.clone())),
        (None, Some(name)) => match env.get(&name.value) {
            Some(key) if is_header_safe(key) => Ok(Some(ApiKey::new(key))),
            Some(_) => Err(name.span.diagnostic(format!(
                "the environment variable `{}` holds no key of visible ASCII characters",
                name.value
            ))),
            None => Err(name.span.diagnostic(format!("the environment variable `{}` is not set", name.value))),
        },
    }
}

/// Pools are told apart by name, in metrics and over reloads, so a made-up one would not do.
fn check_pool_names(drafts: &[PoolDraft], found: &mut BuildContext) {
    let mut seen: BTreeMap<Arc<str>, Span> = BTreeMap::new();
    for draft in drafts {
        let SpannedValue { value: name, span: at } = draft.name_or_default();
        if let Some(first) = seen.get(&name) {
            let issue = at.diagnostic(format!("two pools are called `{name}` (the other: {})", first.relative_to(&at)));
            found.errors.push(issue.with_help("give this one a `name` of its own"));
        } else {
            seen.insert(name, at);
        }
    }
}

fn check_replicas(drafts: &[PoolDraft], found: &mut BuildContext) {
    let mut named: BTreeMap<Arc<str>, (Origin, Span)> = BTreeMap::new();
    for draft in drafts {
        let members = draft.members.as_deref().unwrap_or_default();
        if members.is_empty() && (draft.members.is_some() || draft.key_span("replicas").is_none()) {
            let at = draft.key_span("replicas").unwrap_or(&draft.span);
            found.errors.push(at.diagnostic("no replicas").with_help(REPLICAS_EXAMPLE));
        }
        if !members.is_empty() && members.iter().all(|member| member.value.down) {
            let at = draft.key_span("replicas").unwrap_or(&draft.span);
            found.warnings.push(at.diagnostic("warning: every replica of this pool is `down`"));
        }
        let mut seen: BTreeMap<&Origin, &Span> = BTreeMap::new();
        for SpannedValue { value: MemberSpec { origin, name, dns_lookup: lookup, .. }, span: at } in members {
            if let Some(first) = seen.get(origin) {
                let first = first.relative_to(at);
                let issue = at.diagnostic(format!("the replica `{origin}` is in this pool twice (the other: {first})"));
                found.errors.push(issue.with_help("a replica that can do more takes a `weight`"));
                continue;
            }
            seen.insert(origin, at);
            if lookup.is_some() {
                // Its addresses are the replicas, and are called so.
                continue;
            }
            let (other, first) = named.entry(Arc::clone(name)).or_insert_with(|| (origin.clone(), at.clone()));
            if other != origin {
                let first = first.relative_to(at);
                let issue = at.diagnostic(format!("two replicas are called `{name}` (the other: {first})"));
                found.errors.push(issue.with_help("give one of them a name: name=..."));
            }
        }
    }
}

const REPLICAS_EXAMPLE: &str = "for example replicas = [\"http://10.0.0.1:8000\", \"http://10.0.0.2:8000\"]";

/// A request must lead to one pool.
fn check_models(drafts: &[PoolDraft], found: &mut BuildContext) {
    let mut seen: BTreeMap<_, (Arc<str>, Span)> = BTreeMap::new();
    let mut any = BTreeMap::new();
    for draft in drafts {
        let route = (draft.route.host.as_deref(), draft.route.path.as_deref());
        for SpannedValue { value: model, span: at } in &draft.models {
            if let Some((pool, first)) = seen.get(&(route, model.as_str())) {
                let first = first.relative_to(at);
                let issue = at.diagnostic(format!("the model `{model}` is already served by pool `{pool}` ({first})"));
                found.errors.push(issue.with_help("name it once, or give the pools different `host`s or `path`s"));
            } else {
                seen.insert((route, model.as_str()), (draft.name_or_default().value, at.clone()));
            }
        }
        let Some(SpannedValue { value: PathPolicy::Any, span: at }) = &draft.paths else { continue };
        if let Some(pool) = any.insert(route, draft.name_or_default().value) {
            let issue = at.diagnostic(format!("pool `{pool}` takes any path already"));
            found.errors.push(issue.with_help("give the pools different `host`s or `path`s"));
        }
    }
}

fn check_fallbacks(drafts: &[PoolDraft], found: &mut BuildContext) {
    let names: Vec<Arc<str>> = drafts.iter().map(|draft| draft.name_or_default().value).collect();
    let next: BTreeMap<&str, &SpannedValue<Arc<str>>> =
        drafts.iter().zip(&names).filter_map(|(draft, name)| Some((&**name, draft.fallback.as_ref()?))).collect();
    let mut known_circle: Vec<&str> = Vec::new();
    for (from, SpannedValue { value: to, span: at }) in
        drafts.iter().zip(&names).filter_map(|(d, n)| Some((n, d.fallback.as_ref()?)))
    {
        if !names.contains(to) {
            let others: Vec<&str> = names.iter().map(|name| &**name).filter(|name| **name != **from).collect();
            found
                .errors
                .push(at.diagnostic(format!("there is no pool `{to}`")).with_help(suggestion(to, "pools", &others)));
            continue;
        }
        let mut way: Vec<&str> = vec![from];
        while let Some(step) = way.last().and_then(|last| next.get(last)) {
            if way.contains(&&*step.value) {
                break;
            }
            way.push(&step.value);
        }
        let back = way.last().and_then(|last| next.get(last)).is_some_and(|step| step.value == *from);
        if back && !known_circle.contains(&&**from) {
            let circle = format!("{} -> {from}", way.join(" -> "));
            let issue = at.diagnostic(format!("fallbacks lead in a circle: {circle}"));
            found.errors.push(issue.with_help("take the `fallback` away from one of them"));
            known_circle.extend(way);
        }
    }
}
