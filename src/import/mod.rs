//! Layer 3: converts nginx's configuration to router.toml.
//!
//! Every directive is carried over, or listed in a comment with its line and the reason; none is dropped silently. The
//! table in `directives/table` has the rule for each directive; an unknown one stops the import.
//!
//! `syntax` parses the files, `driver` applies the table to each directive, `conditions` works out what `if` and `set`
//! mean for requests, the handlers collect blocks and keys in the `context`, `inheritance` says which keys are in force in a
//! block, `hosts` and `pools` build what router.toml has of servers and upstreams, and `toml_writer` writes the result.

mod blocks;
mod conditions;
mod context;
mod directives;
mod driver;
mod file_access;
mod guard;
mod hosts;
mod inheritance;
mod pools;
mod report;
mod scoped_keys;
mod syntax;
#[cfg(test)]
mod tests;
mod toml_text;
mod toml_writer;
mod unreached;

use std::fmt;
use std::path::Path;

pub use file_access::FileAccess;
pub use report::{ImportRemark, RemarkKind};

use crate::config::{self, Diagnostics, Span};
use context::ImportContext;
use directives::table;
use report::ImportReport;
use syntax::parser::NginxParser;

/// An imported configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedConfig {
    /// router.toml, with the remarks as comments at its end; valid for [`config::load`].
    pub toml: String,
    /// The directives that were not carried over as they stand, and suggestions, in the order of the files.
    pub remarks: Vec<ImportRemark>,
    /// The number of directives carried over.
    pub carried_count: usize,
}

impl fmt::Display for ImportedConfig {
    /// `3 carried, 4 not needed, 1 not yet`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&toml_writer::format_summary(self.carried_count, &self.remarks))
    }
}

/// Imports nginx's configuration from its main file, or from a file with `upstream` and `server` blocks only.
///
/// Included paths are relative to the main file's folder. At most 1,000 files and 32 MiB are read.
///
/// *Errors*: nginx would reject the configuration too (unknown directives, open blocks, missing files; at most 50 are
/// reported), a guard cannot be carried over, or no request reaches a replica.
pub fn from_nginx(path: &Path, files: &FileAccess<'_>) -> Result<ImportedConfig, Diagnostics> {
    let name = path.display().to_string();
    let whole = Span::from_text(name.clone(), "");
    let text = (files.read)(path).map_err(|error| {
        let issue = whole.diagnostic(format!("cannot be read: {error}")).without_excerpt();
        Diagnostics::new(&name, vec![issue])
    })?;
    let folder = path.parent().map(Path::to_owned).unwrap_or_default();
    let (directives, report) = parse_files(path, &text, files);
    // After a syntax error the blocks are wrong, and so would be all further errors.
    let is_broken = !report.diagnostics.is_empty();
    let mut context = ImportContext::new(report, folder);
    if !is_broken {
        driver::read_configuration(&mut context, &directives);
    }
    let routing = hosts::build_routing(&mut context);
    if context.report.diagnostics.is_empty() && routing.pools.is_empty() {
        let mut issues = unreached::explain_unreached(&directives);
        if issues.is_empty() {
            let issue = whole.diagnostic("no request reaches a replica").without_excerpt();
            issues.push(issue.with_help("a `location` with `proxy_pass http://...;` is needed"));
        }
        issues.into_iter().for_each(|issue| context.report.add_diagnostic(issue));
    }
    if !context.report.diagnostics.is_empty() {
        return Err(Diagnostics::new(&name, context.report.diagnostics));
    }
    let toml = toml_writer::write_toml(&context, &name, &routing);
    // An invalid result fails here, not when the router starts with it.
    config::load(&toml, "router.toml", [])?;
    let ImportReport { remarks, carried_count, .. } = context.report;
    Ok(ImportedConfig { toml, remarks, carried_count })
}

/// Imports nginx's configuration from the disk.
///
/// *Errors*: as [`from_nginx`].
pub fn from_nginx_file(path: &Path) -> Result<ImportedConfig, Diagnostics> {
    from_nginx(path, &FileAccess::disk())
}

fn parse_files(path: &Path, text: &str, files: &FileAccess<'_>) -> (Vec<syntax::directive::Directive>, ImportReport) {
    let is_directive = |name: &str| table::find_rule(name).is_some();
    let mut parser = NginxParser::new(path, files, &is_directive);
    let directives = parser.parse_file(path, text, 0);
    (directives, parser.into_report())
}
