//! The paths below a pool's path that must stay refused.

use crate::import::blocks::NginxServer;

/// Returns the paths below `path`, of a pool of this server, that nginx sends to no replica, with their statuses.
///
/// `is_proxied` says for each of the server's locations whether it leads to replicas.
pub(super) fn collect_blocked_paths(
    server: &NginxServer,
    is_proxied: &[bool],
    path: &str,
    is_exact: bool,
) -> Vec<(String, u16)> {
    let mut all = Vec::new();
    let refused = server.locations.iter().zip(is_proxied).filter(|(location, is_proxied)| {
        !**is_proxied && location.path.starts_with(path) && !(is_exact && location.path == path)
    });
    for (location, _) in refused {
        let sign = if location.is_exact { "= " } else { "" };
        all.push((format!("{sign}{}", location.path), location.blocked_status.unwrap_or(404)));
    }
    // Below an exact path the enclosing location is in force.
    let below = format!("{}/", path.trim_end_matches('/'));
    if is_exact && path != "/" && !all.iter().any(|(path, _)| *path == below) {
        let enclosing =
            server.locations.iter().zip(is_proxied).filter(|(l, _)| !l.is_exact && below.starts_with(&l.path));
        match enclosing.max_by_key(|(location, _)| location.path.len()) {
            Some((_, true)) => {}
            Some((location, false)) => all.push((below, location.blocked_status.unwrap_or(404))),
            None => all.push((below, 404)),
        }
    }
    all.sort();
    all.dedup();
    all
}
