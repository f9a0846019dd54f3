//! `upstream` blocks: their servers and how one is chosen.

use super::logs::variables;
use super::remark::{Kind, Where};
use super::tree::Directive;
use super::walk::{Scope, Walk};
use crate::balance;
use crate::config::replica::{from_words, knows};
use crate::config::{At, Place, is_name};
use crate::fleet::MemberSpec;

/// An `upstream`.
pub(super) struct Upstream {
    pub(super) name: String,
    pub(super) what: String,
    pub(super) at: Where,
    pub(super) members: Vec<Member>,
    /// The policy as router.toml has it.
    pub(super) policy: Option<String>,
    /// `sticky` as router.toml has it.
    pub(super) sticky: Option<String>,
    /// The directive it is from.
    chosen_by: Option<(String, Where)>,
}

/// One server.
#[derive(Clone)]
pub(super) struct Member {
    /// `http://host:port`, whatever `proxy_pass` says.
    pub(super) url: String,
    /// The words behind it as router.toml has them.
    pub(super) words: Vec<String>,
    pub(super) spec: MemberSpec,
}

/// nginx's words that have no meaning here yet; once the configuration knows one it is carried.
const LATER: [&str; 1] = ["route"];

/// What an imported key that spreads nothing had better be.
const INSTEAD: &str = "`hash $session consistent` keeps each conversation on its replica (its body is read where `paths = \"any\"` is not)";
/// Variables that are the same for all requests of a kind: as a key they send all of them to one replica.
const CONSTANT: [&str; 10] = [
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
pub(super) fn block(walk: &mut Walk, directive: &Directive) {
    if !walk.belongs(directive, &[Scope::Main, Scope::Http], "`http`") {
        return;
    }
    let ([name], Some(block)) = (directive.args.as_slice(), &directive.block) else {
        let issue = directive.name.at.issue("`upstream` takes a name and a block");
        return walk.notes.issue(issue.help("for example upstream chat { server 10.0.0.1:8000; }"));
    };
    if !is_name(&name.text) {
        let issue = name.at.issue(format!("`{}` is no name for an upstream", name.text));
        return walk.notes.issue(issue.help("a name is one line without blanks around it"));
    }
    if let Some(known) = walk.upstreams.iter().find(|known| known.name == name.text) {
        let issue = name.at.issue(format!("there is an upstream `{}` already, in line {}", name.text, known.at.line));
        return walk.notes.issue(issue.help("give this one another name"));
    }
    walk.upstream = Some(Upstream {
        name: name.text.clone(),
        what: directive.shown(),
        at: directive.place(),
        members: Vec::new(),
        policy: None,
        sticky: None,
        chosen_by: None,
    });
    let issues = walk.notes.issues.len();
    walk.block(block, Scope::Upstream);
    if let Some(upstream) = walk.upstream.take() {
        let servers = block.iter().any(|directive| matches!(directive.name.text.as_str(), "server" | "state"));
        if !servers && walk.notes.issues.len() == issues {
            let issue = name.at.issue(format!("the upstream `{}` has no server", name.text));
            walk.notes.issue(issue.help("for example server 10.0.0.1:8000;"));
        }
        walk.upstreams.push(upstream);
    }
}

/// `server ADDRESS [weight=...] ...` in an upstream.
pub(super) fn server(walk: &mut Walk, directive: &Directive) {
    let Some((address, words)) = directive.args.split_first() else {
        return walk.wrong(directive, "an address, such as 10.0.0.1:8000");
    };
    if address.text.starts_with("unix:") {
        return walk.notes.cannot(directive, "replicas are reached over TCP");
    }
    let mut kept = Vec::new();
    for word in words {
        let name = word.text.split('=').next().unwrap_or_default();
        if LATER.contains(&name) && !knows(name) {
            let what = format!("`{}` of {}", word.text, directive.shown());
            walk.notes.about(Kind::NotYet, what, directive.place(), "the replica is there without it".to_owned());
        } else {
            kept.push(At::new(word.text.clone(), word.at.clone()));
        }
    }
    let Some(member) = member(walk, ("http", 80, &address.text), &address.at, kept) else { return };
    walk.notes.carried += 1;
    let Some(upstream) = &mut walk.upstream else { return };
    match upstream.members.iter_mut().find(|known| known.spec.origin == member.spec.origin) {
        None => upstream.members.push(member),
        Some(known) => {
            let weight = u64::from(known.spec.weight.get()) + u64::from(member.spec.weight.get());
            known.words.retain(|word| !word.starts_with("weight="));
            known.words.insert(0, format!("weight={}", weight.min(65_535)));
            walk.notes.note(directive, "a replica is in a pool once: the weights of its lines are added");
        }
    }
}

/// A replica from a scheme, its port, and nginx's address, which may have a port of its own; what is wrong is noted.
pub(super) fn member(
    walk: &mut Walk,
    (scheme, port, address): (&str, u16, &str),
    at: &Place,
    words: Vec<At<String>>,
) -> Option<Member> {
    let ported = address.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let service = words.iter().any(|word| word.value.starts_with("service="));
    let bare = ported || service;
    let url = if bare { format!("{scheme}://{address}") } else { format!("{scheme}://{address}:{port}") };
    let texts = words.iter().map(|word| word.value.clone()).collect();
    let all = std::iter::once(At::new(url.clone(), at.clone())).chain(words).collect();
    match from_words(at, all) {
        Ok(spec) => Some(Member { url, words: texts, spec: spec.value }),
        Err(issues) => {
            issues.into_iter().for_each(|issue| walk.notes.issue(issue));
            None
        }
    }
}

/// How a server is chosen: `least_conn`, `hash KEY [consistent]` and the like.
pub(super) fn policy(walk: &mut Walk, directive: &Directive) {
    if !walk.belongs(directive, &[Scope::Upstream], "`upstream`") {
        return;
    }
    let name = directive.name.text.as_str();
    if let ("least_conn" | "ip_hash", Some(word)) = (name, directive.args.first()) {
        let issue = word.at.issue(format!("`{name}` takes no argument"));
        return walk.notes.issue(issue.help(format!("is a `;` missing after `{name}`?")));
    }
    if name == "hash" && directive.args.is_empty() {
        return walk.wrong(directive, "a key, such as $arg_user");
    }
    let text = std::iter::once(name).chain(directive.texts()).collect::<Vec<_>>().join(" ");
    let one_word_each = directive.texts().iter().all(|word| !word.is_empty() && !word.contains(char::is_whitespace));
    let known = one_word_each && balance::Spec::parse(&text).is_ok();
    let Some(upstream) = &mut walk.upstream else { return };
    if let Some((what, at)) = upstream.chosen_by.replace((directive.shown(), directive.place())) {
        let why = format!("a pool has one policy: that of line {}", directive.name.line);
        walk.notes.about(Kind::Cannot, what, at, why);
    }
    upstream.policy = known.then_some(text);
    if known {
        walk.notes.carried += 1;
    } else {
        walk.notes.not_yet(directive, "this pool has round_robin until then");
    }
    let by_client = |name: &str| matches!(name, "remote_addr" | "binary_remote_addr");
    if name == "ip_hash"
        || name == "hash" && directive.arg(0).contains('$') && variables(directive.arg(0)).all(by_client)
    {
        let why = format!(
            "behind an app server or another proxy all requests come from one address, so that one replica gets them all: {INSTEAD}"
        );
        walk.notes.note(directive, why);
    } else if name == "hash" && variables(directive.arg(0)).all(|name| CONSTANT.contains(&name)) {
        let why = format!(
            "{} is the same for every request to /v1/chat/completions, so that one replica gets them all: {INSTEAD}",
            directive.arg(0)
        );
        walk.notes.note(directive, why);
    }
}
