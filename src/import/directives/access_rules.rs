//! Guards: `deny` and other directives that keep requests from replicas.
//!
//! Requests that nginx refuses must stay refused. A guard is carried over, or the import fails at its line.

use crate::import::blocks::{BlockGuard, BlockScope, GuardRule, NginxAnswer, NginxLocation};
use crate::import::context::ImportContext;
use crate::import::syntax::directive::Directive;

/// The help of a guard that cannot be carried over.
const REMOVE_HELP: &str = "requests that nginx refuses would reach replicas: remove it to import the rest, and protect the router by other means";
/// Why a `rewrite` cannot be carried over.
pub(in crate::import) const REWRITE_REASON: &str = "redirects of every path are, and the replacement of a location's path: `rewrite ^/team/(.*)$ /$1 break;` in `/team/`";
const CONDITION_REASON: &str = "the router does not evaluate this condition";

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
    let scope = context.open.scope;
    let Some(level) = context.open.level() else { return };
    let first = !level.access_rules.iter().any(|rule| rule.name.text == "allow");
    level.access_rules.push(directive.clone());
    if (scope, directive.name.text.as_str(), directive.arg(0)) == (BlockScope::Location, "deny", "all") && first {
        context.report.carried_count += 1;
        if let Some(location) = context.open.location() {
            location.answer = Some(NginxAnswer { toml: "\"403\"".to_owned(), directive: directive.clone() });
        }
        return;
    }
    // Where it does, `check_location` fails the import.
    context.report.add_not_needed(directive, "it refuses no request to a replica");
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

/// An `if` or a `limit_except`; `is_harmless`: no request depends on it.
pub(in crate::import) fn add_condition(context: &mut ImportContext, directive: &Directive, is_harmless: bool) {
    context.report.add_impossible(directive, "conditions are not evaluated; the block is left out");
    if let Some(level) = context.open.level().filter(|_| !is_harmless) {
        level.conditions.push(directive.clone());
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
        report_guard(context, handler, "it answers requests of a location with `proxy_pass`");
    }
    // nginx runs the conditions of the server and of the location itself, not of enclosing locations.
    let (inner, server) = (context.open.levels.last(), context.open.server_level());
    let conditions = server.into_iter().chain(inner).flat_map(|level| level.conditions.clone());
    for condition in conditions.collect::<Vec<_>>() {
        report_guard(context, &condition, CONDITION_REASON);
    }
}

/// Reports the guards in force in the innermost location that cannot be carried over.
fn check_guards(context: &mut ImportContext) {
    let mut levels = context.open.levels.iter().rev();
    let rules = levels.clone().find(|level| !level.access_rules.is_empty());
    let rules = rules.map_or(&[][..], |level| &level.access_rules);
    // The first rule that matches decides: after `allow all` no other applies.
    let first_of_all = rules.iter().find(|rule| rule.name.text == "deny" || rule.arg(0) == "all");
    let deny = first_of_all.filter(|rule| rule.name.text == "deny").cloned();
    let mut nearest: Vec<BlockGuard> = Vec::new();
    for guard in levels.by_ref().flat_map(|level| &level.guards) {
        if !nearest.iter().any(|inner| std::ptr::eq(inner.rule, guard.rule)) {
            nearest.push(guard.clone());
        }
    }
    if let Some(deny) = deny {
        report_guard(context, &deny, "the router does not filter addresses");
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

/// Reports a directive that cannot be carried over, once.
pub(in crate::import) fn report_guard(context: &mut ImportContext, directive: &Directive, reason: &str) {
    let name = &directive.name.text;
    let issue = directive.name.span.diagnostic(format!("`{name}` cannot be carried over: {reason}"));
    let issue = issue.with_help(REMOVE_HELP);
    if !context.report.diagnostics.contains(&issue) {
        context.report.add_diagnostic(issue);
    }
}
