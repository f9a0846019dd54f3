//! Why a configuration leads no request to a replica.

use super::syntax::directive::Directive;
use crate::config::Diagnostic;

/// Directives that lead to servers of other protocols.
const OTHER_PASSES: [&str; 5] = ["fastcgi_pass", "uwsgi_pass", "scgi_pass", "memcached_pass", "grpc_pass"];

/// The blocks around a directive that decide whether requests get to it.
#[derive(Clone, Copy, Default)]
struct EnclosingBlocks<'a> {
    /// Outside of `http`.
    stream: bool,
    server: Option<&'a Directive>,
    location: Option<&'a Directive>,
}

/// Returns an error at every directive that would lead to servers, with the reason why no request gets there; empty if
/// there is no such directive.
pub(super) fn explain_unreached(directives: &[Directive]) -> Vec<Diagnostic> {
    let mut issues = Vec::new();
    explain_block(directives, EnclosingBlocks::default(), &mut issues);
    issues
}

fn explain_block(directives: &[Directive], around: EnclosingBlocks<'_>, issues: &mut Vec<Diagnostic>) {
    for directive in directives {
        let name = directive.name.text.as_str();
        let mut inside = around;
        match name {
            "stream" | "mail" => inside.stream = true,
            "server" => inside.server = Some(directive),
            "location" => inside.location = Some(directive),
            "proxy_pass" => {
                let issue = directive.name.span.diagnostic("no request reaches this `proxy_pass`");
                issues.push(issue.with_help(explain_proxy_pass(around)));
            }
            name if OTHER_PASSES.contains(&name) => {
                let issue = directive.name.span.diagnostic(format!("`{name}` leads to no replica"));
                issues.push(issue.with_help("replicas are HTTP/1.1 servers: proxy_pass http://..."));
            }
            _ => {}
        }
        explain_block(directive.block.as_deref().unwrap_or_default(), inside, issues);
    }
}

/// Returns the reason why no request gets to a `proxy_pass`.
fn explain_proxy_pass(EnclosingBlocks { stream, server, location }: EnclosingBlocks<'_>) -> String {
    let has = |block: &Directive, name: &str| {
        block.block.iter().flatten().find(|inner| inner.name.text == name).map(|found| found.name.line)
    };
    if stream {
        return "only HTTP is supported, not `stream` and `mail`".to_owned();
    }
    if let Some(line) = location.and_then(|location| has(location, "internal")) {
        return format!("its location is `internal` (line {line}): clients get 404");
    }
    if let Some(name) = location.map(|location| location.arg(0)).filter(|name| name.starts_with('@')) {
        return format!("clients cannot reach the named location {name}: write the `proxy_pass` where requests arrive");
    }
    for block in [location, server].into_iter().flatten() {
        if let Some(line) = has(block, "return").or_else(|| has(block, "rewrite")) {
            return format!("line {line} answers the requests of this `{}`", block.name.text);
        }
    }
    match (location, server) {
        (None, _) | (_, None) => "it belongs in a `location` of a `server`".to_owned(),
        _ => "its server has no address that the router can listen at, or another server takes its requests".to_owned(),
    }
}
