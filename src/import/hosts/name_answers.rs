//! The hosts of a server, of which some names may have an answer of their own.

use super::addresses::ServedAddress;
use super::imported_host::{ImportedHost, ImportedRoute, RouteTarget};
use super::names::ServerPlace;
use crate::import::blocks::{NginxAnswer, NginxServer};
use crate::import::scoped_keys::ScopedKeys;
use crate::import::toml_text::quote_toml;

/// Returns the hosts of a server at its place. `whole` has its routes, but no names and addresses.
pub(super) fn split_host(server: &NginxServer, place: &ServerPlace<'_>, whole: ImportedHost) -> Vec<ImportedHost> {
    let mut hosts: Vec<ImportedHost> = Vec::new();
    let mut names = Vec::new();
    for name in &place.names {
        let Some((_, answer)) = server.name_answers.iter().find(|(known, _)| known == name) else {
            names.push(name.clone());
            continue;
        };
        let route = answer_route(server, answer);
        let has_route =
            |host: &&mut ImportedHost| host.routes.iter().any(|known| known.source_comment == route.source_comment);
        match hosts.iter_mut().find(has_route) {
            Some(host) => host.names.push(name.clone()),
            None => hosts.push(ImportedHost {
                names: vec![name.clone()],
                listens: listen_words(&place.addresses, false),
                routes: vec![route],
                ..whole.clone()
            }),
        }
    }
    let Some(answer) = &server.other_answer else {
        hosts.extend(host_of_others(place, names, whole));
        return hosts;
    };
    let is_wildcard = |name: &String| name.contains('*') || name.starts_with('.');
    let (others, own): (Vec<String>, Vec<String>) = names.into_iter().partition(is_wildcard);
    let answering = ImportedHost { routes: vec![answer_route(server, answer)], ..whole.clone() };
    if !own.is_empty() {
        hosts.push(ImportedHost { names: own, listens: listen_words(&place.addresses, false), ..whole });
    }
    hosts.extend(host_of_others(place, others, answering));
    hosts
}

/// Returns the host that has `names`, and all other names where the server is the default.
fn host_of_others(place: &ServerPlace<'_>, names: Vec<String>, host: ImportedHost) -> Option<ImportedHost> {
    let is_there = |at: &&&ServedAddress| at.is_default || !names.is_empty();
    let addresses: Vec<&ServedAddress> = place.addresses.iter().filter(is_there).copied().collect();
    let listens = listen_words(&addresses, !names.is_empty());
    (!listens.is_empty()).then_some(ImportedHost { names, listens, ..host })
}

fn answer_route(server: &NginxServer, answer: &NginxAnswer) -> ImportedRoute {
    let mut keys = ScopedKeys::default();
    if server.keys.get("keys").is_some() {
        // The answer comes before the condition that asks for them.
        keys.set("keys", quote_toml("none"));
    }
    ImportedRoute {
        path: "/".to_owned(),
        target: RouteTarget::Answer(answer.toml.clone()),
        replace_path: None,
        keys,
        source_comment: answer.directive.to_comment(),
    }
}

/// Returns addresses as a host writes them; `marks_default`: with the mark of the default server.
fn listen_words(addresses: &[&ServedAddress], marks_default: bool) -> Vec<String> {
    let mark = |at: &ServedAddress| if at.is_default && marks_default { " default_server" } else { "" };
    addresses.iter().map(|at| format!("{}{}", at.address, mark(at))).collect()
}
