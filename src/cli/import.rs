//! `tokenweir import`: converts nginx's configuration.

use std::fs;
use std::io::{self, Write};

use super::args::ImportArgs;
use super::output::print_error;
use crate::import;

/// Writes router.toml, and a summary of the converted directives to standard error.
///
/// *Errors*: nginx would refuse the configuration, or the file cannot be written.
pub(super) fn run(args: &ImportArgs) -> Result<(), String> {
    let imported = import::from_nginx_file(&args.file).map_err(|report| report.to_string())?;
    match &args.out {
        None => io::stdout().write_all(imported.toml.as_bytes()).map_err(|error| error.to_string())?,
        Some(out) => {
            fs::write(out, &imported.toml).map_err(|error| format!("cannot write {}: {error}", out.display()))?;
        }
    }
    let details = if imported.remarks.is_empty() { "" } else { "; details are in the comments at the end" };
    print_error(format_args!("{}: {imported}{details}", args.file.display()));
    Ok(())
}
