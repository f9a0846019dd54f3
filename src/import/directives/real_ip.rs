//! The client's address as proxies in front name it: `set_real_ip_from`, `real_ip_header`, `real_ip_recursive`.
//!
//! Rules on addresses depend on it, so a directive that cannot be carried stops the import.

use crate::import::context::ImportContext;
use crate::import::inheritance::{REAL_IP_NAME, REAL_IP_RECURSIVE, nearest_value};
use crate::import::scoped_keys::TRUSTED_PROXIES;
use crate::import::syntax::directive::Directive;
use crate::import::toml_text::quote_toml;
use crate::routes::IpNetwork;

/// `set_real_ip_from ADDRESS | NETWORK | unix:`: one more trusted proxy.
pub(super) fn handle_set_real_ip_from(context: &mut ImportContext, directive: &Directive) {
    let text = directive.arg(0);
    if text != "unix:" && text.parse::<IpNetwork>().is_err() {
        return context.reject_argument(directive, "an address or a network here, such as 10.0.0.0/8");
    }
    context.report.carried_count += 1;
    if let Some(level) = context.open.level()
        && !level.trusted_proxies.iter().any(|known| known == text)
    {
        level.trusted_proxies.push(text.to_owned());
    }
}

/// `real_ip_header NAME`.
pub(super) fn handle_real_ip_header(context: &mut ImportContext, directive: &Directive) {
    let name = directive.arg(0);
    if name == "proxy_protocol" || name.parse::<http::HeaderName>().is_err() {
        return context.reject_argument(directive, "the name of a header here, such as X-Forwarded-For");
    }
    context.set_block_value(REAL_IP_NAME, quote_toml(name), 0, directive);
}

/// `real_ip_recursive on | off`.
pub(super) fn handle_real_ip_recursive(context: &mut ImportContext, directive: &Directive) {
    let value = match directive.arg(0) {
        "on" => "true",
        "off" => "false",
        _ => return context.reject_argument(directive, "on or off"),
    };
    context.set_block_value(REAL_IP_RECURSIVE, value.to_owned(), 0, directive);
}

/// Reports rules of a location next to rules of its server: nginx applies the server's, and the location's only where
/// those found no address.
pub(super) fn check_nested_rules(context: &mut ImportContext, directive: &Directive) {
    let Some((level, outer)) = context.open.levels.split_last() else { return };
    let has_own = !level.trusted_proxies.is_empty()
        || nearest_value(std::slice::from_ref(level), REAL_IP_NAME).is_some()
        || nearest_value(std::slice::from_ref(level), REAL_IP_RECURSIVE).is_some();
    if !has_own || !outer.iter().any(|level| !level.trusted_proxies.is_empty()) {
        return;
    }
    let names = ["set_real_ip_from", REAL_IP_NAME, REAL_IP_RECURSIVE];
    let inner = directive.block.iter().flatten().find(|inner| names.contains(&inner.name.text.as_str()));
    let issue = inner.unwrap_or(directive).name.span.diagnostic(format!(
        "a `location` with other proxies than its server: the router takes the location's, nginx the server's first (`{TRUSTED_PROXIES}`)"
    ));
    context.report.add_diagnostic(issue.with_help("write these directives in the server only"));
}
