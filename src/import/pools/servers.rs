//! The replicas and the policy behind a `proxy_pass`.

use super::pass_url::PassUrl;
use crate::balance;
use crate::config::{SpannedValue, closest_match};
use crate::import::blocks::NginxUpstreamServer;
use crate::import::context::ImportContext;
use crate::import::directives::upstream::{ServerAddress, parse_server};
use crate::import::syntax::directive::{Directive, SourceLine};

const DEFAULT_POLICY: &str = "round_robin";

/// The servers and the policy of an upstream or an address.
pub(super) struct ResolvedServers {
    /// As strings of `replicas`.
    pub(super) replicas: Vec<String>,
    pub(super) policy: String,
    pub(super) sticky: Option<String>,
    pub(super) source_comment: String,
}

/// Returns the servers of a URL's host, and their policy; `None` and a diagnostic if there are none.
pub(super) fn resolve_servers(context: &mut ImportContext, url: &PassUrl, pass: &Directive) -> Option<ResolvedServers> {
    let (word, authority) = (pass.args.first()?, url.authority.as_str());
    if let Some(upstream) = context.upstreams.iter().find(|upstream| upstream.name == authority) {
        let policy = upstream.policy.clone().unwrap_or_else(|| DEFAULT_POLICY.to_owned());
        let (mut servers, sticky) = (upstream.servers.clone(), upstream.sticky.clone());
        // nginx rejects `slow_start` with such a policy, and so does router.toml.
        if balance::PolicySpec::parse(&policy).is_ok_and(|policy| !policy.supports_slow_start()) {
            servers.iter_mut().for_each(|server| server.options.retain(|word| !word.starts_with("slow_start=")));
        }
        let SourceLine { file, line } = &upstream.source_line;
        let source_comment = format!("{} ({file}:{line})", upstream.directive_text.trim_end_matches(" {}"));
        if servers.is_empty() {
            let issue = word.span.diagnostic(format!("the upstream `{authority}` has no usable server"));
            context.report.add_diagnostic(issue.with_help("for example server 10.0.0.1:8000;"));
            return None;
        }
        if url.scheme == "https" && servers.iter().any(|server| server.url.starts_with("unix:")) {
            let issue = word.span.diagnostic("a replica at a Unix socket has no TLS");
            context.report.add_diagnostic(issue.with_help(format!("write http://{authority}")));
            return None;
        }
        let replicas = servers.iter().map(|server| format_replica(server, url.scheme)).collect();
        return Some(ResolvedServers { replicas, policy, sticky, source_comment });
    }
    let near = closest_match(authority, context.upstreams.iter().map(|upstream| upstream.name.as_str()));
    if let Some(near) = near.filter(|_| !authority.contains(['.', ':', '['])) {
        let issue = word.span.diagnostic(format!("unknown upstream `{authority}`"));
        let issue = issue.with_help(format!("did you mean `{near}`?"));
        context.report.add_diagnostic(issue);
        return None;
    }
    let default_port = if url.scheme == "https" { 443 } else { 80 };
    let address = ServerAddress { scheme: url.scheme, default_port, text: authority, span: &word.span };
    let is_name = !authority.starts_with("unix:") && authority.contains(|c: char| c.is_ascii_alphabetic());
    let resolves = url.is_dynamic && is_name && !authority.starts_with('[');
    let options = resolves.then(|| SpannedValue::new("resolve".to_owned(), word.span.clone())).into_iter().collect();
    let server = parse_server(context, &address, options)?;
    Some(ResolvedServers {
        replicas: vec![format_replica(&server, url.scheme)],
        policy: DEFAULT_POLICY.to_owned(),
        sticky: None,
        source_comment: pass.to_comment(),
    })
}

/// Returns a server as a string of `replicas`.
fn format_replica(server: &NginxUpstreamServer, scheme: &str) -> String {
    let url = match server.url.strip_prefix("http://") {
        Some(rest) if scheme == "https" => format!("https://{rest}"),
        _ => server.url.clone(),
    };
    let mut words = vec![url];
    words.extend(server.options.iter().cloned());
    words.join(" ")
}
