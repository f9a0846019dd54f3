//! Floor 3: the configuration: `router.toml`, the environment and the command line, read into [`Settings`].
//!
//! All that is wrong is said at once, each thing with its line, its place in the line and what to do about it.

mod access;
pub(crate) mod amount;
mod assemble;
mod elsewhere;
mod failing;
mod files;
mod headers;
mod keys;
mod log;
mod metering;
mod nearest;
mod network;
mod pool;
mod read;
pub(crate) mod replica;
mod report;
mod route;
mod settings;
mod spread;
mod sticky;
mod syntax;
mod value;

pub use headers::{HeaderLine, HeaderTables, HeaderText, Headers};
pub(crate) use headers::{barred, has_controls};
pub(crate) use keys::{is_file, is_origin};
pub(crate) use nearest::nearest;
pub use network::Network;
pub(crate) use pool::is_name;
pub(crate) use report::{At, Place};
pub use report::{Issue, Report};
pub use settings::{
    AdminAccess, BadListen, Certificates, Cors, Dns, Limits, Listen, Log, Record, Settings, Sink, Timeouts,
};

use std::collections::BTreeMap;
use std::path::Path;

use files::Files;
use read::Reading;

/// What the names of overriding variables begin with; the key's path follows, `__` between table and key.
pub const PREFIX: &str = "TOKENWEIR__";

/// A configuration that works, and what looks odd in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The configuration.
    pub settings: Settings,
    /// What is allowed and seldom meant, by line; every message begins with `warning: `.
    pub warnings: Vec<Issue>,
    files: Files,
}

impl Loaded {
    /// Says what is wrong with a file that the configuration names, and where it is named.
    pub fn blame(&self, file: &Path, message: impl Into<String>, help: impl Into<String>) -> Report {
        self.files.blame(file, message.into(), help.into())
    }
}

/// Reads a configuration file's `text`; `file` is its name in messages.
///
/// `env` is the environment: variables that begin with [`PREFIX`] override the file, `api_key_env` and its like look up the others.
/// *Errors*: all that is wrong with the file and the variables; after a syntax error nothing else is looked at.
pub fn load(text: &str, file: &str, env: impl IntoIterator<Item = (String, String)>) -> Result<Loaded, Report> {
    let env: BTreeMap<String, String> = env.into_iter().collect();
    let whole = Place::whole(file, text);
    let (root, doubled) = syntax::parse(&whole).map_err(|issues| Report::new(file, issues))?;
    let mut reading = Reading::new(&whole);
    reading.report(doubled);
    reading.root(&root, &whole);
    reading.overrides(&env);
    reading.finish(file, &env)
}

/// Reads the replicas of one pool from command-line arguments, each what a string in `replicas` is.
///
/// Everything else has its default or comes from `env`, as in [`load`]; the arguments win over a variable's replicas.
/// *Errors*: all that is wrong; the argument is named where [`load`] names the file.
pub fn from_urls(urls: &[String], env: impl IntoIterator<Item = (String, String)>) -> Result<Loaded, Report> {
    let env: BTreeMap<String, String> = env.into_iter().collect();
    let whole = Place::whole("arguments", urls.join(" "));
    let mut reading = Reading::new(&whole);
    let mut members = Vec::new();
    for (i, url) in urls.iter().enumerate() {
        let whole = Place::whole(format!("argument {}", i + 1), url);
        let word = |word: &str| {
            // Both are slices of one string.
            let from = word.as_ptr() as usize - url.as_ptr() as usize;
            At::new(word.to_owned(), whole.at(from..from + word.len()))
        };
        match replica::from_words(&whole, url.split_whitespace().map(word).collect()) {
            Ok(member) => members.push(member),
            Err(issues) => reading.report(issues),
        }
    }
    reading.overrides(&env);
    reading.short.given.push(At::new("replicas", whole));
    reading.short.members = Some(members).filter(|members| urls.is_empty() || !members.is_empty());
    reading.finish("arguments", &env)
}

#[cfg(test)]
mod tests;
