//! Floor 3: the configuration: `router.toml`, the environment and the command line, read into [`Settings`].
//!
//! All that is wrong is said at once, each thing with its line, its place in the line and what to do about it.

mod build;
mod diagnostics;
mod loader;
pub(crate) mod parse;
mod referenced_files;
pub(crate) mod schema;
mod settings;
mod warnings;

pub use diagnostics::{Diagnostic, Diagnostics};
pub(crate) use diagnostics::{Span, SpannedValue};
pub(crate) use parse::suggest::closest_match;
pub use schema::headers::{HeaderRule, HeaderRuleSet, HeaderRules, HeaderTemplate};
pub(crate) use schema::headers::{forbidden_reason, has_control_chars};
pub(crate) use schema::pool::is_name;
pub(crate) use schema::top::{is_cors_origin, is_file_path};
pub use settings::network::IpNetwork;
pub use settings::{
    AdminAccess, CorsSettings, DnsSettings, Limits, ListenAddr, ListenError, LogSettings, LogSink, RecordSettings,
    ServerCertificates, Settings, Timeouts,
};

use std::collections::BTreeMap;
use std::path::Path;

use loader::ConfigLoader;
use referenced_files::ReferencedFiles;

/// What the names of overriding variables begin with; the key's path follows, `__` between table and key.
pub const ENV_PREFIX: &str = "TOKENWEIR__";

/// A configuration that works, and what looks odd in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedConfig {
    /// The configuration.
    pub settings: Settings,
    /// What is allowed and seldom meant, by line; every message begins with `warning: `.
    pub warnings: Vec<Diagnostic>,
    referenced_files: ReferencedFiles,
}

impl LoadedConfig {
    /// Says what is wrong with a file that the configuration names, and where it is named.
    pub fn file_error(&self, file: &Path, message: impl Into<String>, help: impl Into<String>) -> Diagnostics {
        self.referenced_files.file_error(file, message.into(), help.into())
    }
}

/// Reads a configuration file's `text`; `file` is its name in messages.
///
/// `env` is the environment: variables that begin with [`ENV_PREFIX`] override the file, `api_key_env` and its like look up the others.
/// *Errors*: all that is wrong with the file and the variables; after a syntax error nothing else is looked at.
pub fn load(
    text: &str,
    file: &str,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<LoadedConfig, Diagnostics> {
    let env: BTreeMap<String, String> = env.into_iter().collect();
    let whole = Span::from_text(file, text);
    let (root, doubled) = parse::syntax::parse_document(&whole).map_err(|issues| Diagnostics::new(file, issues))?;
    let mut reading = ConfigLoader::new(&whole);
    reading.add_errors(doubled);
    reading.read_document(&root, &whole);
    reading.apply_environment(&env);
    reading.build(file, &env)
}

/// Reads the replicas of one pool from command-line arguments, each what a string in `replicas` is.
///
/// Everything else has its default or comes from `env`, as in [`load`]; the arguments win over a variable's replicas.
/// *Errors*: all that is wrong; the argument is named where [`load`] names the file.
pub fn from_urls(
    urls: &[String],
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<LoadedConfig, Diagnostics> {
    let env: BTreeMap<String, String> = env.into_iter().collect();
    let whole = Span::from_text("arguments", urls.join(" "));
    let mut reading = ConfigLoader::new(&whole);
    let mut members = Vec::new();
    for (i, url) in urls.iter().enumerate() {
        let whole = Span::from_text(format!("argument {}", i + 1), url);
        let word = |word: &str| {
            // Both are slices of one string.
            let from = word.as_ptr() as usize - url.as_ptr() as usize;
            SpannedValue::new(word.to_owned(), whole.with_range(from..from + word.len()))
        };
        match schema::replica::parse_replica_words(&whole, url.split_whitespace().map(word).collect()) {
            Ok(member) => members.push(member),
            Err(issues) => reading.add_errors(issues),
        }
    }
    reading.apply_environment(&env);
    reading.top_level_pool.given_keys.push(SpannedValue::new("replicas", whole));
    reading.top_level_pool.members = Some(members).filter(|members| urls.is_empty() || !members.is_empty());
    reading.build("arguments", &env)
}

#[cfg(test)]
mod tests;
