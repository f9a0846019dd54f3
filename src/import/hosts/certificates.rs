//! The certificates of servers.

use super::addresses::ServedAddress;
use super::imported_host::CertificateFiles;
use crate::import::blocks::NginxServer;
use crate::import::context::ImportContext;
use crate::import::directives::access_rules::report_guard;
use crate::import::syntax::directive::Directive;
use crate::routes::ListenAddr;

/// Removes the TLS addresses whose default server has no certificate: no client could connect.
pub(super) fn remove_unusable_addresses(
    context: &mut ImportContext,
    servers: &[NginxServer],
    served: &mut [Vec<ServedAddress>],
) {
    let mut unusable: Vec<ListenAddr> = Vec::new();
    for (server, addresses) in servers.iter().zip(served.iter()) {
        let has_none = server.certificates.chains.is_empty() || server.certificates.keys.is_empty();
        let has_none = has_none && server.rejecting.is_none();
        let defaults = addresses.iter().filter(|at| at.is_default && has_none).map(|at| &at.address);
        unusable.extend(defaults.filter(|address| matches!(address, ListenAddr::Tls(_))).cloned());
    }
    for (server, addresses) in servers.iter().zip(served) {
        addresses.retain(|at| !unusable.contains(&at.address));
        let is_unusable = |address: &ListenAddr| unusable.iter().any(|other| other.has_same_address(address));
        for listen in server.listens.iter().filter(|listen| is_unusable(&listen.address)) {
            let reason = "its default server has no ssl_certificate with its key, so the address is left out";
            context.report.add_impossible(&listen.directive, reason);
        }
    }
}

/// Reports `ssl_reject_handshake` at addresses that lead to replicas: with the name of another server in `Host`, a client
/// whose handshake nginx refuses would reach them.
pub(super) fn report_rejected_handshakes(
    context: &mut ImportContext,
    servers: &[NginxServer],
    served: &[Vec<ServedAddress>],
) {
    for (server, addresses) in servers.iter().zip(served) {
        let Some(directive) = &server.rejecting else { continue };
        let tls = |at: &&ServedAddress| matches!(at.address, ListenAddr::Tls(_));
        let shares = |others: &[ServedAddress]| {
            addresses.iter().filter(tls).any(|at| others.iter().any(|other| other.address == at.address))
        };
        if servers.iter().zip(served).any(|(other, others)| other.leads_to_replicas() && shares(others)) {
            report_guard(context, directive, "the router accepts every TLS handshake");
        }
    }
}

/// Returns the certificates of a server with a TLS address.
pub(super) fn server_certificates(context: &mut ImportContext, server: &NginxServer) -> CertificateFiles {
    let mut files = CertificateFiles::default();
    for (chain, key) in server.certificates.chains.iter().zip(&server.certificates.keys) {
        files.chains.push(context.resolve_path(chain.arg(0)));
        files.keys.push(context.resolve_path(key.arg(0)));
        context.deferred.used_tls_lines.extend([chain.source_line(), key.source_line()]);
    }
    files
}

/// Counts the TLS directives in use, and remarks on the others.
pub(super) fn finish_tls(context: &mut ImportContext) {
    let all: Vec<Directive> = std::mem::take(&mut context.deferred.tls);
    for directive in all {
        if context.deferred.used_tls_lines.contains(&directive.source_line()) {
            context.report.carried_count += 1;
        } else {
            context.report.add_not_needed(&directive, "no imported TLS address or pool uses it");
        }
    }
}
