//! Directives that can be left out with a remark: none of them refuses, authenticates or redirects a request, or leads
//! it elsewhere.
//!
//! A directive gets a row only if that holds for all its arguments and next to any other directive. Names are written
//! out: a pattern would also match directives that were never examined.

use super::contexts::{
    DirectiveContexts, EVENTS, HTTP, HTTP_SERVER, LEVELS, LEVELS_AND_IF, LIMIT_EXCEPT, LOCATION, LOCATION_IF, MAIN,
    SERVER_IF, SERVER_LOCATION, UPSTREAM,
};
use super::rule::DirectiveRow;
use super::rule::DirectiveRule::{self, Harmless};
use crate::import::report::RemarkKind;

const fn not_needed(reason: &'static str) -> DirectiveRule {
    Harmless(RemarkKind::NotNeeded, reason)
}

const fn not_yet(reason: &'static str) -> DirectiveRule {
    Harmless(RemarkKind::Unsupported, reason)
}

const fn cannot(reason: &'static str) -> DirectiveRule {
    Harmless(RemarkKind::Impossible, reason)
}

const LEVELS_AND_UPSTREAM: DirectiveContexts = LEVELS.or(UPSTREAM);

pub(super) static HARMLESS_DIRECTIVES: &[DirectiveRow] = &[
    // Processes.
    (
        "user pid daemon master_process lock_file env timer_resolution working_directory worker_rlimit_core \
         worker_rlimit_nofile worker_priority worker_cpu_affinity debug_points",
        MAIN,
        not_needed(SUPERVISOR_REASON),
    ),
    ("worker_connections", EVENTS, not_needed("connections are bounded by limits.connections")),
    (
        "multi_accept use accept_mutex accept_mutex_delay epoll_events worker_aio_requests debug_connection",
        EVENTS,
        not_needed(TUNING_REASON),
    ),
    ("thread_pool pcre_jit ssl_engine load_module mgmt google_perftools_profiles", MAIN, not_needed(TUNING_REASON)),
    ("stream mail", MAIN, cannot("only HTTP is supported")),
    ("connection_pool_size request_pool_size", HTTP_SERVER, not_needed(TUNING_REASON)),
    (
        "map_hash_max_size map_hash_bucket_size variables_hash_max_size variables_hash_bucket_size \
         server_names_hash_max_size server_names_hash_bucket_size",
        HTTP,
        not_needed(TUNING_REASON),
    ),
    ("subrequest_output_buffer_size send_lowat", LEVELS, not_needed(TUNING_REASON)),
    (
        "server_name_in_redirect port_in_redirect absolute_redirect",
        LEVELS,
        not_yet("redirects to a path with a slash name the host and port that the client has asked for"),
    ),
    ("msie_refresh", LEVELS, not_needed("redirects are not written for old browsers")),
    // Files.
    (
        "sendfile_max_chunk aio aio_write directio directio_alignment open_file_cache read_ahead \
         open_file_cache_errors open_file_cache_events open_file_cache_min_uses open_file_cache_valid \
         output_buffers disable_symlinks etag if_modified_since max_ranges types_hash_max_size \
         types_hash_bucket_size log_not_found min_delete_depth mp4_buffer_size mp4_max_buffer_size \
         mp4_start_key_frame mp4_limit_rate mp4_limit_rate_after f4f_buffer_size hls_buffers hls_forward_args \
         hls_fragment hls_mp4_buffer_size hls_mp4_max_buffer_size",
        LEVELS,
        not_needed(NO_FILES_REASON),
    ),
    ("sendfile", LEVELS_AND_IF, not_needed(NO_FILES_REASON)),
    (
        "index autoindex autoindex_exact_size autoindex_format autoindex_localtime create_full_put_path \
         dav_access dav_methods",
        LEVELS,
        cannot(NO_FILES_REASON),
    ),
    ("root", LEVELS_AND_IF, cannot(NO_FILES_REASON)),
    ("types charset_types", LEVELS, not_needed(TYPES_REASON)),
    ("source_charset charset override_charset", LEVELS_AND_IF, not_needed(TYPES_REASON)),
    ("charset_map", HTTP, not_needed(TYPES_REASON)),
    // Variables. Where one decides about a request, the import stops there.
    (
        "map split_clients geo num_map keyval keyval_zone geoip2 geoip_country geoip_city geoip_org geoip_proxy \
         geoip_proxy_recursive geoip2_proxy geoip2_proxy_recursive auth_jwt_claim_set auth_jwt_header_set \
         perl_set",
        HTTP,
        cannot(VARIABLES_REASON),
    ),
    ("valid_referers", SERVER_LOCATION, cannot(VARIABLES_REASON)),
    ("referer_hash_max_size referer_hash_bucket_size", SERVER_LOCATION, not_needed(TUNING_REASON)),
    (
        "secure_link secure_link_md5 secure_link_secret ancient_browser ancient_browser_value modern_browser modern_browser_value \
         js_set js_var auth_request_set",
        LEVELS,
        cannot(VARIABLES_REASON),
    ),
    ("uninitialized_variable_warn rewrite_log", LEVELS_AND_IF.or(SERVER_IF), not_needed(VARIABLES_REASON)),
    (
        "satisfy",
        LEVELS,
        not_needed("addresses are the only rules that are carried over, so `all` and `any` are the same"),
    ),
    // Parameters of directives that stop the import where they are in force.
    (
        "auth_basic_user_file auth_jwt_key_file auth_jwt_key_request auth_jwt_leeway auth_jwt_type \
         auth_jwt_key_cache auth_jwt_require",
        LEVELS.or(LIMIT_EXCEPT),
        cannot(PARAMETER_REASON),
    ),
    (
        "auth_delay modsecurity_rules modsecurity_rules_file modsecurity_rules_remote \
         modsecurity_transaction_id modsecurity_use_error_log mirror_request_body image_filter_buffer \
         image_filter_interlace image_filter_jpeg_quality image_filter_sharpen image_filter_transparency \
         image_filter_webp_quality",
        LEVELS,
        cannot(PARAMETER_REASON),
    ),
    (
        "ssl_client_certificate ssl_verify_depth ssl_crl ssl_ocsp ssl_ocsp_cache ssl_ocsp_responder",
        HTTP_SERVER,
        not_yet(CLIENT_CERTS_REASON),
    ),
    // Rate limits refuse by load, not by who asks: a client that asks slowly gets in, so they close nothing.
    (
        "limit_req limit_req_status limit_req_log_level limit_req_dry_run limit_conn limit_conn_status \
         limit_conn_log_level limit_conn_dry_run",
        LEVELS,
        cannot(RATES_REASON),
    ),
    ("limit_req_zone limit_conn_zone", HTTP, cannot(RATES_REASON)),
    ("limit_rate limit_rate_after", LEVELS_AND_IF, cannot(BANDWIDTH_REASON)),
    ("proxy_limit_rate", LEVELS, cannot(BANDWIDTH_REASON)),
    // Connections and requests of clients.
    (
        "keepalive_disable lingering_close lingering_time lingering_timeout reset_timedout_connection \
         keepalive_min_timeout",
        LEVELS,
        not_needed(CLOSES_REASON),
    ),
    (
        "keepalive_requests keepalive_time",
        LEVELS_AND_UPSTREAM,
        not_needed("connections are not closed by age or request count"),
    ),
    ("tcp_nopush tcp_nodelay postpone_output", LEVELS, not_needed(NO_DELAY_REASON)),
    ("chunked_transfer_encoding msie_padding", LEVELS, not_needed(FRAMING_REASON)),
    ("server_tokens", LEVELS, not_needed("this is up to the replicas")),
    ("ignore_invalid_headers", HTTP_SERVER, not_needed("this is up to the replicas")),
    ("underscores_in_headers", HTTP_SERVER, not_needed("headers with `_` are forwarded")),
    (
        "client_header_buffer_size max_headers http2 http2_max_field_size http2_max_header_size \
         http2_body_preread_size http2_idle_timeout http2_max_concurrent_pushes http2_max_requests \
         http2_recv_timeout http2_pool_size http2_streams_index_size http3 http3_hq http3_max_concurrent_streams \
         http3_stream_buffer_size quic_stream_buffer_size",
        HTTP_SERVER,
        not_needed(BUFFERS_REASON),
    ),
    (
        "client_body_buffer_size client_body_in_file_only client_body_in_single_buffer client_body_temp_path \
         http2_chunk_size http2_push http2_push_preload",
        LEVELS,
        not_needed(BUFFERS_REASON),
    ),
    ("http2_recv_buffer_size", HTTP, not_needed(BUFFERS_REASON)),
    (
        "quic_active_connection_id_limit quic_bpf quic_gso quic_host_key quic_retry",
        HTTP_SERVER.or(MAIN),
        not_needed(BUFFERS_REASON),
    ),
    // Upstreams.
    ("keepalive", UPSTREAM, not_needed("connections to replicas are always reused")),
    ("zone", UPSTREAM, not_needed("workers share the pools' state")),
    ("sticky_cookie_insert", UPSTREAM, cannot("removed from nginx: write `sticky cookie`")),
    ("state", UPSTREAM, cannot("replicas added at run time last until the next reload: write them into router.toml")),
    ("queue", UPSTREAM, cannot("not available")),
    ("health_check health_check_timeout", LOCATION, cannot(HEALTH_REASON)),
    ("match check_shm_size", HTTP, cannot(HEALTH_REASON)),
    ("check check_http_send check_http_expect_alive check_keepalive_requests", UPSTREAM, cannot(HEALTH_REASON)),
    // Requests to replicas.
    (
        "proxy_next_upstream_tries proxy_next_upstream_timeout",
        LEVELS,
        cannot("the number of tries is fixed: docs/failures.md"),
    ),
    ("proxy_send_timeout", LEVELS, not_needed("`timeouts.first_byte` bounds sending as well")),
    (
        "proxy_buffering proxy_buffer_size proxy_buffers proxy_busy_buffers_size proxy_ignore_headers \
         proxy_max_temp_file_size proxy_temp_path proxy_temp_file_write_size proxy_headers_hash_max_size \
         proxy_headers_hash_bucket_size",
        LEVELS,
        not_needed(STREAMED_REASON),
    ),
    ("proxy_request_buffering", LEVELS, not_needed("request bodies are read whole, so that they can be retried")),
    (
        "proxy_cache_background_update proxy_cache_bypass proxy_cache_convert_head proxy_cache_key \
         proxy_cache_lock proxy_cache_lock_age proxy_cache_lock_timeout proxy_cache_max_range_offset \
         proxy_cache_methods proxy_cache_min_uses proxy_cache_revalidate proxy_cache_use_stale proxy_cache_valid \
         proxy_no_cache proxy_store_access",
        LEVELS,
        cannot(CACHE_REASON),
    ),
    ("proxy_cache_path", HTTP, cannot(CACHE_REASON)),
    ("proxy_pass_header proxy_pass_trailers", LEVELS, not_needed("headers of replicas are forwarded")),
    ("proxy_socket_keepalive", LEVELS, not_needed("`timeouts.tcp_keepalive` probes replicas and clients")),
    ("proxy_send_lowat", LEVELS, not_needed(TUNING_REASON)),
    ("proxy_ssl_server_name", LEVELS, not_needed("the name is always sent")),
    (
        "proxy_ssl_certificate proxy_ssl_certificate_key proxy_ssl_password_file proxy_ssl_certificate_cache",
        LEVELS,
        not_yet("the router presents no client certificate to replicas"),
    ),
    (
        "proxy_ssl_ciphers proxy_ssl_conf_command proxy_ssl_protocols proxy_ssl_session_reuse \
         proxy_ssl_verify_depth proxy_ssl_key_log",
        LEVELS,
        not_needed(TLS_DEFAULTS_REASON),
    ),
    // Answers.
    ("recursive_error_pages", LEVELS, cannot("the router has no error pages")),
    ("add_trailer", LEVELS_AND_IF, not_yet("trailers of replicas are forwarded, none is added")),
    ("add_header_inherit add_trailer_inherit early_hints", LEVELS, cannot("not available")),
    (
        "gzip_buffers gzip_comp_level gzip_disable gzip_hash gzip_http_version gzip_no_buffer gzip_proxied \
         gzip_static gzip_vary gzip_window postpone_gzipping gunzip gunzip_buffers",
        LEVELS,
        not_needed(GZIP_REASON),
    ),
    (
        "brotli brotli_comp_level brotli_types brotli_static brotli_buffers brotli_window brotli_min_length zstd \
         zstd_comp_level zstd_types zstd_min_length zstd_static zstd_buffers",
        LEVELS_AND_IF,
        not_needed(GZIP_REASON),
    ),
    (
        "sub_filter sub_filter_last_modified sub_filter_once sub_filter_types addition_types slice \
         add_before_body add_after_body ssi_ignore_recycled_buffers ssi_last_modified ssi_min_file_chunk \
         ssi_silent_errors ssi_types ssi_value_length xml_entities xslt_last_modified xslt_param \
         xslt_string_param xslt_stylesheet xslt_types",
        LEVELS,
        cannot(BODIES_REASON),
    ),
    ("ssi more_set_headers more_clear_headers", LEVELS_AND_IF, cannot(BODIES_REASON)),
    (
        "userid userid_domain userid_expires userid_flags userid_mark userid_name userid_p3p userid_path \
         userid_service",
        LEVELS,
        cannot("no cookie is set that identifies clients"),
    ),
    // Logs and metrics.
    ("log_subrequest open_log_file_cache", LEVELS, not_needed("log files are kept open")),
    ("session_log session_log_format session_log_zone", LEVELS, cannot("not available")),
    (
        "status_zone status_format vhost_traffic_status vhost_traffic_status_zone \
         vhost_traffic_status_filter_by_host",
        LEVELS,
        not_needed(METRICS_REASON),
    ),
    ("otel_exporter otel_service_name otel_resource_attr", HTTP, not_yet(TRACES_REASON)),
    (
        "otel_trace otel_trace_context otel_span_name otel_span_attr opentracing opentracing_propagate_context \
         opentracing_tag opentelemetry opentelemetry_config opentelemetry_propagate opentelemetry_operation_name \
         opentelemetry_attribute opentelemetry_capture_headers",
        LEVELS,
        not_yet(TRACES_REASON),
    ),
    ("opentracing_operation_name opentracing_load_tracer", LEVELS.or(MAIN), not_yet(TRACES_REASON)),
    // TLS.
    (
        "ssl_stapling ssl_stapling_file ssl_stapling_responder ssl_stapling_verify ssl_trusted_certificate",
        HTTP_SERVER,
        cannot(STAPLING_REASON),
    ),
    ("ssl_password_file", HTTP_SERVER, cannot("keys with a passphrase are not supported")),
    (
        "ssl_buffer_size ssl_ciphers ssl_conf_command ssl_dhparam ssl_early_data ssl_ecdh_curve \
         ssl_prefer_server_ciphers ssl_session_cache ssl_session_ticket_key ssl_session_tickets \
         ssl_session_timeout ssl_certificate_cache ssl_certificate_compression ssl_key_log ssl_ech_file",
        HTTP_SERVER,
        not_needed(TLS_DEFAULTS_REASON),
    ),
    ("ssl_object_cache_inheritable", MAIN, not_needed(TLS_DEFAULTS_REASON)),
    // Programs that see answers and the log only, and settings of interpreters.
    (
        "header_filter_by_lua header_filter_by_lua_block header_filter_by_lua_file body_filter_by_lua \
         body_filter_by_lua_block body_filter_by_lua_file",
        LEVELS_AND_IF,
        cannot(BODIES_REASON),
    ),
    (
        "log_by_lua log_by_lua_block log_by_lua_file lua_check_client_abort lua_code_cache lua_http10_buffering \
         lua_need_request_body lua_socket_buffer_size lua_socket_connect_timeout lua_socket_keepalive_timeout \
         lua_socket_log_errors lua_socket_pool_size lua_socket_read_timeout lua_socket_send_lowat \
         lua_socket_send_timeout lua_transform_underscores_in_response_headers lua_use_default_type",
        LEVELS_AND_IF,
        cannot(PROGRAMS_REASON),
    ),
    (
        "init_by_lua init_by_lua_block init_by_lua_file init_worker_by_lua init_worker_by_lua_block \
         init_worker_by_lua_file exit_worker_by_lua_block exit_worker_by_lua_file ssl_session_fetch_by_lua_block \
         ssl_session_fetch_by_lua_file ssl_session_store_by_lua_block ssl_session_store_by_lua_file \
         lua_capture_error_log lua_load_resty_core lua_malloc_trim lua_max_pending_timers lua_max_running_timers \
         lua_package_cpath lua_package_path lua_regex_cache_max_entries lua_regex_match_limit lua_sa_restart \
         lua_shared_dict lua_thread_cache_max_entries lua_worker_thread_vm_pool_size js_shared_dict_zone \
         perl_modules perl_require",
        HTTP,
        cannot(PROGRAMS_REASON),
    ),
    (
        "lua_ssl_certificate lua_ssl_certificate_key lua_ssl_ciphers lua_ssl_conf_command lua_ssl_crl \
         lua_ssl_key_log lua_ssl_protocols lua_ssl_trusted_certificate lua_ssl_verify_depth js_import js_path \
         js_include js_preload_object js_engine js_context_reuse js_context_reuse_max_size js_periodic \
         js_fetch_buffer_size js_fetch_ciphers js_fetch_keepalive js_fetch_keepalive_requests \
         js_fetch_keepalive_time js_fetch_keepalive_timeout js_fetch_max_response_buffer_size js_fetch_protocols \
         js_fetch_proxy js_fetch_timeout js_fetch_trusted_certificate js_fetch_verify js_fetch_verify_depth",
        LEVELS,
        cannot(PROGRAMS_REASON),
    ),
    ("js_header_filter js_body_filter", LOCATION.or(LOCATION_IF).or(LIMIT_EXCEPT), cannot(BODIES_REASON)),
    ("js_load_http_native_module js_load_stream_native_module", MAIN, cannot(PROGRAMS_REASON)),
];

/// The parameters of `fastcgi_pass` and its relatives. They act in a location only that one of these serves, and no such
/// location leads to a replica, so patterns are safe here.
pub(super) static OTHER_PROTOCOLS: &[DirectiveRow] =
    &[("fastcgi_* uwsgi_* scgi_* memcached_* grpc_*", LEVELS_AND_IF, cannot("replicas are HTTP/1.1 servers"))];

const NO_FILES_REASON: &str = "files are not served";
const TYPES_REASON: &str = "replicas set the content type";
const VARIABLES_REASON: &str =
    "variables are not kept: where a request depends on one, its value is worked out, or the import stops";
const PARAMETER_REASON: &str = "without effect: where the directive that it belongs to is in force, the import stops";
const CLIENT_CERTS_REASON: &str = "client certificates are not requested";
const RATES_REASON: &str =
    "rate limits are not carried over: `max_in_flight` limits a pool, `max_conns` a replica, none of them an address";
const BANDWIDTH_REASON: &str = "there is no bandwidth limit";
const SUPERVISOR_REASON: &str = "this is up to the service manager, such as systemd";
const TUNING_REASON: &str = "no tuning needed";
const CLOSES_REASON: &str = "the router closes connections itself";
const NO_DELAY_REASON: &str = "responses are sent without delay";
const FRAMING_REASON: &str = "responses are framed as HTTP requires";
const BUFFERS_REASON: &str = "[limits] bounds bodies and headers, and HTTP/2 is always enabled";
const HEALTH_REASON: &str = "add `health_check` to the pool by hand";
const STREAMED_REASON: &str = "responses are streamed";
const CACHE_REASON: &str = "responses are not cached";
const GZIP_REASON: &str = "see gzip";
const BODIES_REASON: &str = "responses are forwarded unchanged";
const METRICS_REASON: &str = "the admin listener serves metrics";
const TRACES_REASON: &str = "traces are not exported";
const STAPLING_REASON: &str = "OCSP responses are not stapled";
const TLS_DEFAULTS_REASON: &str = "the TLS defaults are secure and fixed";
const PROGRAMS_REASON: &str = "programs are not run";
