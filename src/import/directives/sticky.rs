//! `sticky` and `resolver`.

use std::net::{IpAddr, SocketAddr};

use crate::config::parse::units;
use crate::fleet::StickyVariable;
use crate::import::blocks::BlockScope;
use crate::import::context::ImportContext;
use crate::import::report::RemarkKind;
use crate::import::syntax::directive::{Directive, DirectiveWord};
use crate::import::toml_text::quote_toml;

/// `sticky cookie NAME [expires=] [domain=] [httponly] [secure] [samesite=] [path=]`, or
/// `sticky learn create=$VARIABLE lookup=$VARIABLE [zone=] [timeout=] [header] [sync]`.
pub(super) fn handle_sticky(context: &mut ImportContext, directive: &Directive) {
    if !context.check_scope(directive, &[BlockScope::Upstream], "`upstream`") {
        return;
    }
    let Some((kind, words)) = directive.args.split_first() else {
        return context.reject_argument(directive, "`cookie NAME` or `learn create=... lookup=...`");
    };
    let table = match kind.text.as_str() {
        "cookie" => convert_cookie(context, directive, words),
        "learn" => convert_learn(context, directive, words),
        "route" => {
            let issue = kind.span.diagnostic("`sticky route` cannot be carried over: replicas have no names of routes");
            let help = "without it requests would leave their replica: `sticky cookie` needs no help from the replicas";
            return context.report.add_diagnostic(issue.with_help(help));
        }
        _ => return context.reject_argument(directive, "`cookie`, `learn` or `route`"),
    };
    if let (Some(table), Some(upstream)) = (table, &mut context.open.upstream) {
        upstream.sticky = Some(format!("{{ {} }}", table.join(", ")));
        context.report.carried_count += 1;
    }
}

fn convert_cookie(context: &mut ImportContext, directive: &Directive, words: &[DirectiveWord]) -> Option<Vec<String>> {
    let Some((name, attributes)) = words.split_first().filter(|(name, _)| is_cookie_safe(&name.text)) else {
        context.reject_argument(directive, "a cookie name after `cookie`");
        return None;
    };
    let mut table = vec![format!("cookie = {}", quote_toml(&name.text))];
    for word in attributes {
        let known = match word.text.split_once('=') {
            None => matches!(word.text.as_str(), "httponly" | "secure").then(|| format!("{} = true", word.text)),
            Some(("expires", time)) => is_duration(time).then(|| format!("expires = {}", quote_toml(time))),
            Some(("samesite", value)) => {
                let value = value.to_ascii_lowercase();
                matches!(value.as_str(), "strict" | "lax" | "none")
                    .then(|| format!("samesite = {}", quote_toml(&value)))
            }
            // A domain may have variables in nginx.
            Some((name @ ("domain" | "path"), value)) if is_cookie_safe(value) && !value.contains('$') => {
                Some(format!("{name} = {}", quote_toml(value)))
            }
            Some(_) => None,
        };
        match known {
            Some(entry) if !table.contains(&entry) => table.push(entry),
            Some(_) => {}
            None => report_left_out(context, directive, word),
        }
    }
    Some(dedup_entries(table))
}

fn convert_learn(context: &mut ImportContext, directive: &Directive, words: &[DirectiveWord]) -> Option<Vec<String>> {
    let (mut create, mut lookup, mut timeout) = (Vec::new(), Vec::new(), None);
    for word in words {
        match word.text.split_once('=') {
            Some(("create", variable)) if StickyVariable::parse(variable).is_some() => {
                create.push(quote_toml(variable));
            }
            Some(("lookup", variable)) if is_request_variable(variable) => lookup.push(quote_toml(variable)),
            Some(("timeout", time)) if is_duration(time) && time != "max" => timeout = Some(quote_toml(time)),
            // The router has one session table, and creates sessions at the response headers.
            Some(("zone", _)) => {}
            None if word.text == "header" => {}
            _ => report_left_out(context, directive, word),
        }
    }
    if create.is_empty() || lookup.is_empty() {
        let issue = "`sticky learn` cannot be carried over: sessions are found by cookies and headers only";
        let issue = directive.name.span.diagnostic(issue);
        context.report.add_diagnostic(issue.with_help("without it requests would leave their replica"));
        return None;
    }
    let mut table = vec![format!("learn = [{}]", create.join(", ")), format!("lookup = [{}]", lookup.join(", "))];
    table.extend(timeout.map(|timeout| format!("timeout = {timeout}")));
    Some(table)
}

/// `resolver ADDRESS ... [valid=] [ipv4=] [ipv6=] [status_zone=]`.
pub(super) fn handle_resolver(context: &mut ImportContext, directive: &Directive) {
    let mut servers = Vec::new();
    for word in &directive.args {
        let bare = word.text.trim_start_matches('[').trim_end_matches(']');
        if word.text.parse::<SocketAddr>().is_ok() || bare.parse::<IpAddr>().is_ok() {
            servers.push(quote_toml(&word.text));
        } else {
            report_left_out(context, directive, word);
        }
    }
    if servers.is_empty() {
        return context
            .report
            .add_impossible(directive, "DNS servers must be addresses; without one the system's resolvers are used");
    }
    context.set_key("resolver", format!("[{}]", servers.join(", ")), 0, directive);
}

fn report_left_out(context: &mut ImportContext, directive: &Directive, word: &DirectiveWord) {
    let what = format!("`{}` of {}", word.text, directive.to_one_line());
    context.report.add_remark_at(
        RemarkKind::Impossible,
        what,
        directive.source_line(),
        "carried over without it".to_owned(),
    );
}

fn is_duration(text: &str) -> bool {
    text == "max" || units::parse_duration(text).is_some_and(|time| !time.is_zero())
}

/// Returns whether a variable is known before the response.
fn is_request_variable(text: &str) -> bool {
    matches!(StickyVariable::parse(text), Some(StickyVariable::Cookie(_) | StickyVariable::Header(_)))
}

/// Returns whether a text is valid in a cookie.
fn is_cookie_safe(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"=;,\"\\".contains(&b))
}

/// Returns the first entry of each name.
fn dedup_entries(table: Vec<String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for entry in table {
        let name = |entry: &str| entry.split(' ').next().unwrap_or_default().to_owned();
        if !kept.iter().any(|known| name(known) == name(&entry)) {
            kept.push(entry);
        }
    }
    kept
}
