//! TLS: the certificates of servers, and the verification of replicas behind `proxy_pass https://`.

use std::net::IpAddr;

use crate::config::is_file_path;
use crate::import::context::ImportContext;
use crate::import::report::RemarkKind;
use crate::import::syntax::directive::Directive;

/// `ssl_certificate FILE`, `ssl_certificate_key FILE`, `proxy_ssl_trusted_certificate FILE`.
pub(super) fn handle_certificate_file(context: &mut ImportContext, directive: &Directive) {
    let text = directive.arg(0);
    let is_unreadable = text.contains('$') || ["data:", "engine:", "store:"].iter().any(|kind| text.starts_with(kind));
    if is_unreadable {
        let span = directive.args.first().map_or(&directive.name.span, |word| &word.span);
        let issue = span.diagnostic(format!("`{}` must be a file without variables", directive.name.text));
        return context.report.add_diagnostic(issue.with_help("write a `server` for each certificate"));
    }
    match text {
        _ if !is_file_path(text) => context.reject_argument(directive, "a file"),
        _ => {
            let Some(level) = context.open.level() else { return };
            match directive.name.text.as_str() {
                "ssl_certificate" => level.tls.chains.push(directive.clone()),
                "ssl_certificate_key" => level.tls.keys.push(directive.clone()),
                _ => level.tls.ca = Some(directive.clone()),
            }
            context.deferred.tls.push(directive.clone());
        }
    }
}

/// `proxy_ssl_name NAME`.
pub(super) fn handle_proxy_ssl_name(context: &mut ImportContext, directive: &Directive) {
    match directive.arg(0) {
        "$proxy_host" => context.report.add_not_needed(directive, "this is the name that is verified"),
        text if text.contains('$') => context.report.add_impossible(directive, "variables are not supported"),
        text if text.parse::<IpAddr>().is_ok() => {
            context.report.add_impossible(directive, "a certificate is verified for the address in the URL");
        }
        text if !is_host_name(text) => context.reject_argument(directive, "a host name"),
        _ => {
            let Some(level) = context.open.level() else { return };
            level.tls.name = Some(directive.clone());
            context.deferred.tls.push(directive.clone());
        }
    }
}

/// `proxy_ssl_verify on | off`.
pub(super) fn handle_proxy_ssl_verify(context: &mut ImportContext, directive: &Directive) {
    match directive.arg(0) {
        "on" => context.report.add_not_needed(directive, "certificates of replicas are verified"),
        "off" => context.deferred.tls.push(directive.clone()),
        _ => return context.reject_argument(directive, "on or off"),
    }
    if let Some(level) = context.open.level() {
        level.tls.verify = Some(directive.clone());
    }
}

/// `ssl on | off`, which nginx has dropped.
pub(super) fn handle_ssl(context: &mut ImportContext, directive: &Directive) {
    match directive.arg(0) {
        "off" => context.report.add_not_needed(directive, "the `ssl` parameter of `listen` turns TLS on"),
        _ => context.report.add_impossible(directive, "removed from nginx: write `ssl` after the address in `listen`"),
    }
}

/// `ssl_protocols TLSv1.2 ...`.
pub(super) fn handle_ssl_protocols(context: &mut ImportContext, directive: &Directive) {
    let words = directive.arg_texts();
    let old: Vec<&str> = words.iter().copied().filter(|word| !["TLSv1.2", "TLSv1.3"].contains(word)).collect();
    if !old.is_empty() {
        context.report.add_remark_at(
            RemarkKind::Impossible,
            old.join(", "),
            directive.source_line(),
            "the minimum is TLS 1.2".to_owned(),
        );
    } else if words.contains(&"TLSv1.2") {
        context.report.add_not_needed(directive, "TLS 1.2 and 1.3 are the supported versions");
    } else {
        context.report.add_impossible(directive, "TLS 1.2 stays enabled");
    }
}

/// Returns whether a text can be a host name.
pub(in crate::import) fn is_host_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}
