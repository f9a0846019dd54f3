//! `tokenweir check`: is the configuration good?

use super::tell;
use crate::config::Loaded;
use crate::tls::Keyring;

/// Says that a configuration is good, and what is odd about it.
pub(super) fn report(loaded: &Loaded) -> Result<(), String> {
    files(loaded)?;
    let mut out = std::io::stdout();
    for warning in &loaded.warnings {
        tell(&mut out, format_args!("{warning}\n"));
    }
    let pools = &loaded.settings.pools;
    let replicas: usize = pools.iter().map(|pool| pool.members.len()).sum();
    tell(&mut out, format_args!("configuration ok: {} pool(s), {replicas} replica(s)", pools.len()));
    Ok(())
}

/// Reads the certificates, keys and issuers that a configuration names.
///
/// *Errors*: the first that cannot be used, where it is named.
pub(super) fn files(loaded: &Loaded) -> Result<(), String> {
    let Err(bad) = Keyring::read(&loaded.settings.tls, &loaded.settings.pools) else { return Ok(()) };
    Err(loaded.blame(&bad.path, bad.to_string(), &bad.help).to_string())
}
