//! Layer 3: the configuration: `router.toml`, the environment and the command line, read into [`Settings`].
//!
//! `parse` reads values, `schema` and `pool` are the tables of keys, `loader` fills drafts by them, and `build`
//! compares all parts with each other. All errors are reported at once, each with its line, its place and help.

mod build;
mod build_context;
mod diagnostics;
mod host;
mod key_reference;
mod loaded;
mod loader;
pub(crate) mod parse;
mod pool;
mod referenced_files;
mod schema;
mod settings;
mod unknown_key;

pub use crate::units::LogSink;
pub use diagnostics::{Diagnostic, Diagnostics};
pub(crate) use diagnostics::{Span, SpannedValue};
pub use key_reference::key_reference;
pub use loaded::LoadedConfig;
pub use loader::ENV_PREFIX;
pub(crate) use parse::suggest::closest_match;
pub(crate) use pool::replica::parse_replica_words;
pub(crate) use pool::replica_options::is_replica_option;
pub(crate) use schema::headers::{forbidden_reason, has_control_chars};
pub(crate) use schema::key_spec::{is_file_path, is_name};
pub use settings::{AdminAccess, CorsSettings, DnsSettings, Limits, LogSettings, RecordSettings, Settings};

use std::collections::BTreeMap;

use loader::ConfigLoader;

/// Loads a configuration file's `text`; `file` is its name in messages.
///
/// `env` is the environment: variables that begin with [`ENV_PREFIX`] override the file, and `api_key_env` and similar
/// keys name others. *Errors*: all errors of the file and the variables; after a syntax error only those of syntax.
pub fn load(
    text: &str,
    file: &str,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<LoadedConfig, Diagnostics> {
    let env: BTreeMap<String, String> = env.into_iter().collect();
    let document = Span::from_text(file, text);
    let (root, duplicates) =
        parse::syntax::parse_document(&document).map_err(|errors| Diagnostics::new(file, errors))?;
    let mut loader = ConfigLoader::new(&document);
    loader.errors.extend(duplicates);
    loader.read_document(&root, &document);
    loader.apply_environment(&env);
    build::build(loader, file, &env)
}

/// Loads a configuration of one pool, whose replicas are command-line arguments in the form of strings in `replicas`.
///
/// Every other key has its default or is in `env`, as in [`load`]; the arguments override a variable's replicas.
/// *Errors*: all errors, with the argument in place of the file.
pub fn from_urls(
    urls: &[String],
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<LoadedConfig, Diagnostics> {
    let env: BTreeMap<String, String> = env.into_iter().collect();
    let arguments = Span::from_text("arguments", urls.join(" "));
    let mut loader = ConfigLoader::new(&arguments);
    loader.apply_environment(&env);
    loader.read_arguments(urls, &arguments);
    build::build(loader, "arguments", &env)
}

#[cfg(test)]
mod tests;
