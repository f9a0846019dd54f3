//! TLS of the imported addresses and pools.

use std::net::IpAddr;

use super::imported_pool::PoolTlsKeys;
use crate::import::blocks::{NginxListen, NginxServer, ServedCertificates, UpstreamVerification};
use crate::import::context::ImportContext;
use crate::import::directives::tls::is_host_name;
use crate::import::report::RemarkKind;
use crate::import::syntax::directive::Directive;
use crate::import::toml_text::quote_toml;
use crate::routes::ListenAddr;

/// Returns whether an address uses TLS. As in nginx, one `ssl` applies to all servers at it.
pub(super) fn is_tls_address(serving: &[&NginxServer], address: &ListenAddr) -> bool {
    serving.iter().flat_map(|server| &server.listens).any(|l| l.is_supported && l.is_tls && l.address == *address)
}

/// Carries over the certificates of the TLS addresses, and returns the addresses; without certificates only the others.
pub(super) fn secure_addresses(
    context: &mut ImportContext,
    addresses: Vec<ListenAddr>,
    serving: &[&NginxServer],
    default: Option<&NginxServer>,
) -> Vec<ListenAddr> {
    let has_tls = |server: &NginxServer| {
        let is_tls = |address: &ListenAddr| is_tls_address(serving, address);
        server.listens.iter().any(|listen| listen.is_supported && is_tls(&listen.address))
    };
    let tls_servers = default.into_iter().chain(serving.iter().copied()).filter(|server| has_tls(server));
    if collect_certificates(context, tls_servers) {
        return addresses;
    }
    for NginxListen { directive_text, source_line, .. } in
        serving.iter().flat_map(|server| &server.listens).filter(|l| l.is_supported && l.is_tls)
    {
        let reason = "it has no ssl_certificate with its key, so the address is left out".to_owned();
        context.report.add_remark_at(RemarkKind::Impossible, directive_text.clone(), source_line.clone(), reason);
    }
    addresses.into_iter().filter(|listen| !matches!(listen, ListenAddr::Tls(_))).collect()
}

/// Carries over the certificates of `servers`, the default server's first. Returns whether there are any.
fn collect_certificates<'a>(context: &mut ImportContext, servers: impl Iterator<Item = &'a NginxServer>) -> bool {
    let (mut chains, mut keys): (Vec<&Directive>, Vec<&Directive>) = Default::default();
    for ServedCertificates { chains: server_chains, keys: server_keys } in servers.map(|server| &server.certificates) {
        for (chain, key) in server_chains.iter().zip(server_keys) {
            let pair = (chain.arg(0), key.arg(0));
            if !chains.iter().zip(&keys).any(|(chain, key)| (chain.arg(0), key.arg(0)) == pair) {
                chains.push(chain);
                keys.push(key);
            }
            context.deferred.used_tls_lines.extend([chain.source_line(), key.source_line()]);
        }
    }
    for (name, files) in [("tls.certificate", &chains), ("tls.key", &keys)] {
        let paths: Vec<String> = files.iter().map(|file| quote_toml(&context.resolve_path(file.arg(0)))).collect();
        let value = match paths.as_slice() {
            [] => return false,
            [one] => one.clone(),
            all => format!("[{}]", all.join(", ")),
        };
        if let Some(first) = files.first() {
            context.set_key(name, value, 0, first);
            // `finish_tls` counts each directive.
            context.report.carried_count = context.report.carried_count.saturating_sub(1);
        }
    }
    true
}

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

/// Counts the TLS directives in use, and remarks on the others.
pub(super) fn finish_tls(context: &mut ImportContext) {
    for directive in std::mem::take(&mut context.deferred.tls) {
        if context.deferred.used_tls_lines.contains(&directive.source_line()) {
            context.report.carried_count += 1;
        } else {
            context.report.add_not_needed(&directive, "no imported TLS address or pool uses it");
        }
    }
}
