//! TLS of the imported pools.

use std::net::IpAddr;

use super::imported_pool::PoolTlsKeys;
use crate::import::blocks::UpstreamVerification;
use crate::import::context::ImportContext;
use crate::import::directives::tls::is_host_name;
use crate::import::syntax::directive::Directive;

/// Returns the TLS keys of a pool with `https://` replicas; nginx verifies `host` in their certificates.
pub(super) fn build_pool_tls(
    context: &mut ImportContext,
    verification: &UpstreamVerification,
    pass: &Directive,
    host: Option<&str>,
) -> PoolTlsKeys {
    let off = verification.verify.as_ref().filter(|verify| verify.arg(0) == "off");
    let used = [verification.ca.as_ref().filter(|_| off.is_none()), verification.name.as_ref(), off];
    context.deferred.used_tls_lines.extend(used.into_iter().flatten().map(Directive::source_line));
    let name = verification.name.as_ref().map(|name| name.arg(0).to_owned());
    let mut keys = PoolTlsKeys { name, is_insecure: off.is_some(), ca: None };
    if off.is_none() {
        keys.ca = verification.ca.as_ref().map(|ca| context.resolve_path(ca.arg(0)));
    }
    if verification.verify.is_none() {
        let reason = "replicas' certificates are verified here, which nginx does only with proxy_ssl_verify: `tls_ca` \
                   names the issuer that is trusted, if it is not a public one";
        context.report.add_note(pass, reason);
    } else if off.is_none() && keys.name.is_none() {
        keys.name = host.filter(|host| is_host_name(host) && host.parse::<IpAddr>().is_err()).map(str::to_owned);
    }
    keys
}
