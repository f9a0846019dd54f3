//! Directives on processes, connections and sizes: keys for the whole router.

use crate::config::parse::units;
use crate::import::blocks::BlockScope;
use crate::import::context::ImportContext;
use crate::import::syntax::directive::Directive;
use crate::import::toml_text::{quote_duration, quote_toml};
use crate::routes::IpNetwork;

/// `worker_processes auto | N`.
pub(super) fn handle_worker_processes(context: &mut ImportContext, directive: &Directive) {
    match directive.arg(0) {
        "auto" => context.set_key("workers", "0".to_owned(), 0, directive),
        text => match text.parse::<u16>() {
            Ok(count @ 1..=1024) => context.set_key("workers", count.to_string(), 0, directive),
            _ => context.reject_argument(directive, "`auto` or a number from 1 to 1024"),
        },
    }
}

/// `keepalive_timeout TIME [HEADER]`, for clients or, in an upstream, for replicas.
pub(super) fn handle_keepalive_timeout(context: &mut ImportContext, directive: &Directive) {
    let key =
        if context.open.scope == BlockScope::Upstream { "timeouts.upstream_keepalive" } else { "timeouts.keepalive" };
    match units::parse_duration(directive.arg(0)) {
        Some(time) => context.set_key(key, quote_duration(directive.arg(0)), time.as_nanos(), directive),
        None => context.reject_argument(directive, "a time such as 60s, 500ms or 5m"),
    }
}

/// `client_max_body_size SIZE`; 0 is no limit.
pub(super) fn handle_client_max_body_size(context: &mut ImportContext, directive: &Directive) {
    match units::parse_size(directive.arg(0)) {
        Some(0) => {
            context.set_key("limits.body_bytes", quote_toml("1GiB"), u128::MAX, directive);
            context.report.add_note(directive, "bodies are always limited: `in_flight_bytes` bounds their total");
        }
        Some(bytes) => {
            let text = quote_toml(directive.arg(0));
            // The default limit of all bodies together is less than one body of this size.
            if bytes > 1 << 30 {
                context.set_max("limits.in_flight_bytes", text.clone(), bytes as u128, directive);
            }
            context.set_key("limits.body_bytes", text, bytes as u128, directive);
        }
        None => context.reject_argument(directive, "a size such as 8m, 64k or a number of bytes"),
    }
}

/// `large_client_header_buffers NUMBER SIZE`.
pub(super) fn handle_large_client_header_buffers(context: &mut ImportContext, directive: &Directive) {
    let (number, size) = (directive.arg(0).parse::<usize>().ok(), units::parse_size(directive.arg(1)));
    match number.zip(size).and_then(|(number, size)| Some((number.checked_mul(size)?, size))) {
        Some((total, one @ 1..)) => {
            let total = total.max(8 << 10);
            context.set_key("limits.header_bytes", total.to_string(), total as u128, directive);
            context.set_max("limits.uri_bytes", one.to_string(), one as u128, directive);
        }
        _ => context.reject_argument(directive, "a number and a size, such as 4 8k"),
    }
}

/// `http2_max_concurrent_streams NUMBER`.
pub(super) fn handle_http2_max_concurrent_streams(context: &mut ImportContext, directive: &Directive) {
    match directive.arg(0).parse::<u32>() {
        Ok(count @ 1..) => context.set_key("limits.streams_per_connection", count.to_string(), count.into(), directive),
        _ => context.reject_argument(directive, "a number from 1"),
    }
}

/// `set_real_ip_from ADDRESS | NETWORK`: one more trusted proxy.
pub(super) fn handle_set_real_ip_from(context: &mut ImportContext, directive: &Directive) {
    const TRUSTED_PROXIES_KEY: &str = "trusted_proxies";
    let text = directive.arg(0);
    if text.parse::<IpNetwork>().is_err() {
        return context.report.add_impossible(directive, "a trusted proxy must be an address or a network");
    }
    let value = match context.settings.get(TRUSTED_PROXIES_KEY) {
        Some(known) if known.value.contains(&quote_toml(text)) => known.value.clone(),
        Some(known) => format!("{}, {}]", known.value.trim_end_matches(']'), quote_toml(text)),
        None => format!("[{}]", quote_toml(text)),
    };
    let rank = value.len() as u128;
    context.set_max(TRUSTED_PROXIES_KEY, value, rank, directive);
    context.report.carried_count += 1;
}
