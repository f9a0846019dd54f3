//! `tokenweir import`: nginx's configuration as ours.

use std::io::Write;

use super::{ImportArgs, print_line};
use crate::import;

/// Writes router.toml, and how much of the configuration is in it to standard error.
pub(super) fn run(args: &ImportArgs) -> Result<(), String> {
    let file = args.file.display();
    let imported = import::from_nginx_file(&args.file).map_err(|report| report.to_string())?;
    match &args.out {
        None => std::io::stdout().write_all(imported.toml.as_bytes()).map_err(|error| error.to_string())?,
        Some(out) => std::fs::write(out, &imported.toml)
            .map_err(|error| format!("{} cannot be written: {error}", out.display()))?,
    }
    let more = if imported.remarks.is_empty() { "" } else { "; the comments at the end tell more" };
    print_line(&mut std::io::stderr(), format_args!("{file}: {imported}{more}"));
    Ok(())
}
