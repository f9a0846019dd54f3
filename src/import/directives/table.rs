//! The table of nginx's directives and their rules. A directive that gets a key moves to a row of its own.

use super::{access_rules, global, gzip, headers, logs, proxy, server, sticky, tls, upstream};
use crate::config::closest_match;
use crate::import::blocks::BlockScope;
use crate::import::context::ImportContext;
use crate::import::syntax::directive::Directive;

/// What the import does with a directive.
pub(in crate::import) enum DirectiveRule {
    /// A function converts it.
    Handler(fn(&mut ImportContext, &Directive)),
    /// Its block is read. `open` returns the block's kind, or `None` if the block is not read.
    Block { open: fn(&mut ImportContext, &Directive) -> Option<BlockScope>, close: fn(&mut ImportContext, &Directive) },
    /// It is the duration of this key; the longest of several wins.
    Duration(&'static str),
    /// The router does so without configuration, or the directive has no meaning.
    NotNeeded(&'static str),
    /// The router does not support it yet.
    Unsupported(&'static str),
    /// The router cannot do what it asks for.
    Impossible(&'static str),
}

use DirectiveRule::{Block, Duration, Handler, Impossible, NotNeeded, Unsupported};

/// Names and their rule. A `*` at the start or end of a name matches any text. The first matching row wins.
static DIRECTIVE_RULES: &[(&[&str], DirectiveRule)] = &[
    // Blocks.
    (&["events", "http"], Block { open: server::open_container, close: server::close_container }),
    (&["upstream"], Block { open: upstream::open_upstream, close: upstream::close_upstream }),
    (&["server"], Block { open: server::open_server, close: server::close_server }),
    (&["location"], Block { open: server::open_location, close: server::close_location }),
    (&["if", "limit_except"], Handler(access_rules::handle_condition)),
    (&["map", "geo", "split_clients"], Impossible("variables are not supported")),
    (&["types", "charset_map"], NotNeeded("replicas set the content type")),
    (&["stream"], Impossible("only HTTP is supported")),
    (&["mail"], Impossible("only HTTP is supported")),
    // Upstreams.
    (&["ip_hash", "least_conn", "hash", "random", "least_time"], Handler(upstream::handle_policy)),
    (&["keepalive"], NotNeeded("connections to replicas are always reused")),
    (&["keepalive_requests", "keepalive_time"], NotNeeded("connections are not closed by age or request count")),
    (&["zone"], NotNeeded("workers share the pools' state")),
    (&["sticky"], Handler(sticky::handle_sticky)),
    (&["sticky_cookie_insert"], Impossible("removed from nginx: write `sticky cookie`")),
    (&["state"], Impossible("replicas added at run time last until the next reload: write them into router.toml")),
    (&["queue", "ntlm"], Impossible("not available")),
    (&["health_check", "match", "check", "check_*"], Impossible("add `health_check` to the pool by hand")),
    (&["resolver"], Handler(sticky::handle_resolver)),
    (&["resolver_timeout"], Duration("resolver_timeout")),
    // Servers.
    (&["listen"], Handler(server::handle_listen)),
    (&["server_name"], Handler(server::handle_server_name)),
    (&["proxy_pass"], Handler(server::handle_proxy_pass)),
    (&["internal"], Handler(access_rules::handle_internal)),
    (&["return"], Handler(access_rules::handle_return)),
    (&["rewrite", "set", "break", "rewrite_log", "uninitialized_variable_warn"], Impossible("paths are not rewritten")),
    (
        &["root", "alias", "index", "try_files", "autoindex*", "random_index", "internal_redirect"],
        Impossible(FILES_REASON),
    ),
    (
        &["error_page", "recursive_error_pages"],
        Impossible("errors of replicas are forwarded, those of the router are OpenAI error objects"),
    ),
    (&["allow", "deny", "auth_basic", "auth_request", "auth_jwt"], Handler(access_rules::handle_access_rule)),
    (&["satisfy"], Impossible("addresses are not filtered: use a firewall")),
    (
        &["auth_basic_*", "auth_request_*", "auth_jwt_*", "auth_delay"],
        Impossible("clients authenticate with keys, not passwords: `[[key]]`"),
    ),
    (
        &["limit_req*", "limit_conn*"],
        Unsupported("there is no limit per address; `max_in_flight` limits a pool, `max_conns` a replica"),
    ),
    (&["limit_rate*", "proxy_limit_rate"], Impossible("there is no bandwidth limit")),
    // Times and sizes.
    (&["proxy_connect_timeout"], Duration("timeouts.connect")),
    (&["proxy_read_timeout"], Duration("timeouts.first_byte")),
    (&["client_header_timeout"], Duration("timeouts.client_header")),
    (&["client_body_timeout"], Duration("timeouts.client_body")),
    (&["worker_shutdown_timeout"], Duration("timeouts.drain")),
    (&["keepalive_timeout"], Handler(global::handle_keepalive_timeout)),
    (&["client_max_body_size"], Handler(global::handle_client_max_body_size)),
    (&["large_client_header_buffers"], Handler(global::handle_large_client_header_buffers)),
    (&["proxy_send_timeout"], NotNeeded("`timeouts.first_byte` bounds sending as well")),
    (&["send_timeout"], Duration("timeouts.client_send")),
    (
        &["lingering_*", "reset_timedout_connection", "keepalive_disable"],
        NotNeeded("the router closes connections itself"),
    ),
    (&["http2_max_concurrent_streams"], Handler(global::handle_http2_max_concurrent_streams)),
    // Processes.
    (&["worker_processes"], Handler(global::handle_worker_processes)),
    (&["worker_connections"], NotNeeded("connections are bounded by limits.connections")),
    (
        &["user", "pid", "daemon", "master_process", "lock_file", "env", "timer_resolution"],
        NotNeeded(SUPERVISOR_REASON),
    ),
    (&["worker_rlimit_*", "worker_priority", "worker_cpu_affinity", "working_directory"], NotNeeded(SUPERVISOR_REASON)),
    (
        &["multi_accept", "use", "accept_mutex*", "epoll_events", "worker_aio_requests", "debug_*"],
        NotNeeded(TUNING_REASON),
    ),
    (&["thread_pool", "pcre_jit", "ssl_engine", "load_module", "connection_pool_size"], NotNeeded(TUNING_REASON)),
    (
        &["request_pool_size", "variables_hash_*", "subrequest_output_buffer_size", "map_hash_*"],
        NotNeeded(TUNING_REASON),
    ),
    (
        &["sendfile*", "aio*", "directio*", "open_file_cache*", "output_buffers", "read_ahead"],
        NotNeeded(NO_FILES_REASON),
    ),
    (&["disable_symlinks", "etag", "if_modified_since", "max_ranges", "types_hash_*"], NotNeeded(NO_FILES_REASON)),
    (&["default_type", "charset", "charset_types", "override_charset", "source_charset"], NotNeeded(TYPES_REASON)),
    (&["log_not_found", "min_delete_depth"], NotNeeded(NO_FILES_REASON)),
    (&["expires"], Handler(proxy::handle_expires)),
    (&["tcp_nopush", "tcp_nodelay", "postpone_output"], NotNeeded("responses are sent without delay")),
    (&["server_names_hash_*", "server_name_in_redirect", "port_in_redirect"], NotNeeded("no tuning needed")),
    (&["absolute_redirect", "chunked_transfer_encoding", "msie_*"], NotNeeded("responses are framed as HTTP requires")),
    (&["server_tokens", "ignore_invalid_headers", "merge_slashes"], NotNeeded("this is up to the replicas")),
    (&["underscores_in_headers"], NotNeeded("headers with `_` are forwarded")),
    (
        &["client_header_buffer_size", "client_body_*", "http2_*", "http2", "http3*", "quic_*"],
        NotNeeded(BUFFERS_REASON),
    ),
    // Requests to replicas.
    (&["proxy_set_header"], Handler(headers::handle_proxy_set_header)),
    (&["proxy_http_version"], Handler(proxy::handle_proxy_http_version)),
    (&["proxy_next_upstream"], Handler(proxy::handle_proxy_next_upstream)),
    (
        &["proxy_next_upstream_tries", "proxy_next_upstream_timeout"],
        Impossible("the number of tries is fixed: docs/failures.md"),
    ),
    (&["proxy_buffering", "proxy_buffer_size", "proxy_buffers"], NotNeeded("responses are streamed")),
    (&["proxy_busy_buffers_size", "proxy_max_temp_file_size"], NotNeeded("responses are streamed")),
    (&["proxy_temp_*", "proxy_ignore_headers", "proxy_headers_hash_*"], NotNeeded("responses are streamed")),
    (&["proxy_request_buffering"], NotNeeded("request bodies are read whole, so that they can be retried")),
    (&["proxy_redirect", "proxy_cookie_*"], Handler(proxy::handle_unless_off)),
    (&["proxy_cache", "proxy_store", "proxy_intercept_errors", "proxy_bind"], Handler(proxy::handle_unless_off)),
    (&["proxy_ignore_client_abort", "proxy_force_ranges"], Handler(proxy::handle_unless_off)),
    (&["proxy_cache_*", "proxy_no_cache", "proxy_store_access"], Impossible("responses are not cached")),
    (&["proxy_pass_header"], NotNeeded("headers of replicas are forwarded")),
    (&["proxy_pass_request_body", "proxy_pass_request_headers"], Handler(proxy::handle_proxy_pass_request)),
    (&["proxy_hide_header"], Handler(headers::handle_proxy_hide_header)),
    (&["add_trailer"], Unsupported("trailers of replicas are forwarded, none is added")),
    (&["proxy_method", "proxy_set_body"], Impossible("requests are forwarded unchanged")),
    (&["proxy_socket_keepalive"], NotNeeded("`timeouts.tcp_keepalive` probes replicas and clients")),
    (&["proxy_send_lowat"], NotNeeded(TUNING_REASON)),
    (&["proxy_ssl_trusted_certificate"], Handler(tls::handle_certificate_file)),
    (&["proxy_ssl_name"], Handler(tls::handle_proxy_ssl_name)),
    (&["proxy_ssl_verify"], Handler(tls::handle_proxy_ssl_verify)),
    (&["proxy_ssl_server_name"], NotNeeded("the name is always sent")),
    (
        &["proxy_ssl_certificate*", "proxy_ssl_password_file"],
        Unsupported("the router presents no client certificate to replicas"),
    ),
    (&["proxy_ssl_crl"], Impossible("revocation lists are not read")),
    (&["proxy_ssl_*"], NotNeeded(TLS_DEFAULTS_REASON)),
    // Answers.
    (&["add_header"], Handler(headers::handle_add_header)),
    (&["gzip", "gzip_types", "gzip_min_length"], Handler(gzip::handle_gzip)),
    (&["gzip_*", "gunzip*", "brotli*", "zstd*"], NotNeeded("see gzip")),
    (
        &["sub_filter*", "addition_types", "add_before_body", "add_after_body", "ssi*", "slice", "xslt*"],
        Impossible(BODIES_REASON),
    ),
    (
        &["image_filter*", "mirror*", "js_*", "perl*", "lua_*", "*_by_lua_block", "*_by_lua_file", "*_by_lua"],
        Impossible(BODIES_REASON),
    ),
    (&["echo*", "more_set_*", "more_clear_*", "headers_more*", "post_action"], Impossible(BODIES_REASON)),
    // Logs.
    (&["access_log"], Handler(logs::handle_access_log)),
    (&["error_log"], Handler(logs::handle_error_log)),
    (&["log_format"], Handler(logs::handle_log_format)),
    (&["log_subrequest", "open_log_file_cache"], NotNeeded("log files are kept open")),
    (&["stub_status", "vhost_traffic_*", "status", "status_*"], NotNeeded("the admin listener serves metrics")),
    (&["opentracing*", "otel_*", "opentelemetry*"], Unsupported("traces are not exported")),
    // TLS and where clients are.
    (&["ssl_certificate", "ssl_certificate_key"], Handler(tls::handle_certificate_file)),
    (&["ssl_protocols"], Handler(tls::handle_ssl_protocols)),
    (&["ssl"], Handler(tls::handle_ssl)),
    (&["ssl_verify_client"], Handler(access_rules::handle_access_rule)),
    (
        &["ssl_client_certificate", "ssl_verify_depth", "ssl_crl", "ssl_ocsp*"],
        Unsupported("client certificates are not requested"),
    ),
    (&["ssl_stapling*", "ssl_trusted_certificate"], Impossible("OCSP responses are not stapled")),
    (&["ssl_password_file"], Impossible("keys with a passphrase are not supported")),
    (&["ssl_reject_handshake"], Impossible("a client with an unknown server name gets the first certificate")),
    (&["ssl_*"], NotNeeded(TLS_DEFAULTS_REASON)),
    (&["set_real_ip_from"], Handler(global::handle_set_real_ip_from)),
    (&["real_ip_header"], Handler(proxy::handle_real_ip_header)),
    (&["real_ip_recursive"], NotNeeded("the last address that is no trusted proxy is the client's")),
    (&["proxy_protocol*"], Unsupported("the client's address is that of the connection")),
    // Other protocols and modules.
    (&["fastcgi_*", "uwsgi_*", "scgi_*", "memcached_*", "grpc_*"], Impossible("replicas are HTTP/1.1 servers")),
    (&["dav_*", "create_full_put_path", "flv", "mp4*", "hls*", "empty_gif", "secure_link*"], Impossible(FILES_REASON)),
    (&["userid*", "geoip*", "valid_referers", "referer_hash_*", "modsecurity*", "api"], Impossible("not available")),
];

const FILES_REASON: &str = "files are not served";
const NO_FILES_REASON: &str = "files are not served";
const TYPES_REASON: &str = "replicas set the content type";
const SUPERVISOR_REASON: &str = "this is up to the service manager, such as systemd";
const TUNING_REASON: &str = "no tuning needed";
const BUFFERS_REASON: &str = "[limits] bounds bodies and headers, and HTTP/2 is always enabled";
const TLS_DEFAULTS_REASON: &str = "the TLS defaults are secure and fixed";
const BODIES_REASON: &str = "requests and responses are forwarded unchanged";

/// Returns the rule of a directive, if nginx or a well-known module has it.
pub(in crate::import) fn find_rule(name: &str) -> Option<&'static DirectiveRule> {
    DIRECTIVE_RULES
        .iter()
        .find(|(patterns, _)| patterns.iter().any(|pattern| matches_pattern(name, pattern)))
        .map(|(_, rule)| rule)
}

fn matches_pattern(name: &str, pattern: &str) -> bool {
    if let Some(end) = pattern.strip_prefix('*') {
        return name.ends_with(end);
    }
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

/// Returns the directive with the closest name.
pub(in crate::import) fn suggest_directive(name: &str) -> Option<&'static str> {
    closest_match(
        name,
        DIRECTIVE_RULES.iter().flat_map(|(names, _)| names.iter().copied()).filter(|name| !name.contains('*')),
    )
}

/// Returns all names and patterns.
#[cfg(test)]
pub(in crate::import) fn directive_names() -> impl Iterator<Item = &'static str> {
    DIRECTIVE_RULES.iter().flat_map(|(names, _)| names.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

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
