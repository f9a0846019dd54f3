//! The table of nginx's directives: where each may be, and what the import does with it.
//!
//! No rule leaves out a directive unseen. A directive is carried over by a function, is listed as harmless
//! (`harmless.rs`), stops the import where it closes something (`closing.rs`), or is unknown and stops the import.

mod closing;
mod contexts;
mod harmless;
mod rule;

use super::{
    access_rules, answers, global, gzip, headers, logs, proxy, real_ip, rewrites, server, server_name, sticky, tls,
    upstream,
};
use crate::config::closest_match;
pub(in crate::import) use contexts::DirectiveContexts;
use contexts::{
    HTTP, HTTP_SERVER, LEVELS, LEVELS_AND_IF, LIMIT_EXCEPT, LOCATION, LOCATION_IF, MAIN, SERVER, SERVER_IF,
    SERVER_LOCATION, UPSTREAM,
};

use DirectiveRule::{Block, Condition, Duration, Handler};
use rule::DirectiveRow;
pub(in crate::import) use rule::DirectiveRule;

/// Directives that are converted.
static CONVERTED_DIRECTIVES: &[DirectiveRow] = &[
    // Blocks.
    ("events http", MAIN, Block { open: server::open_container, close: server::close_container }),
    ("upstream", HTTP, Block { open: upstream::open_upstream, close: upstream::close_upstream }),
    ("server", HTTP.or(UPSTREAM), Block { open: server::open_server, close: server::close_server }),
    ("location", SERVER_LOCATION, Block { open: server::open_location, close: server::close_location }),
    ("if", SERVER_LOCATION, Condition),
    ("limit_except", LOCATION, Condition),
    // Upstreams.
    ("ip_hash least_conn hash random least_time", UPSTREAM, Handler(upstream::handle_policy)),
    ("sticky", UPSTREAM, Handler(sticky::handle_sticky)),
    ("resolver", LEVELS.or(UPSTREAM), Handler(sticky::handle_resolver)),
    ("resolver_timeout", LEVELS.or(UPSTREAM), Duration("resolver_timeout")),
    // Servers.
    ("listen", SERVER, Handler(server::handle_listen)),
    ("server_name", SERVER, Handler(server_name::handle_server_name)),
    ("proxy_pass", LOCATION.or(LOCATION_IF).or(LIMIT_EXCEPT), Handler(server::handle_proxy_pass)),
    ("default_type", LEVELS, Handler(answers::handle_default_type)),
    ("internal", LOCATION, Handler(answers::handle_internal)),
    ("return", SERVER_LOCATION.or(SERVER_IF).or(LOCATION_IF), Handler(answers::handle_return)),
    ("rewrite", SERVER_LOCATION.or(SERVER_IF).or(LOCATION_IF), Handler(rewrites::handle_rewrite)),
    ("set", SERVER_LOCATION.or(SERVER_IF).or(LOCATION_IF), Handler(rewrites::handle_set)),
    ("break", SERVER_LOCATION.or(SERVER_IF).or(LOCATION_IF), Handler(rewrites::handle_break)),
    ("allow deny", LEVELS.or(LIMIT_EXCEPT), Handler(access_rules::handle_access_rule)),
    ("error_page", LEVELS_AND_IF, Handler(access_rules::handle_error_page)),
    // Times and sizes.
    ("proxy_connect_timeout", LEVELS, Duration("timeouts.connect")),
    ("proxy_read_timeout", LEVELS, Duration("timeouts.first_byte")),
    ("client_header_timeout", HTTP_SERVER, Duration("timeouts.client_header")),
    ("client_body_timeout", LEVELS, Duration("timeouts.client_body")),
    ("worker_shutdown_timeout", MAIN, Duration("timeouts.drain")),
    ("send_timeout", LEVELS, Duration("timeouts.client_send")),
    ("keepalive_timeout", LEVELS.or(UPSTREAM), Handler(global::handle_keepalive_timeout)),
    ("client_max_body_size", LEVELS, Handler(global::handle_client_max_body_size)),
    ("large_client_header_buffers", HTTP_SERVER, Handler(global::handle_large_client_header_buffers)),
    ("http2_max_concurrent_streams", HTTP_SERVER, Handler(global::handle_http2_max_concurrent_streams)),
    ("worker_processes", MAIN, Handler(global::handle_worker_processes)),
    // Requests to replicas.
    ("proxy_set_header", LEVELS, Handler(headers::handle_proxy_set_header)),
    ("proxy_hide_header", LEVELS, Handler(headers::handle_proxy_hide_header)),
    ("proxy_http_version", LEVELS, Handler(proxy::handle_proxy_http_version)),
    ("proxy_next_upstream", LEVELS, Handler(proxy::handle_proxy_next_upstream)),
    (
        "proxy_redirect proxy_cookie_domain proxy_cookie_flags proxy_cookie_path proxy_cache proxy_store \
         proxy_intercept_errors proxy_ignore_client_abort proxy_force_ranges",
        LEVELS,
        Handler(proxy::handle_unless_off),
    ),
    ("proxy_ssl_trusted_certificate", LEVELS, Handler(tls::handle_certificate_file)),
    ("proxy_ssl_name", LEVELS, Handler(tls::handle_proxy_ssl_name)),
    ("proxy_ssl_verify", LEVELS, Handler(tls::handle_proxy_ssl_verify)),
    // Answers.
    ("add_header", LEVELS_AND_IF, Handler(headers::handle_add_header)),
    ("expires", LEVELS_AND_IF, Handler(proxy::handle_expires)),
    ("gzip", LEVELS_AND_IF, Handler(gzip::handle_gzip)),
    ("gzip_types gzip_min_length", LEVELS, Handler(gzip::handle_gzip)),
    // Logs.
    ("access_log", LEVELS_AND_IF.or(LIMIT_EXCEPT), Handler(logs::handle_access_log)),
    ("error_log", LEVELS.or(MAIN), Handler(logs::handle_error_log)),
    ("log_format", HTTP, Handler(logs::handle_log_format)),
    // TLS and where clients are.
    ("ssl_certificate ssl_certificate_key", HTTP_SERVER, Handler(tls::handle_certificate_file)),
    ("ssl_protocols", HTTP_SERVER, Handler(tls::handle_ssl_protocols)),
    ("ssl", HTTP_SERVER, Handler(tls::handle_ssl)),
    ("set_real_ip_from", LEVELS, Handler(real_ip::handle_set_real_ip_from)),
    ("real_ip_header", LEVELS, Handler(real_ip::handle_real_ip_header)),
    ("real_ip_recursive", LEVELS, Handler(real_ip::handle_real_ip_recursive)),
];

/// All rows; the first that matches wins.
fn all_rows() -> impl Iterator<Item = &'static DirectiveRow> {
    [
        CONVERTED_DIRECTIVES,
        closing::GUARDS,
        closing::CONTENT_HANDLERS,
        harmless::HARMLESS_DIRECTIVES,
        harmless::OTHER_PROTOCOLS,
    ]
    .into_iter()
    .flatten()
}

/// Returns the blocks and the rule of a directive, if nginx or a well-known module has it.
pub(in crate::import) fn find_rule(name: &str) -> Option<(DirectiveContexts, &'static DirectiveRule)> {
    let matches = |row: &&DirectiveRow| row.0.split_ascii_whitespace().any(|pattern| matches_pattern(name, pattern));
    all_rows().find(matches).map(|(_, contexts, rule)| (*contexts, rule))
}

fn matches_pattern(name: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

/// Returns the directive with the closest name.
pub(in crate::import) fn suggest_directive(name: &str) -> Option<&'static str> {
    closest_match(name, directive_names().filter(|name| !name.contains('*')))
}

/// Returns all names and patterns.
pub(in crate::import) fn directive_names() -> impl Iterator<Item = &'static str> {
    all_rows().flat_map(|(names, ..)| names.split_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The directives of nginx 1.22 (names and blocks as the program accepts them), and of later versions, NGINX Plus
    /// and well-known modules: the name, its blocks, and what the import does with it.
    const KNOWN_DIRECTIVES: &str = include_str!("../../../../tests/import/known_directives.txt");

    fn known_directives() -> BTreeMap<&'static str, (DirectiveContexts, &'static str)> {
        let context_of = |name: &str| match name {
            "main" => MAIN,
            "events" => contexts::EVENTS,
            "http" => HTTP,
            "upstream" => UPSTREAM,
            "server" => SERVER,
            "location" => LOCATION,
            "if-server" => SERVER_IF,
            "if" => LOCATION_IF,
            "limit_except" => LIMIT_EXCEPT,
            other => panic!("no block {other}"),
        };
        let lines = KNOWN_DIRECTIVES.lines().filter(|line| !line.starts_with('#'));
        let read = |line: &'static str| {
            let words: Vec<&str> = line.split(' ').collect();
            let contexts = words[1].split(',').map(context_of).reduce(DirectiveContexts::or).unwrap();
            (words[0], (contexts, words[2]))
        };
        lines.map(read).collect()
    }

    const fn kind_of(rule: &DirectiveRule) -> &'static str {
        match rule {
            Handler(_) | Block { .. } | Duration(_) | Condition => "carried",
            DirectiveRule::Guard(_) => "stops",
            DirectiveRule::ContentHandler(_) => "answers",
            DirectiveRule::Harmless(..) => "harmless",
        }
    }

    #[test]
    fn known_directive_has_a_row_of_its_kind() {
        let known = known_directives();
        assert!(known.len() > 800, "{}", known.len());
        for (name, (contexts, kind)) in known {
            let (allowed, rule) = find_rule(name).unwrap_or_else(|| panic!("{name} has no row"));
            assert_eq!(kind_of(rule), kind, "{name}");
            assert!(allowed.contains(contexts), "{name} may also be in {}", contexts.describe());
        }
    }

    #[test]
    fn harmless_directive_is_listed_as_such() {
        let known = known_directives();
        for name in directive_names() {
            let is_other_protocol = harmless::OTHER_PROTOCOLS.iter().any(|(names, ..)| names.contains(name));
            let (_, rule) =
                find_rule(name.trim_end_matches('*')).unwrap_or_else(|| find_rule(&name.replace('*', "x")).unwrap());
            if kind_of(rule) == "harmless" && !is_other_protocol {
                assert_eq!(known.get(name).map(|(_, kind)| *kind), Some("harmless"), "{name}");
            }
        }
    }

    #[test]
    fn row_is_not_hidden_by_an_earlier_one() {
        let all: Vec<&str> = directive_names().collect();
        for (i, name) in all.iter().enumerate() {
            let plain = name.replace('*', "x");
            let first = all.iter().position(|pattern| matches_pattern(&plain, pattern));
            assert_eq!(first, Some(i), "{name}");
        }
    }

    #[test]
    fn misspelled_name_gets_a_suggestion() {
        for (typed, expected) in [("proxy_pas", "proxy_pass"), ("least_con", "least_conn"), ("upstreem", "upstream")] {
            assert!(find_rule(typed).is_none());
            assert_eq!(suggest_directive(typed), Some(expected));
        }
    }
}
