//! `tokenweir check`: is the configuration good?

use super::tell;
use crate::config::Loaded;

/// Says that a configuration is good, and what is odd about it.
pub(super) fn report(loaded: &Loaded) -> Result<(), String> {
    let mut out = std::io::stdout();
    for warning in &loaded.warnings {
        tell(&mut out, format_args!("{warning}\n"));
    }
    let pools = &loaded.settings.pools;
    let replicas: usize = pools.iter().map(|pool| pool.members.len()).sum();
    tell(&mut out, format_args!("configuration ok: {} pool(s), {replicas} replica(s)", pools.len()));
    Ok(())
}
