//! Floor 3: another router's configuration, read and written anew as router.toml.
//!
//! Every directive of nginx's is carried over, or listed in a comment with its line and the reason why not; nothing is
//! dropped in silence. What becomes of which is one table, `rules`.

mod context;
mod directives;
mod pool_builder;
mod report;
mod syntax;
#[cfg(test)]
mod tests;
mod toml_writer;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

pub use report::{ImportRemark, RemarkKind};

use crate::config::{self, Diagnostics, Span};
use context::{BlockScope, ImportContext};
use report::ImportReport;
use syntax::parser::NginxParser;

/// How files are read; no other I/O happens.
#[derive(Clone, Copy)]
pub struct FileAccess<'a> {
    /// Reads a file.
    pub read: &'a dyn Fn(&Path) -> io::Result<String>,
    /// Lists the names in a folder, in any order; the empty path is the current folder.
    pub list: &'a dyn Fn(&Path) -> io::Result<Vec<String>>,
}

/// A configuration that was imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedConfig {
    /// router.toml, the remarks as comments at its end. [`config::load`] takes it.
    pub toml: String,
    /// The directives that were not carried over as they stand, and suggestions, in the order of the files.
    pub remarks: Vec<ImportRemark>,
    /// How many directives were carried over.
    pub carried_count: usize,
}

impl fmt::Display for ImportedConfig {
    /// `3 carried, 4 not needed, 1 not yet`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&toml_writer::format_summary(self.carried_count, &self.remarks))
    }
}

/// Imports nginx's configuration from its main file; a file with `upstream` and `server` alone will do as well.
///
/// Included paths are relative to the main file's folder; a missing one is a remark.
/// *Errors*: what nginx would not take either, such as unknown directives and open blocks (at most 50 are told), and a
/// configuration in which nothing passes requests on. At most 1,000 files and 32 MiB are read.
pub fn from_nginx(path: &Path, files: &FileAccess<'_>) -> Result<ImportedConfig, Diagnostics> {
    let name = path.display().to_string();
    let whole = Span::from_text(name.clone(), "");
    let text = (files.read)(path).map_err(|error| {
        let issue = whole.diagnostic(format!("cannot be read: {error}")).without_excerpt();
        Diagnostics::new(&name, vec![issue])
    })?;
    let mut notes = ImportReport::default();
    let directives = NginxParser::new(path, files, &mut notes).parse_file(path, &text, 0);
    let broken = !notes.diagnostics.is_empty();
    let mut walk = ImportContext::new(notes);
    walk.tls.folder = path.parent().map(Path::to_owned).unwrap_or_default();
    // Behind a slip of syntax everything looks wrong.
    if !broken {
        walk.read_block(&directives, BlockScope::Main);
        directives::logs::finish_log_formats(&mut walk);
        directives::gzip::finish_gzip(&mut walk);
    }
    let (pools, listens) = pool_builder::build_pools(&mut walk);
    if walk.report.diagnostics.is_empty() && pools.is_empty() {
        let issue = whole.diagnostic("nothing here passes requests to a replica").without_excerpt();
        walk.report.add_diagnostic(issue.with_help("a `location` with `proxy_pass http://...;` is needed"));
    }
    if !walk.report.diagnostics.is_empty() {
        return Err(Diagnostics::new(&name, walk.report.diagnostics));
    }
    let toml = toml_writer::write_toml(&walk, &name, &pools, &listens);
    // Whatever slipped through must not be found out by who starts the router.
    config::load(&toml, "router.toml", [])?;
    Ok(ImportedConfig { toml, remarks: walk.report.remarks, carried_count: walk.report.carried_count })
}

/// Imports nginx's configuration from the disk.
///
/// *Errors*: as [`from_nginx`].
pub fn from_nginx_file(path: &Path) -> Result<ImportedConfig, Diagnostics> {
    let read = |path: &Path| match std::fs::metadata(path)?.is_file() {
        true => std::fs::read_to_string(path),
        false => Err(io::Error::other("it is no file")),
    };
    let list = |folder: &Path| {
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() };
        let names = std::fs::read_dir(folder)?.flatten();
        Ok(names.filter_map(|entry| entry.file_name().into_string().ok()).collect())
    };
    from_nginx(path, &FileAccess { read: &read, list: &list })
}
