//! Access to the configuration files.

use std::io;
use std::path::{Path, PathBuf};

/// The functions that read files; no other I/O happens.
#[derive(Clone, Copy)]
pub struct FileAccess<'a> {
    /// Reads a file.
    pub read: &'a dyn Fn(&Path) -> io::Result<String>,
    /// Lists the names in a folder, in any order; the empty path is the current folder.
    pub list: &'a dyn Fn(&Path) -> io::Result<Vec<String>>,
}

impl FileAccess<'static> {
    /// Returns the access to the disk.
    pub(super) const fn disk() -> Self {
        Self { read: &read_file, list: &list_folder }
    }
}

fn read_file(path: &Path) -> io::Result<String> {
    match std::fs::metadata(path)?.is_file() {
        true => std::fs::read_to_string(path),
        false => Err(io::Error::other("not a file")),
    }
}

fn list_folder(folder: &Path) -> io::Result<Vec<String>> {
    let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() };
    let names = std::fs::read_dir(folder)?.flatten();
    Ok(names.filter_map(|entry| entry.file_name().into_string().ok()).collect())
}
