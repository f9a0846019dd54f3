//! Guards: `deny` and other directives that keep requests from replicas.
//!
//! Requests that nginx refuses must stay refused. A guard is carried over, or the import fails at its line.

use crate::import::blocks::{BlockScope, NginxLocation, NginxServer};
use crate::import::conditions;
use crate::import::conditions::verdict::ConditionVerdict;
use crate::import::context::ImportContext;
use crate::import::guard::{BlockGuard, GuardRule};
use crate::import::report::RemarkKind;
use crate::import::scoped_keys::ScopedKeys;
use crate::import::syntax::directive::Directive;
use crate::import::toml_text::quote_list;
use crate::routes::AddressRule;

/// The help of a guard that cannot be carried over.
const REMOVE_HELP: &str = "requests that nginx refuses would reach replicas: remove it to import the rest, and protect the router by other means";
/// Why a `rewrite` cannot be carried over.
pub(in crate::import) const REWRITE_REASON: &str = "redirects of every path are, and the replacement of a location's path: `rewrite ^/team/(.*)$ /$1 break;` in `/team/`";

/// `error_page STATUS ... [=[STATUS]] TARGET`.
pub(super) fn handle_error_page(context: &mut ImportContext, directive: &Directive) {
    let reason = "errors of replicas are forwarded, those of the router are OpenAI error objects";
    context.report.add_impossible(directive, reason);
    if let Some(level) = context.open.level() {
        level.error_pages.push(directive.clone());
    }
}

/// `allow` and `deny`.
pub(super) fn handle_access_rule(context: &mut ImportContext, directive: &Directive) {
    let rule = format!("{} {}", directive.name.text, directive.arg(0));
    if rule.parse::<AddressRule>().is_err() || directive.args.len() != 1 {
        return context.reject_argument(directive, "an address, a network, `unix:` or `all`");
    }
    context.report.carried_count += 1;
    if let Some(level) = context.open.level() {
        level.access_rules.push(rule);
    }
}

/// A directive that stops the import where it is in force for requests to replicas.
pub(in crate::import) fn add_guard(context: &mut ImportContext, directive: &Directive, rule: &'static GuardRule) {
    if context.open.scope == BlockScope::Upstream {
        return report_guard(context, directive, rule.reason);
    }
    // Where it does, `check_location` fails the import.
    context.report.add_not_needed(directive, "it refuses no request to a replica");
    let Some(level) = context.open.level() else { return };
    let guard = BlockGuard { directive: directive.clone(), rule };
    match level.guards.iter_mut().find(|known| std::ptr::eq(known.rule, rule)) {
        None => level.guards.push(guard),
        Some(known) if known.is_neutral() => *known = guard,
        Some(_) => {}
    }
}

/// `limit_except METHOD ... { ... }`: carried over if its block is `deny all;`. `is_harmless`: no request depends on its
/// block.
pub(in crate::import) fn add_limit_except(context: &mut ImportContext, directive: &Directive, is_harmless: bool) {
    let denies_all = matches!(directive.block.as_deref(), Some([inner])
        if inner.name.text == "deny" && inner.arg_texts() == ["all"]);
    if is_harmless {
        return context.report.add_impossible(directive, "no request depends on it: the block is left out");
    }
    if let (true, Some(location)) = (denies_all, context.open.location()) {
        let methods: Vec<String> = directive.arg_texts().into_iter().map(str::to_owned).collect();
        location.methods = Some(methods);
        context.report.carried_count += 1;
        return;
    }
    context.report.add_not_needed(directive, "it refuses no request to a replica");
    if let Some(location) = context.open.location() {
        location.limit_except = Some(directive.clone());
    }
}

/// A directive that answers the requests of its location.
pub(in crate::import) fn add_content_handler(context: &mut ImportContext, directive: &Directive, reason: &'static str) {
    context.report.add_impossible(directive, format!("{reason}: without a proxy_pass the answer is 404"));
    let is_location = context.open.scope == BlockScope::Location;
    if let Some(location) = context.open.location().filter(|_| is_location) {
        location.content_handler = Some(directive.clone());
    }
}

/// Returns the named locations of a server that lead to replicas.
pub(super) fn find_named_proxies(server: &Directive) -> Vec<String> {
    let is_proxy = |directive: &&Directive| {
        let mut inner = directive.block.iter().flatten();
        directive.name.text == "location" && inner.any(|inner| inner.name.text == "proxy_pass")
    };
    let blocks = server.block.iter().flatten().filter(is_proxy);
    blocks.map(|location| location.arg(0).to_owned()).filter(|name| name.starts_with('@')).collect()
}

/// Reports what keeps requests from the replicas of a location, or leads them elsewhere.
pub(super) fn check_location(context: &mut ImportContext, location: &NginxLocation) {
    check_error_pages(context);
    if !location.passes_requests() {
        return;
    }
    check_guards(context);
    if let Some(handler) = &location.content_handler {
        report_guard(context, handler, "it answers requests in place of `proxy_pass`");
    }
    if let Some(limit) = &location.limit_except {
        report_guard(context, limit, "the router has methods for all clients, so its block must be `deny all;`");
    }
}

/// Carries over what the conditions of a location and its server mean for its requests.
pub(super) fn apply_conditions(context: &mut ImportContext, location: &mut NginxLocation) {
    if let Some(methods) = location.methods.as_ref().filter(|_| !location.is_internal) {
        location.keys.set("methods", quote_list(methods));
    }
    let is_open = location.passes_requests() || location.answer.as_ref().is_some_and(|answer| !answer.refuses());
    match location.conditions.take() {
        Some(Ok(verdict)) => {
            apply_verdict(context, &mut location.keys, &verdict);
            location.variables = verdict.variables;
        }
        Some(Err(fault)) if is_open => report_guard(context, &fault.directive, &fault.reason),
        Some(Err(_)) | None => {}
    }
}

/// Carries over what the conditions of a server mean for requests that no location takes.
pub(super) fn apply_server_conditions(context: &mut ImportContext, server: &mut NginxServer) {
    let is_open = server.answer.as_ref().is_some_and(|answer| !answer.refuses());
    match server.conditions.take() {
        Some(Ok(verdict)) => apply_verdict(context, &mut server.keys, &verdict),
        Some(Err(fault)) if is_open => report_guard(context, &fault.directive, &fault.reason),
        Some(Err(_)) | None => {}
    }
}

/// Makes API keys of the keys that conditions ask for.
fn apply_verdict(context: &mut ImportContext, keys: &mut ScopedKeys, verdict: &ConditionVerdict) {
    if let Some(secrets) = &verdict.secrets {
        let names: Vec<String> = secrets.iter().map(|secret| context.client_keys.name_of(secret)).collect();
        verdict.refusals.iter().for_each(|refusal| context.client_keys.add_use(refusal, &names));
        keys.set("keys", quote_list(&names));
    }
}

/// Reports the guards in force in the innermost location that cannot be carried over.
fn check_guards(context: &mut ImportContext) {
    let mut nearest: Vec<BlockGuard> = Vec::new();
    for guard in context.open.levels.iter().rev().flat_map(|level| &level.guards) {
        if !nearest.iter().any(|inner| std::ptr::eq(inner.rule, guard.rule)) {
            nearest.push(guard.clone());
        }
    }
    for guard in nearest.iter().filter(|guard| !guard.is_neutral()) {
        report_guard(context, &guard.directive, guard.rule.reason);
    }
}

/// Reports an `error_page` in force in the innermost block that leads to replicas.
fn check_error_pages(context: &mut ImportContext) {
    let Some(server) = &context.open.server else { return };
    let mut levels = context.open.levels.iter().rev();
    let nearest = levels.find(|level| !level.error_pages.is_empty()).map_or(&[][..], |level| &level.error_pages);
    let leads_on =
        |page: &&Directive| page.args.last().is_some_and(|target| server.named_proxies.contains(&target.text));
    let found: Vec<Directive> = nearest.iter().filter(leads_on).cloned().collect();
    for page in found {
        report_guard(context, &page, "the router leads no failed request to a second location");
    }
}

/// Reports what the open server does with requests before it chooses a location, and cannot be carried over.
pub(super) fn check_server(context: &mut ImportContext) {
    check_error_pages(context);
    let Some(server) = &context.open.server else { return };
    for rewrite in if server.leads_to_replicas() { server.rewrites.clone() } else { Vec::new() } {
        report_guard(context, &rewrite, REWRITE_REASON);
    }
}

/// `merge_slashes`: that of the default server holds for all servers at its address, so `off` stops the import wherever it
/// is: the router compares paths with slashes merged, and a location that closes `//x` would never match.
pub(super) fn handle_merge_slashes(context: &mut ImportContext, directive: &Directive) {
    const REASON: &str = "paths are compared with slashes merged";
    match directive.arg(0) {
        "on" => context.report.add_remark(RemarkKind::NotNeeded, directive, REASON.to_owned()),
        _ => report_guard(context, directive, REASON),
    }
}

/// Reports a directive that cannot be carried over, once.
pub(in crate::import) fn report_guard(context: &mut ImportContext, directive: &Directive, reason: &str) {
    let name = &directive.name.text;
    let issue = directive.name.span.diagnostic(format!("`{name}` cannot be carried over: {reason}"));
    let issue = issue.with_help(REMOVE_HELP);
    let issue = if conditions::may_show_key(directive) { issue.without_excerpt() } else { issue };
    if !context.report.diagnostics.contains(&issue) {
        context.report.add_diagnostic(issue);
    }
}
