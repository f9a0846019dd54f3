//! Floor 3: another router's configuration, read and written anew as router.toml.
//!
//! Every directive of nginx's is carried over, or listed in a comment with its line and the reason why not; nothing is
//! dropped in silence. What becomes of which is one table, `rules`.

mod glob;
mod guards;
mod gzip;
mod headers;
mod lex;
mod logs;
mod pools;
mod remark;
mod rules;
mod server;
mod sticky;
#[cfg(test)]
mod tests;
mod tls;
mod tree;
mod upstream;
mod walk;
mod write;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

pub use remark::{Kind, Remark};

use crate::config::{self, Place, Report};
use remark::Notes;
use tree::Loader;
use walk::{Scope, Walk};

/// How files are read; no other I/O happens.
#[derive(Clone, Copy)]
pub struct Files<'a> {
    /// Reads a file.
    pub read: &'a dyn Fn(&Path) -> io::Result<String>,
    /// Lists the names in a folder, in any order; the empty path is the current folder.
    pub list: &'a dyn Fn(&Path) -> io::Result<Vec<String>>,
}

/// A configuration that was imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// router.toml, the remarks as comments at its end. [`config::load`] takes it.
    pub toml: String,
    /// The directives that were not carried over as they stand, and suggestions, in the order of the files.
    pub remarks: Vec<Remark>,
    /// How many directives were carried over.
    pub carried: usize,
}

impl fmt::Display for Imported {
    /// `3 carried, 4 not needed, 1 not yet`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&write::summary(self.carried, &self.remarks))
    }
}

/// Imports nginx's configuration from its main file; a file with `upstream` and `server` alone will do as well.
///
/// Included paths are relative to the main file's folder; a missing one is a remark.
/// *Errors*: what nginx would not take either, such as unknown directives and open blocks (at most 50 are told), and a
/// configuration in which nothing passes requests on. At most 1,000 files and 32 MiB are read.
pub fn nginx(path: &Path, files: &Files<'_>) -> Result<Imported, Report> {
    let name = path.display().to_string();
    let whole = Place::whole(name.clone(), "");
    let text = (files.read)(path).map_err(|error| {
        let issue = whole.issue(format!("cannot be read: {error}")).bare();
        Report::new(&name, vec![issue])
    })?;
    let mut notes = Notes::default();
    let directives = Loader::new(path, files, &mut notes).file(path, &text, 0);
    let broken = !notes.issues.is_empty();
    let mut walk = Walk::new(notes);
    walk.tls.folder = path.parent().map(Path::to_owned).unwrap_or_default();
    // Behind a slip of syntax everything looks wrong.
    if !broken {
        walk.block(&directives, Scope::Main);
        logs::judge_formats(&mut walk);
        gzip::judge(&mut walk);
    }
    let (pools, listens) = pools::assemble(&mut walk);
    if walk.notes.issues.is_empty() && pools.is_empty() {
        let issue = whole.issue("nothing here passes requests to a replica").bare();
        walk.notes.issue(issue.help("a `location` with `proxy_pass http://...;` is needed"));
    }
    if !walk.notes.issues.is_empty() {
        return Err(Report::new(&name, walk.notes.issues));
    }
    let toml = write::toml(&walk, &name, &pools, &listens);
    // Whatever slipped through must not be found out by who starts the router.
    config::load(&toml, "router.toml", [])?;
    Ok(Imported { toml, remarks: walk.notes.remarks, carried: walk.notes.carried })
}

/// Imports nginx's configuration from the disk.
///
/// *Errors*: as [`nginx`].
pub fn nginx_file(path: &Path) -> Result<Imported, Report> {
    let read = |path: &Path| match std::fs::metadata(path)?.is_file() {
        true => std::fs::read_to_string(path),
        false => Err(io::Error::other("it is no file")),
    };
    let list = |folder: &Path| {
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() };
        let names = std::fs::read_dir(folder)?.flatten();
        Ok(names.filter_map(|entry| entry.file_name().into_string().ok()).collect())
    };
    nginx(path, &Files { read: &read, list: &list })
}
