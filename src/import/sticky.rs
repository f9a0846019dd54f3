//! `sticky`, which ties clients to servers, and `resolver`, which finds them.

use std::net::{IpAddr, SocketAddr};

use super::remark::Kind;
use super::tree::{Directive, Word};
use super::walk::{Scope, Walk, quoted};
use crate::config::amount;
use crate::fleet::Variable;

/// `sticky cookie NAME [expires=] [domain=] [httponly] [secure] [samesite=] [path=]`, or
/// `sticky learn create=$VARIABLE lookup=$VARIABLE [zone=] [timeout=] [header] [sync]`.
pub(super) fn sticky(walk: &mut Walk, directive: &Directive) {
    if !walk.belongs(directive, &[Scope::Upstream], "`upstream`") {
        return;
    }
    let Some((kind, words)) = directive.args.split_first() else {
        return walk.wrong(directive, "`cookie NAME` or `learn create=... lookup=...`");
    };
    let table = match kind.text.as_str() {
        "cookie" => cookie(walk, directive, words),
        "learn" => learn(walk, directive, words),
        "route" => {
            return walk.notes.not_yet(directive, "`sticky cookie` needs nothing from the replicas and does as well");
        }
        _ => return walk.wrong(directive, "`cookie`, `learn` or `route`"),
    };
    if let (Some(table), Some(upstream)) = (table, &mut walk.upstream) {
        upstream.sticky = Some(format!("{{ {} }}", table.join(", ")));
        walk.notes.carried += 1;
    }
}

fn cookie(walk: &mut Walk, directive: &Directive, words: &[Word]) -> Option<Vec<String>> {
    let Some((name, attributes)) = words.split_first().filter(|(name, _)| fits(&name.text)) else {
        walk.wrong(directive, "a cookie's name behind `cookie`");
        return None;
    };
    let mut table = vec![format!("cookie = {}", quoted(&name.text))];
    for word in attributes {
        let known = match word.text.split_once('=') {
            None => matches!(word.text.as_str(), "httponly" | "secure").then(|| format!("{} = true", word.text)),
            Some(("expires", time)) => is_time(time).then(|| format!("expires = {}", quoted(time))),
            Some(("samesite", value)) => {
                let value = value.to_ascii_lowercase();
                matches!(value.as_str(), "strict" | "lax" | "none").then(|| format!("samesite = {}", quoted(&value)))
            }
            // A domain may have variables in nginx.
            Some((name @ ("domain" | "path"), value)) if fits(value) && !value.contains('$') => {
                Some(format!("{name} = {}", quoted(value)))
            }
            Some(_) => None,
        };
        match known {
            Some(entry) if !table.contains(&entry) => table.push(entry),
            Some(_) => {}
            None => left_out(walk, directive, word),
        }
    }
    Some(unique(table))
}

fn learn(walk: &mut Walk, directive: &Directive, words: &[Word]) -> Option<Vec<String>> {
    let (mut create, mut lookup, mut timeout) = (Vec::new(), Vec::new(), None);
    for word in words {
        match word.text.split_once('=') {
            Some(("create", variable)) if Variable::parse(variable).is_some() => create.push(quoted(variable)),
            Some(("lookup", variable)) if is_asked(variable) => lookup.push(quoted(variable)),
            Some(("timeout", time)) if is_time(time) && time != "max" => timeout = Some(quoted(time)),
            // There is one table for all, and sessions are made when the answer's head is there.
            Some(("zone", _)) => {}
            None if word.text == "header" => {}
            _ => left_out(walk, directive, word),
        }
    }
    if create.is_empty() || lookup.is_empty() {
        walk.notes.cannot(directive, "sessions are known by cookies and headers only");
        return None;
    }
    let mut table = vec![format!("learn = [{}]", create.join(", ")), format!("lookup = [{}]", lookup.join(", "))];
    table.extend(timeout.map(|timeout| format!("timeout = {timeout}")));
    Some(table)
}

/// `resolver ADDRESS ... [valid=] [ipv4=] [ipv6=] [status_zone=]`.
pub(super) fn resolver(walk: &mut Walk, directive: &Directive) {
    let mut servers = Vec::new();
    for word in &directive.args {
        let bare = word.text.trim_start_matches('[').trim_end_matches(']');
        if word.text.parse::<SocketAddr>().is_ok() || bare.parse::<IpAddr>().is_ok() {
            servers.push(quoted(&word.text));
        } else {
            left_out(walk, directive, word);
        }
    }
    if servers.is_empty() {
        return walk.notes.cannot(directive, "DNS servers are addresses: without one the system's are asked");
    }
    walk.set("resolver", format!("[{}]", servers.join(", ")), 0, directive);
}

fn left_out(walk: &mut Walk, directive: &Directive, word: &Word) {
    let what = format!("`{}` of {}", word.text, directive.shown());
    walk.notes.about(Kind::Cannot, what, directive.place(), "it is there without it".to_owned());
}

fn is_time(text: &str) -> bool {
    text == "max" || amount::time(text).is_some_and(|time| !time.is_zero())
}

/// A variable that is known before there is an answer.
fn is_asked(text: &str) -> bool {
    matches!(Variable::parse(text), Some(Variable::Cookie(_) | Variable::Header(_)))
}

/// What may stand in a cookie.
fn fits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"=;,\"\\".contains(&b))
}

/// The first entry of each name.
fn unique(table: Vec<String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for entry in table {
        let name = |entry: &str| entry.split(' ').next().unwrap_or_default().to_owned();
        if !kept.iter().any(|known| name(known) == name(&entry)) {
            kept.push(entry);
        }
    }
    kept
}
