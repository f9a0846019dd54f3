//! `tokenweir check`: checks a configuration.

use super::args::CheckArgs;
use super::config_source::{check_files, load_file};
use super::output::print_line;
use crate::config::LoadedConfig;

/// Checks a configuration file and prints its warnings and a summary.
///
/// *Errors*: the configuration is wrong, or a file that it names.
pub(super) fn run(args: &CheckArgs) -> Result<(), String> {
    print_report(&load_file(&args.config)?)
}

/// Checks the files that a configuration names, and prints its warnings and a summary.
///
/// *Errors*: such a file cannot be used.
pub(super) fn print_report(loaded: &LoadedConfig) -> Result<(), String> {
    check_files(loaded)?;
    for warning in &loaded.warnings {
        print_line(format_args!("{warning}\n"));
    }
    let pools = &loaded.settings.pools;
    let replicas: usize = pools.iter().map(|pool| pool.members.len()).sum();
    print_line(format_args!("configuration ok: {} pool(s), {replicas} replica(s)", pools.len()));
    Ok(())
}
