//! `upstream` blocks: their servers and their policy.

use crate::balance;
use crate::config::{Span, SpannedValue, is_name, is_replica_option, parse_replica_words};
use crate::import::blocks::{BlockScope, NginxUpstream, NginxUpstreamServer};
use crate::import::context::ImportContext;
use crate::import::report::RemarkKind;
use crate::import::syntax::directive::{Directive, DirectiveWord};

/// nginx's options that the router lacks; one that router.toml gets is carried over.
const UNSUPPORTED_OPTIONS: [&str; 1] = ["route"];

/// Variables of the router's keys that nginx does not have: a configuration that names one has defined it.
const ROUTER_VARIABLES: [&str; 7] = ["cache_key", "model", "path", "prefix", "session", "tenant", "user"];
/// The recommended replacement of a key that spreads no load.
const HASH_SESSION_HELP: &str = "`hash $session consistent` keeps each conversation on its replica; remove `paths = \"any\"`, so that bodies are read";
/// Variables with one value for all requests to an endpoint; as a key they send all to one replica.
const CONSTANT_VARIABLES: [&str; 10] = [
    "request_uri",
    "uri",
    "document_uri",
    "host",
    "http_host",
    "server_name",
    "scheme",
    "proxy_host",
    "server_port",
    "request_method",
];

/// `upstream NAME { ... }`.
pub(super) fn open_upstream(context: &mut ImportContext, directive: &Directive) -> Option<BlockScope> {
    if !context.check_scope(directive, &[BlockScope::Main, BlockScope::Http], "`http`") {
        return None;
    }
    let ([name], Some(_)) = (directive.args.as_slice(), &directive.block) else {
        let issue = directive.name.span.diagnostic("`upstream` takes a name and a block");
        context.report.add_diagnostic(issue.with_help("for example upstream chat { server 10.0.0.1:8000; }"));
        return None;
    };
    if !is_name(&name.text) {
        let issue = name.span.diagnostic(format!("`{}` is no valid upstream name", name.text));
        context.report.add_diagnostic(issue.with_help("a name is one line without spaces around it"));
        return None;
    }
    if let Some(known) = context.upstreams.iter().find(|known| known.name == name.text) {
        let line = known.source_line.line;
        let issue = name.span.diagnostic(format!("duplicate upstream `{}`: the first is in line {line}", name.text));
        context.report.add_diagnostic(issue.with_help("rename this one"));
        return None;
    }
    context.open.upstream = Some(NginxUpstream {
        name: name.text.clone(),
        directive_text: directive.to_one_line(),
        source_line: directive.source_line(),
        servers: Vec::new(),
        policy: None,
        policy_directive: None,
        sticky: None,
        diagnostics_before: context.report.diagnostics.len(),
    });
    Some(BlockScope::Upstream)
}

pub(super) fn close_upstream(context: &mut ImportContext, directive: &Directive) {
    let Some(upstream) = context.open.upstream.take() else { return };
    let is_server = |inner: &Directive| matches!(inner.name.text.as_str(), "server" | "state");
    let has_servers = directive.block.iter().flatten().any(is_server);
    if !has_servers && context.report.diagnostics.len() == upstream.diagnostics_before {
        let span = directive.args.first().map_or(&directive.name.span, |name| &name.span);
        let issue = span.diagnostic(format!("the upstream `{}` has no server", upstream.name));
        context.report.add_diagnostic(issue.with_help("for example server 10.0.0.1:8000;"));
    }
    context.upstreams.push(upstream);
}

/// `server ADDRESS [weight=...] ...` in an upstream.
pub(super) fn handle_upstream_server(context: &mut ImportContext, directive: &Directive) {
    let Some((address, words)) = directive.args.split_first() else {
        return context.reject_argument(directive, "an address, such as 10.0.0.1:8000");
    };
    let mut options = Vec::new();
    for word in words {
        let name = word.text.split('=').next().unwrap_or_default();
        if UNSUPPORTED_OPTIONS.contains(&name) && !is_replica_option(name) {
            let what = format!("`{}` of {}", word.text, directive.to_one_line());
            context.report.add_remark_at(
                RemarkKind::Unsupported,
                what,
                directive.source_line(),
                "the replica is carried over without it".to_owned(),
            );
        } else {
            options.push(SpannedValue::new(word.text.clone(), word.span.clone()));
        }
    }
    let server = ServerAddress { scheme: "http", default_port: 80, text: &address.text, span: &address.span };
    let Some(member) = parse_server(context, &server, options) else { return };
    context.report.carried_count += 1;
    let Some(upstream) = &mut context.open.upstream else { return };
    match upstream.servers.iter_mut().find(|known| known.spec.origin == member.spec.origin) {
        None => upstream.servers.push(member),
        Some(known) => {
            let weight = u64::from(known.spec.weight.get()) + u64::from(member.spec.weight.get());
            known.options.retain(|word| !word.starts_with("weight="));
            known.options.insert(0, format!("weight={}", weight.min(65_535)));
            context.report.add_note(directive, "a pool contains a replica once: the weights of its lines are added");
        }
    }
}

/// The address of a server, in an upstream or in a URL.
pub(in crate::import) struct ServerAddress<'a> {
    pub(in crate::import) scheme: &'static str,
    /// The port of an address without one.
    pub(in crate::import) default_port: u16,
    /// `host` or `host:port`.
    pub(in crate::import) text: &'a str,
    pub(in crate::import) span: &'a Span,
}

/// Returns the replica at an address, with its options; `None` and a diagnostic if they are invalid.
pub(in crate::import) fn parse_server(
    context: &mut ImportContext,
    address: &ServerAddress<'_>,
    options: Vec<SpannedValue<String>>,
) -> Option<NginxUpstreamServer> {
    let ServerAddress { scheme, default_port, text, span } = *address;
    let has_port = text.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let is_service = options.iter().any(|word| word.value.starts_with("service="));
    let needs_no_port = has_port || is_service;
    let url = match scheme {
        "http" if text.starts_with("unix:") => text.to_owned(),
        _ if needs_no_port => format!("{scheme}://{text}"),
        _ => format!("{scheme}://{text}:{default_port}"),
    };
    let option_texts = options.iter().map(|word| word.value.clone()).collect();
    let words = std::iter::once(SpannedValue::new(url.clone(), span.clone())).chain(options).collect();
    match parse_replica_words(span, words) {
        Ok(spec) => Some(NginxUpstreamServer { url, options: option_texts, spec: spec.value }),
        Err(issues) => {
            issues.into_iter().for_each(|issue| context.report.add_diagnostic(issue));
            None
        }
    }
}

/// The policy: `least_conn`, `hash KEY [consistent]` and the like.
pub(super) fn handle_policy(context: &mut ImportContext, directive: &Directive) {
    if !context.check_scope(directive, &[BlockScope::Upstream], "`upstream`") {
        return;
    }
    let name = directive.name.text.as_str();
    if let ("least_conn" | "ip_hash", Some(word)) = (name, directive.args.first()) {
        let issue = word.span.diagnostic(format!("`{name}` takes no argument"));
        return context.report.add_diagnostic(issue.with_help(format!("is a `;` missing after `{name}`?")));
    }
    if name == "hash" && directive.args.is_empty() {
        return context.reject_argument(directive, "a key, such as $arg_user");
    }
    let text = std::iter::once(name).chain(directive.arg_texts()).collect::<Vec<_>>().join(" ");
    if let Err((span, reason)) = check_policy(directive, &text) {
        let issue = span.diagnostic(format!("`{name}` cannot be carried over: {reason}"));
        let help =
            "another policy would send requests to other replicas than nginx: name a supported one, or remove it";
        return context.report.add_diagnostic(issue.with_help(help));
    }
    let Some(upstream) = &mut context.open.upstream else { return };
    if let Some((text, line)) = upstream.policy_directive.replace((directive.to_one_line(), directive.source_line())) {
        let reason = format!("a pool has one policy: that of line {}", directive.name.line);
        context.report.add_remark_at(RemarkKind::Impossible, text, line, reason);
    }
    upstream.policy = Some(text);
    context.report.carried_count += 1;
    note_unbalanced_key(context, directive);
}

/// Checks that the router has a policy, which is `text`, and that its variables are nginx's own.
///
/// *Errors*: the place and the reason.
fn check_policy<'a>(directive: &'a Directive, text: &str) -> Result<(), (&'a Span, String)> {
    for word in &directive.args {
        if word.text.is_empty() || word.text.contains(char::is_whitespace) {
            return Err((&word.span, "the router's keys have no blanks".to_owned()));
        }
        if let Some(name) = variable_names(&word.text).find(|name| ROUTER_VARIABLES.contains(name)) {
            return Err((&word.span, format!("`${name}` of this file is none of nginx's own variables")));
        }
    }
    balance::PolicySpec::parse(text).map(drop).map_err(|error| {
        let is_at_fault = |word: &&DirectiveWord| error.bad_text().is_some_and(|bad| word.text.contains(bad));
        let span = directive.args.iter().find(is_at_fault).map_or(&directive.name.span, |word| &word.span);
        (span, error.to_string())
    })
}

/// Notes a policy whose key is the same for most requests.
fn note_unbalanced_key(context: &mut ImportContext, directive: &Directive) {
    let (name, key) = (directive.name.text.as_str(), directive.arg(0));
    let is_client = |name: &str| matches!(name, "remote_addr" | "binary_remote_addr");
    let is_client_key = name == "hash" && key.contains('$') && variable_names(key).all(is_client);
    if name == "ip_hash" || is_client_key {
        let reason = format!(
            "behind an app server or another proxy all requests have one address, so one replica gets them all: {HASH_SESSION_HELP}"
        );
        context.report.add_note(directive, reason);
    } else if name == "hash" && variable_names(key).all(|name| CONSTANT_VARIABLES.contains(&name)) {
        let reason = format!(
            "{key} is the same for every request to /v1/chat/completions, so one replica gets them all: {HASH_SESSION_HELP}"
        );
        context.report.add_note(directive, reason);
    }
}

/// Returns the names of the variables in a text: `$name` or `${name}`.
fn variable_names(text: &str) -> impl Iterator<Item = &str> {
    text.split('$').skip(1).map(|after| {
        let after = after.strip_prefix('{').unwrap_or(after);
        let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
        after.get(..end).unwrap_or_default()
    })
}
