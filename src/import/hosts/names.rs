//! The names that each server has at its addresses.
//!
//! A name belongs to the first server of an address that has it; nginx ignores it in the others. It compares exact
//! names first, then wildcards at the beginning, then those at the end, and regular expressions last.

use std::collections::BTreeMap;

use super::addresses::ServedAddress;
use crate::import::blocks::{NginxServer, NginxServerName};
use crate::import::context::ImportContext;
use crate::import::report::RemarkKind;
use crate::routes::ListenAddr;

/// The names and addresses of a server that requests can reach.
pub(super) struct ServerPlace<'a> {
    /// Empty: only requests that no other server takes.
    pub(super) names: Vec<String>,
    pub(super) addresses: Vec<&'a ServedAddress>,
}

/// Returns the names and addresses of each server; `None` if nginx chooses it for no request.
pub(super) fn place_servers<'a>(
    context: &mut ImportContext,
    servers: &[NginxServer],
    served: &'a [Vec<ServedAddress>],
) -> Vec<Option<ServerPlace<'a>>> {
    let names = claim_names(context, servers, served);
    report_overlaps(context, servers, served);
    let mut places = Vec::new();
    for ((server, addresses), names) in servers.iter().zip(served).zip(&names) {
        let reachable: Vec<(&ServedAddress, &Vec<String>)> =
            addresses.iter().zip(names).filter(|(at, names)| at.is_default || !names.is_empty()).collect();
        let is_default = reachable.iter().all(|(at, _)| at.is_default);
        // A default server takes requests without a name anyway.
        let visible = |names: &[String]| -> Vec<String> {
            names.iter().filter(|name| !(is_default && name.is_empty())).cloned().collect()
        };
        let Some((_, first)) = reachable.first() else {
            places.push(None);
            continue;
        };
        if reachable.iter().any(|(_, names)| visible(names) != visible(first)) {
            let span = server.names.first().map_or(&server.directive.name.span, |name| &name.span);
            let issue = span.diagnostic("another server has some of these names, at some of the addresses");
            context.report.add_diagnostic(issue.with_help("write a server for each address"));
        }
        let addresses = reachable.iter().map(|(at, _)| *at).collect();
        places.push(Some(ServerPlace { names: visible(first), addresses }));
    }
    places
}

/// Returns the names of each server at each of its addresses, without those of earlier servers.
fn claim_names(
    context: &mut ImportContext,
    servers: &[NginxServer],
    served: &[Vec<ServedAddress>],
) -> Vec<Vec<Vec<String>>> {
    let mut owners: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut all = Vec::new();
    for (index, (server, addresses)) in servers.iter().zip(served).enumerate() {
        let mut lost: Vec<&NginxServerName> = Vec::new();
        let mut at_addresses = Vec::new();
        for at in addresses {
            let place = address_text(&at.address);
            let mut names = Vec::new();
            let is_unnamed = server.names.is_empty().then_some((String::new(), None));
            for (name, source) in server.names.iter().map(|name| (name.text.clone(), Some(name))).chain(is_unnamed) {
                let forms = name_forms(&name).into_iter().map(|form| (place.clone(), form)).collect::<Vec<_>>();
                if forms.iter().any(|form| owners.get(form).is_some_and(|owner| *owner != index)) {
                    lost.extend(source.filter(|source| !lost.iter().any(|known| known.text == source.text)));
                    continue;
                }
                owners.extend(forms.into_iter().map(|form| (form, index)));
                names.push(name);
            }
            at_addresses.push(names);
        }
        for name in lost {
            let reason = "nginx ignores it: an earlier server at this address has the name".to_owned();
            let subject = format!("server_name {};", name.text);
            context.report.add_remark_at(RemarkKind::NotNeeded, subject, name.source_line.clone(), reason);
        }
        all.push(at_addresses);
    }
    all
}

/// Returns the names that a name stands for: `.example` is `example` and `*.example`.
fn name_forms(name: &str) -> Vec<String> {
    match name.strip_prefix('.') {
        Some(domain) => vec![domain.to_owned(), format!("*.{domain}")],
        None => vec![name.to_owned()],
    }
}

fn address_text(address: &ListenAddr) -> String {
    match address {
        ListenAddr::Tcp(address) | ListenAddr::Tls(address) => address.to_string(),
        ListenAddr::Unix(_) => address.to_string(),
    }
}

/// Reports the patterns that nginx would try after a name of another server, and the router before it.
fn report_overlaps(context: &mut ImportContext, servers: &[NginxServer], served: &[Vec<ServedAddress>]) {
    for (index, (server, addresses)) in servers.iter().zip(served).enumerate() {
        let is_shared = |at: &ServedAddress| addresses.iter().any(|own| own.address.has_same_address(&at.address));
        for name in server.names.iter().filter(|name| name.is_pattern) {
            let others = servers.iter().zip(served).enumerate().filter(|(other, _)| *other != index);
            let mut others = others.filter(|(_, (_, at))| at.iter().any(is_shared)).flat_map(|(_, (s, _))| &s.names);
            if let Some(other) = others.find(|other| misorders(name, other)) {
                let message = format!("this pattern and `{}` of another server match the same names", other.text);
                let issue = name.span.diagnostic(message);
                context.report.add_diagnostic(issue.with_help("write the names that it stands for"));
            }
        }
    }
}

/// Returns whether the router would choose between a pattern's name and another name otherwise than nginx.
fn misorders(pattern: &NginxServerName, other: &NginxServerName) -> bool {
    let longer_wildcard = other.text.len() > pattern.text.len() && other.text.starts_with("*.");
    let wins_in_both = !other.is_pattern
        && (!other.text.contains('*') && !other.text.starts_with('.') && pattern.text.starts_with("*.")
            || longer_wildcard && pattern.text.starts_with("*."));
    !wins_in_both && name_forms(&other.text).iter().any(|form| may_overlap(&pattern.text, form))
}

/// Returns whether two names, each with at most one wildcard, may match the same.
fn may_overlap(one: &str, other: &str) -> bool {
    match (one.strip_prefix('*'), other.strip_prefix('*'), one.strip_suffix('*'), other.strip_suffix('*')) {
        (Some(one), Some(other), ..) => one.ends_with(other) || other.ends_with(one),
        (_, _, Some(one), Some(other)) => one.starts_with(other) || other.starts_with(one),
        (Some(_), _, _, Some(_)) | (_, Some(_), Some(_), _) => true,
        (Some(end), None, _, None) => other.ends_with(end),
        (None, Some(end), None, _) => one.ends_with(end),
        (None, None, Some(start), None) => other.starts_with(start),
        (None, None, None, Some(start)) => one.starts_with(start),
        (None, None, None, None) => one == other,
    }
}
