//! `tokenweir check`: is the configuration good?

use super::print_line;
use crate::config::LoadedConfig;
use crate::tls::TlsStore;

/// Says that a configuration is good, and what is odd about it.
pub(super) fn print_report(loaded: &LoadedConfig) -> Result<(), String> {
    check_files(loaded)?;
    let mut out = std::io::stdout();
    for warning in &loaded.warnings {
        print_line(&mut out, format_args!("{warning}\n"));
    }
    let pools = &loaded.settings.pools;
    let replicas: usize = pools.iter().map(|pool| pool.members.len()).sum();
    print_line(&mut out, format_args!("configuration ok: {} pool(s), {replicas} replica(s)", pools.len()));
    Ok(())
}

/// Reads the certificates, keys and issuers that a configuration names.
///
/// *Errors*: the first that cannot be used, where it is named.
pub(super) fn check_files(loaded: &LoadedConfig) -> Result<(), String> {
    let Err(bad) = TlsStore::read(&loaded.settings.tls, &loaded.settings.pools) else { return Ok(()) };
    Err(loaded.file_error(&bad.path, bad.to_string(), &bad.help).to_string())
}
