//! What keeps requests away from replicas: `return`, `deny` and their like. What nginx refuses must not become open, so
//! a guard is carried over, or the import fails at its line.

use super::server::{NginxLocation, NginxServer};
use crate::import::context::{BlockScope, ImportContext};
use crate::import::report::RemarkKind;
use crate::import::syntax::parser::Directive;

/// Guards of one kind: a block that has any of them has nothing of those around it.
const ACCESS_RULE_FAMILIES: [(&[&str], &str); 5] = [
    (&["allow", "deny"], "addresses are not filtered here, so everybody would get in"),
    (
        &["auth_basic", "auth_request", "auth_jwt"],
        "clients are not asked for a password here, so everybody would get in",
    ),
    (&["ssl_verify_client"], "clients are not asked for a certificate here, so everybody would get in"),
    (&["limit_except"], "methods are not filtered here, so others would get in"),
    (&["if"], "conditions are not evaluated here, so what it refuses would get in"),
];

/// `return STATUS | URL ...`.
pub(in crate::import) fn handle_return(walk: &mut ImportContext, directive: &Directive) {
    let status = directive.arg(0).parse::<u16>().ok();
    match (walk.scope, status) {
        (BlockScope::Server, _) => {
            let why = "it answers every request of this server, none of which leads to a replica then";
            walk.report.add_remark(RemarkKind::Impossible, directive, why.to_owned());
            if let Some(server) = &mut walk.current_server {
                server.has_return = true;
            }
        }
        (BlockScope::Location, Some(status @ 400..=599)) => {
            if status == 444 {
                walk.report.add_note(directive, "it is an answer here; nginx closes the connection");
            }
            walk.report.carried_count += 1;
            block_location(walk, status);
        }
        (BlockScope::Location, _) => {
            walk.report.add_impossible(directive, "answers of one's own are errors only: its path is refused with 404");
            block_location(walk, 404);
        }
        _ => drop(walk.check_scope(directive, &[BlockScope::Server, BlockScope::Location], "`server` or `location`")),
    }
}

/// `internal`, for clients a 404.
pub(in crate::import) fn handle_internal(walk: &mut ImportContext, directive: &Directive) {
    if walk.check_scope(directive, &[BlockScope::Location], "`location`") {
        walk.report.carried_count += 1;
        block_location(walk, 404);
    }
}

/// `allow`, `deny`, `auth_basic` and the like: judged when it is known what is behind them.
pub(in crate::import) fn handle_access_rule(walk: &mut ImportContext, directive: &Directive) {
    let Some(level) = walk.block_stack.last_mut() else { return };
    let first = !level.access_rules.iter().any(|guard| guard.name.text == "allow");
    level.access_rules.push(directive.clone());
    if (walk.scope, directive.name.text.as_str(), directive.arg(0)) == (BlockScope::Location, "deny", "all") && first {
        walk.report.carried_count += 1;
        return block_location(walk, 403);
    }
    // Where it does, the import fails.
    walk.report.add_not_needed(directive, "it keeps no request from a replica");
}

/// `if (...) { ... }` and `limit_except METHOD ... { ... }`: guards if they refuse.
pub(in crate::import) fn handle_condition(walk: &mut ImportContext, directive: &Directive) {
    let refuses = directive.block.iter().flatten().any(|inner| match inner.name.text.as_str() {
        "return" => !inner.arg(0).parse::<u16>().is_ok_and(|status| status < 300),
        name => ["deny", "auth_basic", "auth_request", "auth_jwt"].contains(&name),
    });
    if refuses && let Some(level) = walk.block_stack.last_mut() {
        level.access_rules.push(directive.clone());
    }
    walk.report.add_impossible(directive, "conditions are not evaluated; what is in the block is left out");
}

/// `location ~ PATTERN { ... }`: what refuses cannot be carried over.
pub(in crate::import) fn handle_regex_location(walk: &mut ImportContext, directive: &Directive) {
    let refuses = directive.block.iter().flatten().find(|inner| {
        let status = inner.arg(0).parse::<u16>();
        matches!((inner.name.text.as_str(), status), ("deny" | "internal", _) | ("return", Ok(400..=599)))
    });
    match (refuses, &mut walk.current_server) {
        (Some(refuses), Some(server)) => server.blocked_patterns.push(refuses.clone()),
        _ => walk
            .report
            .add_impossible(directive, "paths are compared from their beginning, not with regular expressions"),
    }
}

fn block_location(walk: &mut ImportContext, status: u16) {
    if let Some(location) = &mut walk.current_location {
        location.blocked_status = Some(status);
    }
}

/// At the end of a location that leads to replicas: fails at the guards before it.
pub(in crate::import) fn check_access_rules(walk: &mut ImportContext, location: &NginxLocation) {
    if location.proxy_pass.is_none() {
        return;
    }
    for (names, why) in ACCESS_RULE_FAMILIES {
        let of = |guard: &&Directive| names.contains(&guard.name.text.as_str());
        let mut levels =
            walk.block_stack.iter().rev().map(|level| level.access_rules.iter().filter(of).collect::<Vec<_>>());
        let Some(guards) = levels.find(|guards| !guards.is_empty()) else { continue };
        // Whoever is let in first is not asked again.
        let open = guards.iter().take_while(|guard| guard.name.text != "deny").any(|guard| guard.arg(0) == "all");
        let lets_in = |guard: &&&Directive| {
            guard.name.text == "allow" || ["off", "optional", "optional_no_ca"].contains(&guard.arg(0))
        };
        if let Some(guard) = guards.iter().find(|guard| !lets_in(guard)).filter(|_| !open) {
            let name = &guard.name.text;
            let issue = guard.name.span.diagnostic(format!("`{name}` keeps requests from replicas, and {why}"));
            walk.report
                .add_diagnostic(issue.with_help("take it out to import the rest, and guard the router by other means"));
        }
    }
}

/// The paths below `path`, of a pool of this server, that nginx does not lead to replicas, with their statuses.
pub(in crate::import) fn collect_blocked_paths(
    server: &NginxServer,
    open: &[bool],
    path: &str,
    exact: bool,
) -> Vec<(String, u16)> {
    let mut all = Vec::new();
    for (location, _) in server
        .locations
        .iter()
        .zip(open)
        .filter(|(location, open)| !**open && location.path.starts_with(path) && !(exact && location.path == path))
    {
        let sign = if location.is_exact { "= " } else { "" };
        all.push((format!("{sign}{}", location.path), location.blocked_status.unwrap_or(404)));
    }
    // Below a path that is meant alone there is what is around it.
    let below = format!("{}/", path.trim_end_matches('/'));
    if exact && path != "/" && !all.iter().any(|(path, _)| *path == below) {
        let around = server.locations.iter().zip(open).filter(|(l, _)| !l.is_exact && below.starts_with(&l.path));
        match around.max_by_key(|(location, _)| location.path.len()) {
            Some((_, true)) => {}
            Some((location, false)) => all.push((below, location.blocked_status.unwrap_or(404))),
            None => all.push((below, 404)),
        }
    }
    all.sort();
    all.dedup();
    all
}
