//! Directives that keep requests from replicas, or answer them, in a way that the router cannot.

use super::contexts::{
    HTTP_SERVER, LEVELS, LEVELS_AND_IF, LIMIT_EXCEPT, LOCATION, LOCATION_IF, SERVER_IF, SERVER_LOCATION, UPSTREAM,
};
use super::rule::DirectiveRow;
use super::rule::DirectiveRule::{self, ContentHandler, Guard, Handler};
use crate::import::directives::access_rules;
use crate::import::guard::GuardRule;

/// A directive that closes with any arguments.
const fn closes(reason: &'static str) -> DirectiveRule {
    Guard(GuardRule { neutral: &[], reason })
}

/// A directive that `off` turns off.
const fn closes_unless_off(reason: &'static str) -> DirectiveRule {
    Guard(GuardRule { neutral: &["off"], reason })
}

/// Directives that stop the import where a replica is reached, unless their first argument turns them off. The nearest
/// row of a kind is in force. Patterns are allowed: they close more than is known.
pub(super) static GUARDS: &[DirectiveRow] = &[
    ("auth_basic", LEVELS.or(LIMIT_EXCEPT), closes_unless_off("the router checks no passwords")),
    ("auth_request", LEVELS, closes_unless_off("the router asks no other server who may enter")),
    ("auth_jwt", LEVELS.or(LIMIT_EXCEPT), closes_unless_off("the router checks no tokens")),
    ("auth_require auth_oidc auth_digest auth_pam auth_ldap auth_gss", LEVELS_AND_IF, closes(IDENTITY_REASON)),
    (
        "ssl_verify_client",
        HTTP_SERVER,
        Guard(GuardRule {
            neutral: &["off", "optional", "optional_no_ca"],
            reason: "the router checks no client certificates",
        }),
    ),
    ("ssl_reject_handshake", HTTP_SERVER, closes_unless_off("the router accepts every TLS handshake")),
    ("modsecurity", LEVELS, closes_unless_off("the router has no rules on the content of requests")),
    ("app_protect*", LEVELS_AND_IF, closes("the router has no rules on the content of requests")),
    ("image_filter", LOCATION, closes_unless_off("the router refuses no answers by their type")),
    (
        "access_by_lua* rewrite_by_lua* server_rewrite_by_lua* precontent_by_lua* ssl_certificate_by_lua* \
         ssl_client_hello_by_lua* proxy_ssl_certificate_by_lua* proxy_ssl_verify_by_lua*",
        LEVELS_AND_IF.or(SERVER_IF),
        closes(PROGRAM_REASON),
    ),
    ("set_by_lua*", SERVER_LOCATION.or(SERVER_IF).or(LOCATION_IF), closes(PROGRAM_REASON)),
    ("js_access", LOCATION.or(LOCATION_IF).or(LIMIT_EXCEPT), closes(PROGRAM_REASON)),
    (
        "balancer_by_lua* balancer_keepalive",
        UPSTREAM,
        closes("the router runs no programs, and this one chooses servers"),
    ),
    ("ntlm", UPSTREAM, closes("connections to replicas are shared by clients, so one client would act as another")),
    ("internal_redirect post_action", LEVELS_AND_IF, closes("the router leads no request to a second location")),
    ("proxy_bind", LEVELS, closes_unless_off("replicas see the router's address, not this one")),
    ("proxy_ssl_crl", LEVELS, closes("revocation lists are not read, so revoked replicas would be asked")),
    ("mirror", LEVELS, closes_unless_off("the router sends no copies of requests")),
    (
        "proxy_pass_request_body proxy_pass_request_headers",
        LEVELS,
        Guard(GuardRule { neutral: &["on"], reason: "requests are forwarded whole, with what clients may not send" }),
    ),
    ("merge_slashes", HTTP_SERVER, Handler(access_rules::handle_merge_slashes)),
    (
        "more_set_input_headers more_clear_input_headers",
        LEVELS_AND_IF,
        closes("requests are forwarded unchanged, with what clients may not send"),
    ),
    (
        "proxy_method proxy_set_body proxy_cache_purge",
        LEVELS,
        closes("requests are forwarded unchanged, with what clients may not send"),
    ),
];

/// Directives that answer requests in a location. They stop the import in a location with a `proxy_pass`; without one,
/// the answer is 404 and a remark says so.
pub(super) static CONTENT_HANDLERS: &[DirectiveRow] = &[
    ("try_files", SERVER_LOCATION, ContentHandler("files are not served")),
    ("alias random_index flv mp4 hls f4f empty_gif", LOCATION, ContentHandler("files are not served")),
    ("stub_status", SERVER_LOCATION, ContentHandler("the admin listener serves metrics")),
    (
        "api status upstream_conf check_status vhost_traffic_status_display",
        LOCATION,
        ContentHandler("the admin listener serves metrics"),
    ),
    (
        "fastcgi_pass uwsgi_pass scgi_pass memcached_pass grpc_pass",
        LOCATION.or(LOCATION_IF),
        ContentHandler("replicas are HTTP/1.1 servers"),
    ),
    (
        "content_by_lua* js_content perl echo*",
        LOCATION.or(LOCATION_IF).or(LIMIT_EXCEPT),
        ContentHandler(ANSWERS_REASON),
    ),
];

const IDENTITY_REASON: &str = "the router cannot check who asks by other means than API keys";
const PROGRAM_REASON: &str = "the router runs no programs, and this one may refuse requests or lead them elsewhere";
const ANSWERS_REASON: &str = "the router runs no programs";
