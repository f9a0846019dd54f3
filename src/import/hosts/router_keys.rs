//! The keys that nginx has for each server and the router once.

use crate::import::blocks::NginxServer;
use crate::import::context::ImportContext;
use crate::import::report::RemarkKind;
use crate::import::scoped_keys::{ROUTER_KEYS, RankedValue};

/// Sets each key to the most permissive value of the servers, and remarks on the others.
pub(super) fn choose_router_keys(context: &mut ImportContext, servers: &[&NginxServer]) {
    for (key, default_rank) in ROUTER_KEYS {
        let given: Vec<&RankedValue> = servers.iter().filter_map(|server| server.router_keys.get(key)).collect();
        // `large_client_header_buffers` sets two keys; one remark is enough.
        let is_main = key != "limits.uri_bytes";
        let greatest = given.iter().max_by_key(|value| value.rank).copied();
        let greatest = greatest.filter(|value| given.len() == servers.len() || value.rank >= default_rank);
        let mut reported = Vec::new();
        for value in given.iter().filter(|value| is_main && Some(value.rank) != greatest.map(|greatest| greatest.rank))
        {
            if reported.contains(&&value.source_line) {
                continue;
            }
            reported.push(&value.source_line);
            let winner = match greatest {
                Some(winner) => {
                    format!(
                        "that of {}:{}, {}",
                        winner.source_line.file, winner.source_line.line, winner.directive_text
                    )
                }
                None => "nginx's default, which other servers have".to_owned(),
            };
            context.report.carried_count = context.report.carried_count.saturating_sub(1);
            let reason = format!("the router has one value for all servers: {winner}");
            let (text, line) = (value.directive_text.clone(), value.source_line.clone());
            context.report.add_remark_at(RemarkKind::Impossible, text, line, reason);
        }
        if let Some(value) = greatest {
            context.settings.insert(key, value.clone());
        }
    }
}
