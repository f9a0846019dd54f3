//! The addresses of servers, and the server that nginx chooses at each.

use std::collections::BTreeMap;
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

/// What holds for all servers at an address.
#[derive(Default)]
struct AddressFacts<'a> {
    is_tls: bool,
    /// Whether some server asks for what the router cannot do.
    is_unsupported: bool,
    first_server: Option<usize>,
    /// The server that is marked as the default.
    marked: Option<(usize, &'a NginxListen)>,
}

impl AddressFacts<'_> {
    fn is_default(&self, server: usize) -> bool {
        self.marked.map_or(self.first_server == Some(server), |(marked, _)| marked == server)
    }
}

/// Returns the addresses of each server.
pub(super) fn served_addresses(context: &mut ImportContext, servers: &[NginxServer]) -> Vec<Vec<ServedAddress>> {
    let mut facts: BTreeMap<String, AddressFacts<'_>> = BTreeMap::new();
    for (index, server) in servers.iter().enumerate() {
        if !server.has_listen {
            facts.entry(default_address().to_string()).or_default().first_server.get_or_insert(index);
        }
        for listen in &server.listens {
            let fact = facts.entry(listen.address.to_string()).or_default();
            fact.first_server.get_or_insert(index);
            fact.is_tls |= listen.is_tls;
            fact.is_unsupported |= !listen.is_supported;
            if listen.is_default {
                match fact.marked {
                    None => fact.marked = Some((index, listen)),
                    Some((_, first)) => report_second_default(context, listen, first),
                }
            }
        }
    }
    let serve = |(index, server): (usize, &NginxServer)| {
        let own = server.listens.iter().map(|listen| listen.address.clone());
        let addresses = own.chain((!server.has_listen).then(default_address));
        let serve_at = |address: ListenAddr| {
            let fact = facts.get(&address.to_string()).filter(|fact| !fact.is_unsupported)?;
            let address = match address {
                ListenAddr::Tcp(plain) if fact.is_tls => ListenAddr::Tls(plain),
                address => address,
            };
            Some(ServedAddress { address, is_default: fact.is_default(index) })
        };
        addresses.filter_map(serve_at).collect()
    };
    servers.iter().enumerate().map(serve).collect()
}

/// Returns the address of a server without `listen`.
fn default_address() -> ListenAddr {
    ListenAddr::Tcp(SocketAddr::from(([0, 0, 0, 0], 80)))
}

fn report_second_default(context: &mut ImportContext, listen: &NginxListen, first: &NginxListen) {
    let issue = listen.directive.name.span.diagnostic(format!("a second default server at {}", listen.address));
    let line = first.directive.name.line;
    context.report.add_diagnostic(issue.with_help(format!("line {line} has `default_server` too")));
}
