//! The addresses of servers, and the server that nginx chooses at each.

use std::net::SocketAddr;

use crate::import::blocks::{NginxListen, NginxServer};
use crate::import::context::ImportContext;
use crate::routes::ListenAddr;

/// An address of a server.
pub(super) struct ServedAddress {
    pub(super) address: ListenAddr,
    /// Whether the server takes the names that no server at the address has.
    pub(super) is_default: bool,
}

/// Returns the addresses of each server.
pub(super) fn served_addresses(context: &mut ImportContext, servers: &[NginxServer]) -> Vec<Vec<ServedAddress>> {
    let listens: Vec<&NginxListen> = servers.iter().flat_map(|server| &server.listens).collect();
    // What the router cannot do at an address holds for all servers there.
    let is_supported =
        |address: &ListenAddr| listens.iter().all(|listen| listen.address != *address || listen.is_supported);
    let is_tls = |address: &ListenAddr| listens.iter().any(|listen| listen.address == *address && listen.is_tls);
    let addresses = |server: &NginxServer| -> Vec<ListenAddr> {
        if !server.has_listen {
            return vec![ListenAddr::Tcp(SocketAddr::from(([0, 0, 0, 0], 80)))];
        }
        server.listens.iter().map(|listen| listen.address.clone()).filter(|address| is_supported(address)).collect()
    };
    report_duplicate_defaults(context, &listens);
    let default_at = |address: &ListenAddr| {
        let is_marked = |server: &NginxServer| server.listens.iter().any(|l| l.is_default && l.address == *address);
        let marked = servers.iter().position(is_marked);
        marked.or_else(|| servers.iter().position(|server| addresses(server).contains(address)))
    };
    let serve = |(index, server): (usize, &NginxServer)| {
        let serve_at = |address: ListenAddr| {
            let is_default = default_at(&address) == Some(index);
            let address = match address {
                ListenAddr::Tcp(plain) if is_tls(&address) => ListenAddr::Tls(plain),
                address => address,
            };
            ServedAddress { address, is_default }
        };
        addresses(server).into_iter().map(serve_at).collect()
    };
    servers.iter().enumerate().map(serve).collect()
}

fn report_duplicate_defaults(context: &mut ImportContext, listens: &[&NginxListen]) {
    for (index, listen) in listens.iter().enumerate().filter(|(_, listen)| listen.is_default) {
        let earlier = listens.iter().take(index).find(|other| other.is_default && other.address == listen.address);
        if let Some(earlier) = earlier {
            let line = earlier.directive.name.line;
            let issue = listen.directive.name.span.diagnostic(format!("a second default server at {}", listen.address));
            context.report.add_diagnostic(issue.with_help(format!("line {line} has `default_server` too")));
        }
    }
}
