//! `upstream` blocks: their servers and how one is chosen.

use super::logs::variable_names;
use crate::balance;
use crate::config::{Span, SpannedValue, is_name, is_replica_option, parse_replica_words};
use crate::fleet::MemberSpec;
use crate::import::context::{BlockScope, ImportContext};
use crate::import::report::{RemarkKind, SourceLine};
use crate::import::syntax::parser::Directive;

/// An `upstream`.
pub(in crate::import) struct NginxUpstream {
    pub(in crate::import) name: String,
    pub(in crate::import) directive_text: String,
    pub(in crate::import) source_line: SourceLine,
    pub(in crate::import) servers: Vec<NginxUpstreamServer>,
    /// The policy as router.toml has it.
    pub(in crate::import) policy: Option<String>,
    /// `sticky` as router.toml has it.
    pub(in crate::import) sticky: Option<String>,
    /// The directive it is from.
    policy_directive: Option<(String, SourceLine)>,
}

/// One server.
#[derive(Clone)]
pub(in crate::import) struct NginxUpstreamServer {
    /// `http://host:port`, whatever `proxy_pass` says.
    pub(in crate::import) url: String,
    /// The words behind it as router.toml has them.
    pub(in crate::import) options: Vec<String>,
    pub(in crate::import) spec: MemberSpec,
}

/// nginx's words that have no meaning here yet; once the configuration knows one it is carried.
const UNSUPPORTED_OPTIONS: [&str; 1] = ["route"];

/// What an imported key that spreads nothing had better be.
const HASH_SESSION_HELP: &str = "`hash $session consistent` keeps each conversation on its replica (its body is read where `paths = \"any\"` is not)";
/// Variables that are the same for all requests of a kind: as a key they send all of them to one replica.
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
pub(in crate::import) fn handle_upstream(walk: &mut ImportContext, directive: &Directive) {
    if !walk.check_scope(directive, &[BlockScope::Main, BlockScope::Http], "`http`") {
        return;
    }
    let ([name], Some(block)) = (directive.args.as_slice(), &directive.block) else {
        let issue = directive.name.span.diagnostic("`upstream` takes a name and a block");
        return walk.report.add_diagnostic(issue.with_help("for example upstream chat { server 10.0.0.1:8000; }"));
    };
    if !is_name(&name.text) {
        let issue = name.span.diagnostic(format!("`{}` is no name for an upstream", name.text));
        return walk.report.add_diagnostic(issue.with_help("a name is one line without blanks around it"));
    }
    if let Some(known) = walk.upstreams.iter().find(|known| known.name == name.text) {
        let issue = name
            .span
            .diagnostic(format!("there is an upstream `{}` already, in line {}", name.text, known.source_line.line));
        return walk.report.add_diagnostic(issue.with_help("give this one another name"));
    }
    walk.current_upstream = Some(NginxUpstream {
        name: name.text.clone(),
        directive_text: directive.to_one_line(),
        source_line: directive.source_line(),
        servers: Vec::new(),
        policy: None,
        sticky: None,
        policy_directive: None,
    });
    let issues = walk.report.diagnostics.len();
    walk.read_block(block, BlockScope::Upstream);
    if let Some(upstream) = walk.current_upstream.take() {
        let servers = block.iter().any(|directive| matches!(directive.name.text.as_str(), "server" | "state"));
        if !servers && walk.report.diagnostics.len() == issues {
            let issue = name.span.diagnostic(format!("the upstream `{}` has no server", name.text));
            walk.report.add_diagnostic(issue.with_help("for example server 10.0.0.1:8000;"));
        }
        walk.upstreams.push(upstream);
    }
}

/// `server ADDRESS [weight=...] ...` in an upstream.
pub(in crate::import) fn handle_upstream_server(walk: &mut ImportContext, directive: &Directive) {
    let Some((address, words)) = directive.args.split_first() else {
        return walk.reject_argument(directive, "an address, such as 10.0.0.1:8000");
    };
    if address.text.starts_with("unix:") {
        return walk.report.add_impossible(directive, "replicas are reached over TCP");
    }
    let mut kept = Vec::new();
    for word in words {
        let name = word.text.split('=').next().unwrap_or_default();
        if UNSUPPORTED_OPTIONS.contains(&name) && !is_replica_option(name) {
            let what = format!("`{}` of {}", word.text, directive.to_one_line());
            walk.report.add_remark_at(
                RemarkKind::Unsupported,
                what,
                directive.source_line(),
                "the replica is there without it".to_owned(),
            );
        } else {
            kept.push(SpannedValue::new(word.text.clone(), word.span.clone()));
        }
    }
    let Some(member) = parse_server(walk, ("http", 80, &address.text), &address.span, kept) else { return };
    walk.report.carried_count += 1;
    let Some(upstream) = &mut walk.current_upstream else { return };
    match upstream.servers.iter_mut().find(|known| known.spec.origin == member.spec.origin) {
        None => upstream.servers.push(member),
        Some(known) => {
            let weight = u64::from(known.spec.weight.get()) + u64::from(member.spec.weight.get());
            known.options.retain(|word| !word.starts_with("weight="));
            known.options.insert(0, format!("weight={}", weight.min(65_535)));
            walk.report.add_note(directive, "a replica is in a pool once: the weights of its lines are added");
        }
    }
}

/// A replica from a scheme, its port, and nginx's address, which may have a port of its own; what is wrong is noted.
pub(in crate::import) fn parse_server(
    walk: &mut ImportContext,
    (scheme, port, address): (&str, u16, &str),
    at: &Span,
    words: Vec<SpannedValue<String>>,
) -> Option<NginxUpstreamServer> {
    let ported = address.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let service = words.iter().any(|word| word.value.starts_with("service="));
    let bare = ported || service;
    let url = if bare { format!("{scheme}://{address}") } else { format!("{scheme}://{address}:{port}") };
    let texts = words.iter().map(|word| word.value.clone()).collect();
    let all = std::iter::once(SpannedValue::new(url.clone(), at.clone())).chain(words).collect();
    match parse_replica_words(at, all) {
        Ok(spec) => Some(NginxUpstreamServer { url, options: texts, spec: spec.value }),
        Err(issues) => {
            issues.into_iter().for_each(|issue| walk.report.add_diagnostic(issue));
            None
        }
    }
}

/// How a server is chosen: `least_conn`, `hash KEY [consistent]` and the like.
pub(in crate::import) fn handle_policy(walk: &mut ImportContext, directive: &Directive) {
    if !walk.check_scope(directive, &[BlockScope::Upstream], "`upstream`") {
        return;
    }
    let name = directive.name.text.as_str();
    if let ("least_conn" | "ip_hash", Some(word)) = (name, directive.args.first()) {
        let issue = word.span.diagnostic(format!("`{name}` takes no argument"));
        return walk.report.add_diagnostic(issue.with_help(format!("is a `;` missing after `{name}`?")));
    }
    if name == "hash" && directive.args.is_empty() {
        return walk.reject_argument(directive, "a key, such as $arg_user");
    }
    let text = std::iter::once(name).chain(directive.arg_texts()).collect::<Vec<_>>().join(" ");
    let one_word_each =
        directive.arg_texts().iter().all(|word| !word.is_empty() && !word.contains(char::is_whitespace));
    let known = one_word_each && balance::PolicySpec::parse(&text).is_ok();
    let Some(upstream) = &mut walk.current_upstream else { return };
    if let Some((what, at)) = upstream.policy_directive.replace((directive.to_one_line(), directive.source_line())) {
        let why = format!("a pool has one policy: that of line {}", directive.name.line);
        walk.report.add_remark_at(RemarkKind::Impossible, what, at, why);
    }
    upstream.policy = known.then_some(text);
    if known {
        walk.report.carried_count += 1;
    } else {
        walk.report.add_unsupported(directive, "this pool has round_robin until then");
    }
    let by_client = |name: &str| matches!(name, "remote_addr" | "binary_remote_addr");
    if name == "ip_hash"
        || name == "hash" && directive.arg(0).contains('$') && variable_names(directive.arg(0)).all(by_client)
    {
        let why = format!(
            "behind an app server or another proxy all requests come from one address, so that one replica gets them all: {HASH_SESSION_HELP}"
        );
        walk.report.add_note(directive, why);
    } else if name == "hash" && variable_names(directive.arg(0)).all(|name| CONSTANT_VARIABLES.contains(&name)) {
        let why = format!(
            "{} is the same for every request to /v1/chat/completions, so that one replica gets them all: {HASH_SESSION_HELP}",
            directive.arg(0)
        );
        walk.report.add_note(directive, why);
    }
}
