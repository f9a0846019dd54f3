//! Guards: `return`, `deny` and other directives that keep requests from replicas.
//!
//! Requests that nginx refuses must stay refused. A guard is carried over, or the import fails at its line.

use crate::import::blocks::{BlockScope, NginxLocation};
use crate::import::context::ImportContext;
use crate::import::report::RemarkKind;
use crate::import::syntax::directive::Directive;

/// Guards by kind, and why each cannot be carried. A block with guards of a kind inherits none of that kind.
const ACCESS_RULE_FAMILIES: [(&[&str], &str); 5] = [
    (&["allow", "deny"], "the router does not filter addresses, so every client would be admitted"),
    (
        &["auth_basic", "auth_request", "auth_jwt"],
        "the router does not check passwords, so every client would be admitted",
    ),
    (&["ssl_verify_client"], "the router does not check client certificates, so every client would be admitted"),
    (&["limit_except"], "the router does not filter methods, so all would be admitted"),
    (&["if"], "the router does not evaluate conditions, so refused requests would be admitted"),
];

/// `return STATUS | URL ...`.
pub(super) fn handle_return(context: &mut ImportContext, directive: &Directive) {
    let status = directive.arg(0).parse::<u16>().ok();
    match (context.open.scope, status) {
        (BlockScope::Server, _) => {
            let reason = "it answers every request of this server, so none reaches a replica";
            context.report.add_remark(RemarkKind::Impossible, directive, reason.to_owned());
            if let Some(server) = &mut context.open.server {
                server.has_return = true;
            }
        }
        (BlockScope::Location, Some(status @ 400..=599)) => {
            if status == 444 {
                context.report.add_note(directive, "the router responds with 444; nginx closes the connection");
            }
            context.report.carried_count += 1;
            block_location(context, status);
        }
        (BlockScope::Location, _) => {
            context
                .report
                .add_impossible(directive, "the router returns no content of its own: the path is refused with 404");
            block_location(context, 404);
        }
        _ => {
            context.check_scope(directive, &[BlockScope::Server, BlockScope::Location], "`server` or `location`");
        }
    }
}

/// `internal`: clients get a 404.
pub(super) fn handle_internal(context: &mut ImportContext, directive: &Directive) {
    if context.check_scope(directive, &[BlockScope::Location], "`location`") {
        context.report.carried_count += 1;
        block_location(context, 404);
    }
}

/// `allow`, `deny`, `auth_basic` and the like. They are checked at the end of each location with a `proxy_pass`.
pub(super) fn handle_access_rule(context: &mut ImportContext, directive: &Directive) {
    let Some(level) = context.open.level() else { return };
    let first = !level.access_rules.iter().any(|guard| guard.name.text == "allow");
    level.access_rules.push(directive.clone());
    if (context.open.scope, directive.name.text.as_str(), directive.arg(0)) == (BlockScope::Location, "deny", "all")
        && first
    {
        context.report.carried_count += 1;
        return block_location(context, 403);
    }
    // Where it does, `check_access_rules` fails the import.
    context.report.add_not_needed(directive, "it refuses no request to a replica");
}

/// `if (...) { ... }` and `limit_except METHOD ... { ... }`: guards if they refuse requests.
pub(super) fn handle_condition(context: &mut ImportContext, directive: &Directive) {
    let refuses = directive.block.iter().flatten().any(|inner| match inner.name.text.as_str() {
        "return" => !inner.arg(0).parse::<u16>().is_ok_and(|status| status < 300),
        name => ["deny", "auth_basic", "auth_request", "auth_jwt"].contains(&name),
    });
    if refuses && let Some(level) = context.open.level() {
        level.access_rules.push(directive.clone());
    }
    context.report.add_impossible(directive, "conditions are not evaluated; the block is left out");
}

/// `location ~ PATTERN { ... }`: one that refuses requests fails the import later.
pub(super) fn handle_regex_location(context: &mut ImportContext, directive: &Directive) {
    let refuses = directive.block.iter().flatten().find(|inner| {
        let status = inner.arg(0).parse::<u16>();
        matches!((inner.name.text.as_str(), status), ("deny" | "internal", _) | ("return", Ok(400..=599)))
    });
    match (refuses, &mut context.open.server) {
        (Some(refuses), Some(server)) => server.blocked_patterns.push(refuses.clone()),
        _ => context.report.add_impossible(directive, "paths are matched by prefix, not with regular expressions"),
    }
}

fn block_location(context: &mut ImportContext, status: u16) {
    if let Some(location) = context.open.location() {
        location.blocked_status = Some(status);
    }
}

/// Reports the guards in force in a location with a `proxy_pass`, as they cannot be carried.
pub(super) fn check_access_rules(context: &mut ImportContext, location: &NginxLocation) {
    if location.proxy_pass.is_none() {
        return;
    }
    for (names, reason) in ACCESS_RULE_FAMILIES {
        let is_of_kind = |guard: &&Directive| names.contains(&guard.name.text.as_str());
        let mut levels = context
            .open
            .levels
            .iter()
            .rev()
            .map(|level| level.access_rules.iter().filter(is_of_kind).collect::<Vec<_>>());
        let Some(guards) = levels.find(|guards| !guards.is_empty()) else { continue };
        // The first matching guard decides: after `allow all` no guard applies.
        let is_open = guards.iter().take_while(|guard| guard.name.text != "deny").any(|guard| guard.arg(0) == "all");
        let lets_in = |guard: &&&Directive| {
            guard.name.text == "allow" || ["off", "optional", "optional_no_ca"].contains(&guard.arg(0))
        };
        if let Some(guard) = guards.iter().find(|guard| !lets_in(guard)).filter(|_| !is_open) {
            let name = &guard.name.text;
            let issue = guard.name.span.diagnostic(format!("`{name}` keeps requests from replicas, and {reason}"));
            context
                .report
                .add_diagnostic(issue.with_help("remove it to import the rest, and protect the router by other means"));
        }
    }
}
