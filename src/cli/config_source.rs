//! The configuration that the arguments name.

use std::fs;
use std::path::Path;

use crate::config::{self, LoadedConfig, Settings};
use crate::tls::TlsStore;

/// Loads a configuration file, overridden by the environment.
///
/// *Errors*: the file cannot be read, or is wrong.
pub(super) fn load_file(path: &Path) -> Result<LoadedConfig, String> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read {name}: {error}"))?;
    config::load(&text, &name, environment()).map_err(|report| report.to_string())
}

/// Loads a configuration whose replicas are `urls`, overridden by the environment.
///
/// *Errors*: a URL or a variable is wrong.
pub(super) fn load_urls(urls: &[String]) -> Result<LoadedConfig, String> {
    config::from_urls(urls, environment()).map_err(|report| report.to_string())
}

/// Reads the certificates, keys and issuers that a configuration names.
///
/// *Errors*: the first that cannot be used, with the place that names it.
pub(super) fn check_files(loaded: &LoadedConfig) -> Result<(), String> {
    let Settings { tls, routes, pools, .. } = &loaded.settings;
    let Err(error) = TlsStore::read(tls, routes, pools) else { return Ok(()) };
    Err(loaded.file_error(&error.path, error.to_string(), &error.help).to_string())
}

/// Returns the environment without variables that are not Unicode, which override no key.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}
