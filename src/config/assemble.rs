//! From drafts to pools: what only shows when pools are seen together.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::files::Files;
use super::nearest::suggest;
use super::pool::{Draft, DraftTls, fits_header};
use super::report::{At, Issue, Place};
use crate::balance::{self, Goes};
use crate::fleet::{ApiKey, MemberSpec, Origin, Paths, PolicySpec, PoolSpec, Tls, Trust};

/// How often engines are asked for their metrics.
const ENGINE_METRICS: Duration = Duration::from_secs(5);

/// What was found while assembling.
#[derive(Default)]
pub(super) struct Found {
    pub(super) issues: Vec<Issue>,
    pub(super) warnings: Vec<Issue>,
    pub(super) files: Files,
}

/// Makes the pools; `policy` is for those that name none. The pools mean something only if no issue was found.
pub(super) fn assemble(
    drafts: Vec<Draft>,
    policy: Option<&At<PolicySpec>>,
    env: &BTreeMap<String, String>,
    found: &mut Found,
) -> Vec<PoolSpec> {
    names(&drafts, found);
    replicas(&drafts, found);
    models(&drafts, found);
    fallbacks(&drafts, found);
    drafts.into_iter().map(|draft| pool(draft, policy, env, found)).collect()
}

fn pool(draft: Draft, policy: Option<&At<PolicySpec>>, env: &BTreeMap<String, String>, found: &mut Found) -> PoolSpec {
    let policy = draft.policy.as_ref().or(policy);
    let policy = policy.map(|policy| policy.value.clone()).unwrap_or_default();
    found.issues.extend(slow_starts(&policy, &draft));
    if let Some(At { value: Paths::Any, at }) = &draft.paths {
        let warning = at.issue("warning: every path of these replicas can be reached, control endpoints included");
        found.warnings.push(warning.help("list the paths you need, for example paths = [\"/v1/images/generations\"]"));
    }
    let api_key = api_key(&draft, env).unwrap_or_else(|issue| {
        found.issues.push(issue);
        None
    });
    let tls = tls(&draft, found);
    let name = draft.called().value;
    let paths = draft.paths.map_or(Paths::Listed(Vec::new()), |paths| paths.value);
    // Behind `paths = "any"` there may be anything, so what was not asked for is not sent there.
    let usual = (paths != Paths::Any).then_some(ENGINE_METRICS);
    let members = draft.members.unwrap_or_default().into_iter().map(|At { value: mut member, .. }| {
        member.origin.verify_by(&tls);
        draft.failing.apply(&mut member);
        member
    });
    let members = members.collect();
    PoolSpec {
        failing: draft.failing.finish(paths != Paths::Any),
        metering: draft.metering.finish(usual),
        name,
        models: draft.models.into_iter().map(|model| model.value).collect(),
        policy,
        shadow: draft.shadow,
        members,
        route: draft.route,
        paths,
        fallback: draft.fallback.map(|fallback| fallback.value),
        api_key,
        sticky: draft.sticky,
        tls,
    }
}

/// As in nginx: where a weight is a share of keys or of chances, nobody can grow into it.
fn slow_starts(policy: &PolicySpec, draft: &Draft) -> Option<Issue> {
    let members = draft.members.as_deref().unwrap_or_default();
    let slow = members.iter().find(|member| !member.value.slow_start.is_zero() && !policy.can_start_slowly())?;
    let issue = slow.at.issue(format!("`slow_start` cannot go with `{}`", policy.name()));
    let names = balance::table().iter().filter(|row| row.goes_by == Goes::Load).map(|row| row.name);
    let names: Vec<&str> = names.collect();
    Some(issue.help(format!("leave it out, or take one of these policies: {}", names.join(", "))))
}

/// How a pool's replicas are verified.
fn tls(draft: &Draft, found: &mut Found) -> Tls {
    let DraftTls { ca, name, verify } = &draft.tls;
    let members = draft.members.as_deref().unwrap_or_default();
    let off = verify.as_ref().filter(|verify| !verify.value);
    let places = [ca.as_ref().map(|ca| &ca.at), name.as_ref().map(|name| &name.at), off.map(|off| &off.at)];
    if let Some(at) = places.into_iter().flatten().next()
        && !members.is_empty()
        && members.iter().all(|member| member.value.origin.tls().is_none())
    {
        let warning = at.issue("warning: no replica of this pool is reached by TLS");
        found.warnings.push(warning.help("write `https://` in front of those that are"));
    }
    let trust = match (ca, off) {
        (Some(ca), Some(At { at, .. })) => {
            let issue = at.issue(format!("`tls_ca` ({}) says who to trust", ca.at.seen_from(at)));
            found.issues.push(issue.help("keep one: `tls_verify = false` trusts anybody"));
            Trust::Anybody
        }
        (None, Some(At { at, .. })) => {
            let warning = at.issue("warning: whoever can redirect these connections can read and answer them");
            found.warnings.push(warning.help("`tls_ca` names the file of the issuer to trust"));
            Trust::Anybody
        }
        (Some(At { value: file, at }), None) => {
            found.files.add(file, at);
            Trust::File(file.clone())
        }
        (None, None) => {
            if let Some(member) = members.iter().find(|member| member.value.origin.tls().is_some()) {
                found.files.add(Path::new(""), &member.at);
            }
            Trust::System
        }
    };
    Tls { trust, name: name.as_ref().map(|name| name.value.clone()) }
}

fn api_key(draft: &Draft, env: &BTreeMap<String, String>) -> Result<Option<ApiKey>, Issue> {
    match (&draft.api_key, &draft.api_key_env) {
        (Some(key), Some(name)) => {
            let other = key.at.seen_from(&name.at);
            Err(name.at.issue(format!("`api_key` ({other}) and `api_key_env` are both given")).help("keep one"))
        }
        (key, None) => Ok(key.as_ref().map(|key| key.value.clone())),
        (None, Some(name)) => match env.get(&name.value) {
            Some(key) if fits_header(key) => Ok(Some(ApiKey::new(key))),
            Some(_) => Err(name
                .at
                .issue(format!("the environment variable `{}` holds no key of visible ASCII characters", name.value))),
            None => Err(name.at.issue(format!("the environment variable `{}` is not set", name.value))),
        },
    }
}

/// Pools are told apart by name, in metrics and over reloads, so a made-up one would not do.
fn names(drafts: &[Draft], found: &mut Found) {
    let mut seen: BTreeMap<Arc<str>, Place> = BTreeMap::new();
    for draft in drafts {
        let At { value: name, at } = draft.called();
        if let Some(first) = seen.get(&name) {
            let issue = at.issue(format!("two pools are called `{name}` (the other: {})", first.seen_from(&at)));
            found.issues.push(issue.help("give this one a `name` of its own"));
        } else {
            seen.insert(name, at);
        }
    }
}

fn replicas(drafts: &[Draft], found: &mut Found) {
    let mut named: BTreeMap<Arc<str>, (Origin, Place)> = BTreeMap::new();
    for draft in drafts {
        let members = draft.members.as_deref().unwrap_or_default();
        if members.is_empty() && (draft.members.is_some() || draft.given("replicas").is_none()) {
            let at = draft.given("replicas").unwrap_or(&draft.at);
            found.issues.push(at.issue("no replicas").help(EXAMPLE));
        }
        if !members.is_empty() && members.iter().all(|member| member.value.down) {
            let at = draft.given("replicas").unwrap_or(&draft.at);
            found.warnings.push(at.issue("warning: every replica of this pool is `down`"));
        }
        let mut seen: BTreeMap<&Origin, &Place> = BTreeMap::new();
        for At { value: MemberSpec { origin, name, lookup, .. }, at } in members {
            if let Some(first) = seen.get(origin) {
                let first = first.seen_from(at);
                let issue = at.issue(format!("the replica `{origin}` is in this pool twice (the other: {first})"));
                found.issues.push(issue.help("a replica that can do more takes a `weight`"));
                continue;
            }
            seen.insert(origin, at);
            if lookup.is_some() {
                // Its addresses are the replicas, and are called so.
                continue;
            }
            let (other, first) = named.entry(Arc::clone(name)).or_insert_with(|| (origin.clone(), at.clone()));
            if other != origin {
                let first = first.seen_from(at);
                let issue = at.issue(format!("two replicas are called `{name}` (the other: {first})"));
                found.issues.push(issue.help("give one of them a name: name=..."));
            }
        }
    }
}

const EXAMPLE: &str = "for example replicas = [\"http://10.0.0.1:8000\", \"http://10.0.0.2:8000\"]";

/// A request must lead to one pool.
fn models(drafts: &[Draft], found: &mut Found) {
    let mut seen: BTreeMap<_, (Arc<str>, Place)> = BTreeMap::new();
    let mut any = BTreeMap::new();
    for draft in drafts {
        let route = (draft.route.host.as_deref(), draft.route.path.as_deref());
        for At { value: model, at } in &draft.models {
            if let Some((pool, first)) = seen.get(&(route, model.as_str())) {
                let first = first.seen_from(at);
                let issue = at.issue(format!("the model `{model}` is already served by pool `{pool}` ({first})"));
                found.issues.push(issue.help("name it once, or give the pools different `host`s or `path`s"));
            } else {
                seen.insert((route, model.as_str()), (draft.called().value, at.clone()));
            }
        }
        let Some(At { value: Paths::Any, at }) = &draft.paths else { continue };
        if let Some(pool) = any.insert(route, draft.called().value) {
            let issue = at.issue(format!("pool `{pool}` takes any path already"));
            found.issues.push(issue.help("give the pools different `host`s or `path`s"));
        }
    }
}

fn fallbacks(drafts: &[Draft], found: &mut Found) {
    let names: Vec<Arc<str>> = drafts.iter().map(|draft| draft.called().value).collect();
    let next: BTreeMap<&str, &At<Arc<str>>> =
        drafts.iter().zip(&names).filter_map(|(draft, name)| Some((&**name, draft.fallback.as_ref()?))).collect();
    let mut known_circle: Vec<&str> = Vec::new();
    for (from, At { value: to, at }) in drafts.iter().zip(&names).filter_map(|(d, n)| Some((n, d.fallback.as_ref()?))) {
        if !names.contains(to) {
            let others: Vec<&str> = names.iter().map(|name| &**name).filter(|name| **name != **from).collect();
            found.issues.push(at.issue(format!("there is no pool `{to}`")).help(suggest(to, "pools", &others)));
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
            let issue = at.issue(format!("fallbacks lead in a circle: {circle}"));
            found.issues.push(issue.help("take the `fallback` away from one of them"));
            known_circle.extend(way);
        }
    }
}
