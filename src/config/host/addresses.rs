//! The addresses to listen at: those at the top and those of hosts.

use super::draft::HostDraft;
use crate::config::build_context::BuildContext;
use crate::config::diagnostics::SpannedValue;
use crate::routes::{HostListen, ListenAddr, wildcard_covers};

/// Returns all addresses. `top` are those at the top; they are left out if no host needs them.
pub(super) fn collect_addresses(
    top: &[ListenAddr],
    needs_top: bool,
    hosts: &[HostDraft],
    context: &mut BuildContext,
) -> Vec<ListenAddr> {
    let mut all: Vec<ListenAddr> = if needs_top { top.to_vec() } else { Vec::new() };
    for SpannedValue { value: HostListen { address, .. }, span } in hosts.iter().flat_map(|host| &host.listens) {
        match all.iter().find(|known| known.has_same_address(address)) {
            Some(known) if known == address => {}
            Some(known) => {
                let issue = span.diagnostic(format!("`{address}` is also given as `{known}`"));
                context.errors.push(issue.with_help("write `ssl` at all places of an address, or at none"));
            }
            None => all.push(address.clone()),
        }
    }
    // A wildcard address accepts the connections to each address of the machine.
    let is_covered = |listen: &ListenAddr| {
        let covers = |other: &ListenAddr| Some(wildcard_covers(other.socket_addr()?, listen.socket_addr()?));
        all.iter().any(|other| covers(other) == Some(true))
    };
    all.iter().filter(|listen| !is_covered(listen)).cloned().collect()
}
