//! Checks of the certificates for clients: those at the top and those of hosts.

use super::draft::HostDraft;
use crate::config::build_context::{BuildContext, SettingSpans};
use crate::config::diagnostics::Span;
use crate::config::settings::Settings;
use crate::routes::{ArrivalAddr, ListenAddr, RouteTable, ServerCertificates};

/// Checks that TLS addresses and certificates are given together, and a key for each certificate.
///
/// The routes are built.
pub(in crate::config) fn check_certificates(
    settings: &Settings,
    hosts: &[HostDraft],
    spans: &SettingSpans,
    context: &mut BuildContext,
) {
    let Settings { listen, tls, routes, .. } = settings;
    let top = spans.get(&("tls", "certificate")).or_else(|| spans.get(&("tls", "key")));
    for host in hosts {
        let files = host.certificates.chains.iter().chain(&host.certificates.keys);
        files.for_each(|file| context.referenced_files.add(&file.value, &file.span));
        check_count(host.certificates.chains.len(), host.certificates.keys.len(), &host.certificates.span, context);
    }
    check_count(tls.chains.len(), tls.keys.len(), &top.cloned(), context);
    let has_errors = !context.errors.is_empty();

    let listens = hosts.iter().flat_map(|host| &host.listens).map(|listen| (&listen.value.address, Some(&listen.span)));
    let mut addresses: Vec<(&ListenAddr, Option<&Span>)> = Vec::new();
    for (address, span) in listen.iter().map(|address| (address, None)).chain(listens) {
        match addresses.iter_mut().find(|(known, _)| known == &address) {
            Some((_, place)) => *place = place.or(span),
            None => addresses.push((address, span)),
        }
    }
    addresses.retain(|(address, _)| matches!(address, ListenAddr::Tls(_)));
    for (_, span) in addresses.iter().filter(|(address, _)| tls.chains.is_empty() && !has_certificate(routes, address))
    {
        let place = span.or_else(|| spans.get(&("tls", "certificate"))).or_else(|| spans.get(&("", "listen")));
        let Some(place) = place else { continue };
        let issue = place.diagnostic("a TLS listener needs a certificate");
        context.errors.push(issue.with_help(match (span, spans.get(&("tls", "certificate"))) {
            (None, Some(_)) => "name a PEM file",
            (None, None) => "write [tls], certificate = \"/path/cert.pem\" and key = \"/path/key.pem\" below it",
            (Some(_), _) => {
                "write certificate = \"/path/cert.pem\" and key = \"/path/key.pem\" into a host of this address, or into \
                 `[tls]`"
            }
        }));
    }
    if has_errors {
        return;
    }
    let unused = hosts.iter().filter(|host| !host.certificates.chains.is_empty()).filter(|host| {
        let has_tls = |address: &ListenAddr| matches!(address, ListenAddr::Tls(_));
        match host.listens.as_slice() {
            [] => !listen.iter().any(has_tls),
            listens => !listens.iter().any(|listen| has_tls(&listen.value.address)),
        }
    });
    let top = top.filter(|_| addresses.is_empty() && !tls.chains.is_empty());
    for span in unused.filter_map(|host| host.certificates.span.as_ref()).chain(top) {
        let warning = span.diagnostic("warning: the certificate is unused, no `listen` address has `ssl`");
        context.warnings.push(warning.with_help("write `ssl` after an address: listen = \"443 ssl\""));
    }
}

fn check_count(chains: usize, keys: usize, span: &Option<Span>, context: &mut BuildContext) {
    if let Some(span) = span.as_ref().filter(|_| chains != keys) {
        let issue = span.diagnostic(format!("{chains} certificate(s) and {keys} key(s)"));
        context.errors.push(issue.with_help("`key` names a file for each of `certificate`, in the same order"));
    }
}

/// Returns whether a host at an address has a certificate of its own.
fn has_certificate(routes: &RouteTable, address: &ListenAddr) -> bool {
    let index = routes.find_address(&ArrivalAddr { listen: address.clone(), local: None });
    let certificates: Vec<&ServerCertificates> = routes.certificates().collect();
    let at_address = routes.tls_addresses().into_iter().filter(|(known, _)| Some(*known) == index);
    let mut hosts = at_address.flat_map(|(_, hosts)| hosts);
    hosts.any(|host| certificates.get(host).is_some_and(|certificates| !certificates.chains.is_empty()))
}
