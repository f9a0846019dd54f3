//! The table of nginx's directives: what becomes of each. A directive that gets a key moves to a row of its own.

use super::tree::Directive;
use super::walk::Walk;
use super::{guards, gzip, headers, logs, server, sticky, tls, upstream, walk};
use crate::config::nearest;

/// What becomes of a directive.
pub(super) enum Fate {
    /// A function carries it over, or judges it by its arguments.
    By(fn(&mut Walk, &Directive)),
    /// It is a time, that of this key; the longest counts where there are several.
    Time(&'static str),
    /// It is so by itself here, or has no meaning.
    NotNeeded(&'static str),
    /// It is not done here yet.
    NotYet(&'static str),
    /// It means something that is not done here.
    Cannot(&'static str),
}

use Fate::{By, Cannot, NotNeeded, NotYet, Time};

/// Names, one `*` in front or behind for any text, and their fate. The first row that fits counts.
static RULES: &[(&[&str], Fate)] = &[
    // Blocks.
    (&["events", "http"], By(walk::container)),
    (&["upstream"], By(upstream::block)),
    (&["server"], By(server::server)),
    (&["location"], By(server::location)),
    (&["if", "limit_except"], By(guards::condition)),
    (&["map", "geo", "split_clients"], Cannot("there are no variables")),
    (&["types", "charset_map"], NotNeeded("replicas name the types of their answers")),
    (&["stream"], Cannot("only HTTP is routed")),
    (&["mail"], Cannot("only HTTP is routed")),
    // Upstreams.
    (&["ip_hash", "least_conn", "hash", "random", "least_time"], By(upstream::policy)),
    (&["keepalive"], NotNeeded("connections to replicas are always kept")),
    (&["keepalive_requests", "keepalive_time"], NotNeeded("a connection is not closed for its age or use")),
    (&["zone"], NotNeeded("workers share their pools' state")),
    (&["sticky"], By(sticky::sticky)),
    (&["sticky_cookie_insert"], Cannot("nginx itself has it no more: write `sticky cookie`")),
    (&["state"], Cannot("replicas that are added by hand last until the next reload: write them into the file")),
    (&["queue", "ntlm"], Cannot("no such thing here")),
    (&["health_check", "match", "check", "check_*"], Cannot("write a `check` into the pool by hand")),
    (&["resolver"], By(sticky::resolver)),
    (&["resolver_timeout"], Time("resolver_timeout")),
    // Servers.
    (&["listen"], By(server::listen)),
    (&["server_name"], By(server::server_name)),
    (&["proxy_pass"], By(server::proxy_pass)),
    (&["internal"], By(guards::internal)),
    (&["return"], By(guards::returns)),
    (&["rewrite", "set", "break", "rewrite_log", "uninitialized_variable_warn"], Cannot("paths are not rewritten")),
    (&["root", "alias", "index", "try_files", "autoindex*", "random_index", "internal_redirect"], Cannot(FILES)),
    (
        &["error_page", "recursive_error_pages"],
        Cannot("a replica's errors are passed on, our own are OpenAI's objects"),
    ),
    (&["allow", "deny", "auth_basic", "auth_request", "auth_jwt"], By(guards::guard)),
    (&["satisfy"], Cannot("addresses are not filtered: use a firewall")),
    (
        &["auth_basic_*", "auth_request_*", "auth_jwt_*", "auth_delay"],
        Cannot("clients show keys here, not passwords: `[[key]]`"),
    ),
    (
        &["limit_req*", "limit_conn*"],
        NotYet("clients are not limited one by one; `max_in_flight` limits a pool, `max_conns` a replica"),
    ),
    (&["limit_rate*", "proxy_limit_rate"], Cannot("streams are not slowed down")),
    // Times and sizes.
    (&["proxy_connect_timeout"], Time("timeouts.connect")),
    (&["proxy_read_timeout"], Time("timeouts.first_byte")),
    (&["client_header_timeout"], Time("timeouts.header")),
    (&["client_body_timeout"], Time("timeouts.body")),
    (&["worker_shutdown_timeout"], Time("timeouts.drain")),
    (&["keepalive_timeout"], By(walk::keepalive_timeout)),
    (&["client_max_body_size"], By(walk::body_size)),
    (&["large_client_header_buffers"], By(walk::header_buffers)),
    (&["proxy_send_timeout"], NotNeeded("`timeouts.first_byte` bounds sending as well")),
    (&["send_timeout"], Time("timeouts.send")),
    (&["lingering_*", "reset_timedout_connection", "keepalive_disable"], NotNeeded("connections end by themselves")),
    (&["http2_max_concurrent_streams"], By(walk::streams)),
    // Processes.
    (&["worker_processes"], By(walk::workers)),
    (&["worker_connections"], NotNeeded("connections are bounded by limits.connections")),
    (&["user", "pid", "daemon", "master_process", "lock_file", "env", "timer_resolution"], NotNeeded(SUPERVISOR)),
    (&["worker_rlimit_*", "worker_priority", "worker_cpu_affinity", "working_directory"], NotNeeded(SUPERVISOR)),
    (&["multi_accept", "use", "accept_mutex*", "epoll_events", "worker_aio_requests", "debug_*"], NotNeeded(LOOP)),
    (&["thread_pool", "pcre_jit", "ssl_engine", "load_module", "connection_pool_size"], NotNeeded(LOOP)),
    (&["request_pool_size", "variables_hash_*", "subrequest_output_buffer_size", "map_hash_*"], NotNeeded(LOOP)),
    (&["sendfile*", "aio*", "directio*", "open_file_cache*", "output_buffers", "read_ahead"], NotNeeded(NO_FILES)),
    (&["disable_symlinks", "etag", "if_modified_since", "max_ranges", "types_hash_*"], NotNeeded(NO_FILES)),
    (&["default_type", "charset", "charset_types", "override_charset", "source_charset"], NotNeeded(TYPES)),
    (&["log_not_found", "min_delete_depth"], NotNeeded(NO_FILES)),
    (&["expires"], By(headers::expires)),
    (&["tcp_nopush", "tcp_nodelay", "postpone_output"], NotNeeded("every piece of an answer is sent at once")),
    (&["server_names_hash_*", "server_name_in_redirect", "port_in_redirect"], NotNeeded("hosts need no tuning")),
    (&["absolute_redirect", "chunked_transfer_encoding", "msie_*"], NotNeeded("answers are framed as HTTP says")),
    (&["server_tokens", "ignore_invalid_headers", "merge_slashes"], NotNeeded("replicas see to it themselves")),
    (&["underscores_in_headers"], NotNeeded("headers with `_` are passed on")),
    (&["client_header_buffer_size", "client_body_*", "http2_*", "http2", "http3*", "quic_*"], NotNeeded(BUFFERS)),
    // Requests to replicas.
    (&["proxy_set_header"], By(headers::proxy_set_header)),
    (&["proxy_http_version"], By(headers::proxy_http_version)),
    (&["proxy_next_upstream"], By(headers::proxy_next_upstream)),
    (
        &["proxy_next_upstream_tries", "proxy_next_upstream_timeout"],
        Cannot("how often is fixed: README, \"When a replica fails\""),
    ),
    (&["proxy_buffering", "proxy_buffer_size", "proxy_buffers"], NotNeeded("answers are passed on as they come")),
    (&["proxy_busy_buffers_size", "proxy_max_temp_file_size"], NotNeeded("answers are passed on as they come")),
    (
        &["proxy_temp_*", "proxy_ignore_headers", "proxy_headers_hash_*"],
        NotNeeded("answers are passed on as they come"),
    ),
    (&["proxy_request_buffering"], NotNeeded("a request is read whole, so that it can be sent again")),
    (&["proxy_redirect", "proxy_cookie_*"], By(headers::unless_off)),
    (&["proxy_cache", "proxy_store", "proxy_intercept_errors", "proxy_bind"], By(headers::unless_off)),
    (&["proxy_ignore_client_abort", "proxy_force_ranges"], By(headers::unless_off)),
    (&["proxy_cache_*", "proxy_no_cache", "proxy_store_access"], Cannot("answers are not cached")),
    (&["proxy_pass_header"], NotNeeded("a replica's headers are passed on")),
    (&["proxy_pass_request_body", "proxy_pass_request_headers"], By(headers::passed)),
    (&["proxy_hide_header"], By(headers::proxy_hide_header)),
    (&["add_trailer"], NotYet("a replica's trailers are passed on, and none is added")),
    (&["proxy_method", "proxy_set_body"], Cannot("requests are passed on as they come")),
    (&["proxy_socket_keepalive", "proxy_send_lowat"], NotNeeded("`timeouts.idle` notices a dead replica")),
    (&["proxy_ssl_trusted_certificate"], By(tls::file)),
    (&["proxy_ssl_name"], By(tls::name)),
    (&["proxy_ssl_verify"], By(tls::verify)),
    (&["proxy_ssl_server_name"], NotNeeded("the name is always sent")),
    (
        &["proxy_ssl_certificate*", "proxy_ssl_password_file"],
        NotYet("replicas are shown no certificate of the router's"),
    ),
    (&["proxy_ssl_crl"], Cannot("lists of revoked certificates are not read")),
    (&["proxy_ssl_*"], NotNeeded(SOUND)),
    // Answers.
    (&["add_header"], By(headers::add_header)),
    (&["gzip", "gzip_types", "gzip_min_length"], By(gzip::gzip)),
    (&["gzip_*", "gunzip*", "brotli*", "zstd*"], NotNeeded("for what is compressed, see gzip")),
    (&["sub_filter*", "addition_types", "add_before_body", "add_after_body", "ssi*", "slice", "xslt*"], Cannot(BODIES)),
    (
        &["image_filter*", "mirror*", "js_*", "perl*", "lua_*", "*_by_lua_block", "*_by_lua_file", "*_by_lua"],
        Cannot(BODIES),
    ),
    (&["echo*", "more_set_*", "more_clear_*", "headers_more*", "post_action"], Cannot(BODIES)),
    // Logs.
    (&["access_log"], By(logs::access_log)),
    (&["error_log"], By(logs::error_log)),
    (&["log_format"], By(logs::log_format)),
    (&["log_subrequest", "open_log_file_cache"], NotNeeded("log files stay open")),
    (&["stub_status", "vhost_traffic_*", "status", "status_*"], NotNeeded("metrics are at the admin listener")),
    (&["opentracing*", "otel_*", "opentelemetry*"], NotYet("no traces")),
    // TLS and where clients are.
    (&["ssl_certificate", "ssl_certificate_key"], By(tls::file)),
    (&["ssl_protocols"], By(tls::protocols)),
    (&["ssl"], By(tls::ssl)),
    (&["ssl_verify_client"], By(guards::guard)),
    (
        &["ssl_client_certificate", "ssl_verify_depth", "ssl_crl", "ssl_ocsp*"],
        NotYet("clients are not asked for certificates"),
    ),
    (&["ssl_stapling*", "ssl_trusted_certificate"], Cannot("answers of OCSP are not stapled")),
    (&["ssl_password_file"], Cannot("keys are read without a passphrase")),
    (&["ssl_reject_handshake"], Cannot("a client that asks for an unknown name is shown the first certificate")),
    (&["ssl_*"], NotNeeded(SOUND)),
    (&["set_real_ip_from"], By(walk::trusted)),
    (&["real_ip_header"], By(headers::real_ip_header)),
    (&["real_ip_recursive"], NotNeeded("the last address that is not a trusted proxy's is the client's")),
    (&["proxy_protocol*"], NotYet("the peer's address is the client's")),
    // Other protocols and modules.
    (&["fastcgi_*", "uwsgi_*", "scgi_*", "memcached_*", "grpc_*"], Cannot("replicas speak HTTP/1.1")),
    (&["dav_*", "create_full_put_path", "flv", "mp4*", "hls*", "empty_gif", "secure_link*"], Cannot(FILES)),
    (&["userid*", "geoip*", "valid_referers", "referer_hash_*", "modsecurity*", "api"], Cannot("no such thing here")),
];

const FILES: &str = "files are not served";
const NO_FILES: &str = "no files are served";
const TYPES: &str = "replicas name the types of their answers";
const SUPERVISOR: &str = "that is for who starts the process, such as systemd";
const LOOP: &str = "there is nothing to tune";
const BUFFERS: &str = "bodies and heads are bounded by [limits], HTTP/2 is always there";
const SOUND: &str = "TLS has good defaults only";
const BODIES: &str = "requests and answers are passed on as they are";

/// The fate of a directive, if nginx or a well-known module has it.
pub(super) fn find(name: &str) -> Option<&'static Fate> {
    RULES.iter().find(|(patterns, _)| patterns.iter().any(|pattern| fits(name, pattern))).map(|(_, fate)| fate)
}

fn fits(name: &str, pattern: &str) -> bool {
    if let Some(end) = pattern.strip_prefix('*') {
        return name.ends_with(end);
    }
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

/// The directive that a name that is none was meant to be.
pub(super) fn meant(name: &str) -> Option<&'static str> {
    nearest(name, RULES.iter().flat_map(|(names, _)| names.iter().copied()).filter(|name| !name.contains('*')))
}

/// All names and patterns.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    RULES.iter().flat_map(|(names, _)| names.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_row_is_hidden_by_an_earlier_one() {
        let all: Vec<&str> = names().collect();
        for (i, name) in all.iter().enumerate() {
            let plain = name.replace('*', "x");
            let first = all.iter().position(|pattern| fits(&plain, pattern));
            assert_eq!(first, Some(i), "{name}");
        }
    }

    #[test]
    fn slips_in_names_are_recognised() {
        for (typed, wanted) in [("proxy_pas", "proxy_pass"), ("least_con", "least_conn"), ("upstreem", "upstream")] {
            assert!(find(typed).is_none());
            assert_eq!(meant(typed), Some(wanted));
        }
    }
}
