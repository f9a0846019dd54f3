//! Directives on processes, connections and sizes: keys for the whole router.

use crate::config::parse::units;
use crate::import::blocks::BlockScope;
use crate::import::context::ImportContext;
use crate::import::syntax::directive::Directive;
use crate::import::toml_text::{quote_duration, quote_toml};

/// The default of `limits.in_flight_bytes`.
const MAX_BODY_BYTES: usize = 1 << 30;

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
    let Some(size) = units::parse_size(directive.arg(0)) else {
        return context.reject_argument(directive, "a size such as 8m, 64k or a number of bytes");
    };
    if (1..=MAX_BODY_BYTES).contains(&size) {
        return context.set_key("body_bytes", quote_toml(directive.arg(0)), size as u128, directive);
    }
    context.set_key("body_bytes", quote_toml("1GiB"), u128::MAX, directive);
    let reason =
        "bodies are held in memory: all together up to `limits.in_flight_bytes`, so none is larger than its 1 GiB";
    context.report.add_note(directive, reason);
}

/// `large_client_header_buffers NUMBER SIZE`.
pub(super) fn handle_large_client_header_buffers(context: &mut ImportContext, directive: &Directive) {
    let (number, size) = (directive.arg(0).parse::<usize>().ok(), units::parse_size(directive.arg(1)));
    match number.zip(size).and_then(|(number, size)| Some((number.checked_mul(size)?, size))) {
        Some((total, one @ 1..)) => {
            let total = total.max(8 << 10);
            context.set_key("limits.header_bytes", total.to_string(), total as u128, directive);
            context.set_part("limits.uri_bytes", one.to_string(), one as u128, directive);
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
