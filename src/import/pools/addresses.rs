//! The addresses that lead to pools.

use std::net::SocketAddr;

use super::tls;
use crate::import::blocks::{NginxListen, NginxServer};
use crate::import::context::ImportContext;
use crate::import::report::RemarkKind;
use crate::routes::ListenAddr;

/// Returns the address of a server without `listen`.
fn default_listen_address() -> ListenAddr {
    ListenAddr::Tcp(SocketAddr::from(([0, 0, 0, 0], 80)))
}

/// Returns whether server `index` is nginx's default server at one of its addresses.
pub(super) fn is_default_server(servers: &[NginxServer], index: usize) -> bool {
    let listens_at = |server: &NginxServer, address: &ListenAddr| match server.listens.as_slice() {
        [] => *address == default_listen_address(),
        listens => listens.iter().any(|listen| listen.address == *address),
    };
    let explicit = |address: &ListenAddr| {
        servers.iter().position(|s| s.listens.iter().any(|listen| listen.is_default && listen.address == *address))
    };
    let default_at = |address: &ListenAddr| {
        explicit(address).or_else(|| servers.iter().position(|server| listens_at(server, address)))
    };
    match servers.get(index).map(|server| server.listens.as_slice()) {
        None => false,
        Some([]) => default_at(&default_listen_address()) == Some(index),
        Some(listens) => listens.iter().any(|listen| default_at(&listen.address) == Some(index)),
    }
}

/// Remarks on the addresses that lead to some of the servers in nginx.
pub(super) fn report_exclusive_addresses(context: &mut ImportContext, serving: &[&NginxServer]) {
    let addresses = |server: &NginxServer| -> Vec<ListenAddr> {
        if server.listens.is_empty() {
            return vec![default_listen_address()];
        }
        server.listens.iter().filter(|listen| listen.is_supported).map(|listen| listen.address.clone()).collect()
    };
    let Some((first, others)) = serving.split_first() else { return };
    let common = addresses(first);
    for server in others {
        for NginxListen { directive_text, source_line, .. } in
            server.listens.iter().filter(|l| l.is_supported && !common.contains(&l.address))
        {
            let reason = "every address serves all servers; only host and path select one".to_owned();
            context.report.add_remark_at(RemarkKind::Impossible, directive_text.clone(), source_line.clone(), reason);
        }
    }
}

/// Returns the addresses of these servers, without those that a wildcard address covers.
pub(super) fn collect_addresses(serving: &[&NginxServer]) -> Vec<ListenAddr> {
    let mut all: Vec<ListenAddr> = Vec::new();
    for server in serving {
        let listens = server.listens.iter().filter(|listen| listen.is_supported).map(|listen| listen.address.clone());
        let default = server.listens.is_empty().then(default_listen_address);
        for address in listens.chain(default) {
            if !all.contains(&address) {
                all.push(address);
            }
        }
    }
    let is_covered = |address: &ListenAddr| {
        let Some(address) = address.socket_addr() else { return false };
        all.iter().filter_map(ListenAddr::socket_addr).any(|other| {
            let is_wildcard = other.ip().is_unspecified() && other.is_ipv4() == address.is_ipv4();
            is_wildcard && other.port() == address.port() && other != address
        })
    };
    let with_tls = |address: &ListenAddr| match address {
        ListenAddr::Tcp(plain) if tls::is_tls_address(serving, address) => ListenAddr::Tls(*plain),
        address => address.clone(),
    };
    all.iter().filter(|address| !is_covered(address)).map(with_tls).collect()
}
