//! `tokenweir check`: checks a configuration.

use super::args::CheckArgs;
use super::config_source::{check_files, load_file};
use super::output::print_line;
use crate::config::LoadedConfig;
use crate::routes::RouteLine;

/// Checks a configuration file and prints its warnings and a summary.
///
/// *Errors*: the configuration is wrong, or a file that it names.
pub(super) fn run(args: &CheckArgs) -> Result<(), String> {
    let loaded = load_file(&args.config)?;
    if args.routes {
        print_routes(&loaded.settings.route_lines());
    }
    print_report(&loaded)
}

/// Prints the routes as a table.
fn print_routes(lines: &[RouteLine]) {
    let rows = || std::iter::once(RouteLine::TITLES).chain(lines.iter().map(RouteLine::columns));
    let mut widths = [0; RouteLine::TITLES.len()];
    for row in rows() {
        widths.iter_mut().zip(row).for_each(|(width, text)| *width = (*width).max(text.chars().count()));
    }
    for row in rows() {
        let cells = row.iter().zip(widths).map(|(text, width)| format!("{text:width$}"));
        print_line(format_args!("{}", cells.collect::<Vec<_>>().join("  ").trim_end()));
    }
    print_line(format_args!(""));
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
