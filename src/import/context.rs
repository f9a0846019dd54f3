//! The state of an import: what has been read so far.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::blocks::{BlockScope, NginxServer, NginxUpstream, OpenBlocks};
use super::conditions::client_keys::ImportedClientKeys;
use super::conditions::variables::VariableTable;
use super::report::{ImportReport, RemarkKind};
use super::scoped_keys::{ROUTER_KEYS, RankedValue, SCOPED_KEYS, ScopedKeys};
use super::syntax::directive::{Directive, SourceLine};

/// The state of an import.
pub(super) struct ImportContext {
    pub(super) report: ImportReport,
    /// The keys that router.toml has once.
    pub(super) settings: BTreeMap<&'static str, RankedValue>,
    /// The keys in force outside servers.
    pub(super) outer_keys: ScopedKeys,
    pub(super) upstreams: Vec<NginxUpstream>,
    pub(super) servers: Vec<NginxServer>,
    pub(super) log_formats: Vec<ImportedLogFormat>,
    /// The blocks that are being read.
    pub(super) open: OpenBlocks,
    pub(super) deferred: DeferredDirectives,
    pub(super) variables: VariableTable,
    pub(super) client_keys: ImportedClientKeys,
    /// The main file's folder; relative paths start here.
    pub(super) folder: PathBuf,
}

/// Directives that are converted once the whole configuration is read.
#[derive(Default)]
pub(super) struct DeferredDirectives {
    pub(super) gzip: Vec<Directive>,
    /// Every `if`.
    pub(super) conditions: Vec<Directive>,
    /// TLS directives, carried if a pool or an address uses them.
    pub(super) tls: Vec<Directive>,
    /// The lines of used TLS directives.
    pub(super) used_tls_lines: BTreeSet<SourceLine>,
}

/// A `log_format`.
pub(super) struct ImportedLogFormat {
    pub(super) directive: Directive,
    /// Its name in router.toml.
    pub(super) name: String,
    /// The format as TOML, or why the router cannot write it.
    pub(super) entry: Result<String, String>,
    /// Whether an `access_log` uses it.
    pub(super) is_used: bool,
}

impl ImportContext {
    pub(super) fn new(report: ImportReport, folder: PathBuf) -> Self {
        Self {
            report,
            settings: BTreeMap::new(),
            outer_keys: ScopedKeys::default(),
            upstreams: Vec::new(),
            servers: Vec::new(),
            log_formats: Vec::new(),
            open: OpenBlocks::new(),
            deferred: DeferredDirectives::default(),
            variables: VariableTable::default(),
            client_keys: ImportedClientKeys::default(),
            folder,
        }
    }

    /// Sets a key: in the block that is being read, or once for the router, where the greatest rank wins, the first of
    /// equals. The others are remarked on.
    pub(super) fn set_key(&mut self, key: &'static str, value: String, rank: u128, directive: &Directive) {
        if SCOPED_KEYS.contains(&key) || ROUTER_KEYS.iter().any(|(name, _)| *name == key) {
            return self.set_block_value(key, value, rank, directive);
        }
        let new = RankedValue::new(value, rank, directive);
        let reason = |winner: &RankedValue| {
            let SourceLine { file, line } = &winner.source_line;
            format!("the router has one value: that of {file}:{line}, {}", winner.directive_text)
        };
        match self.settings.get_mut(key) {
            Some(known) if known.toml == new.toml => self.report.carried_count += 1,
            Some(known) if known.rank < rank => {
                let reason = reason(&new);
                let RankedValue { directive_text, source_line, .. } = std::mem::replace(known, new);
                self.report.add_remark_at(RemarkKind::Impossible, directive_text, source_line, reason);
            }
            Some(known) => {
                let reason = reason(known);
                self.report.add_impossible(directive, reason);
            }
            None => {
                self.settings.insert(key, new);
                self.report.carried_count += 1;
            }
        }
    }

    /// Sets a value of the block that is being read.
    pub(super) fn set_block_value(&mut self, key: &'static str, toml: String, rank: u128, directive: &Directive) {
        if self.set_part(key, toml, rank, directive) {
            self.report.carried_count += 1;
        }
    }

    /// Sets a value of the block that is being read; the directive is counted elsewhere. Returns whether it is the
    /// block's only one.
    pub(super) fn set_part(&mut self, key: &'static str, toml: String, rank: u128, directive: &Directive) -> bool {
        let value = RankedValue::new(toml, rank, directive);
        let Some(level) = self.open.level() else { return false };
        if let Some(known) = level.values.insert(key, value) {
            let issue = directive.name.span.diagnostic(format!("`{}` is set twice in this block", directive.name.text));
            let help = format!("the first is in line {}; nginx refuses the second", known.source_line.line);
            self.report.add_diagnostic(issue.with_help(help));
            return false;
        }
        true
    }

    /// Raises a secondary key of a directive to the value with the greatest rank. The directive is counted by its main
    /// key.
    pub(super) fn set_max(&mut self, key: &'static str, value: String, rank: u128, directive: &Directive) {
        if self.settings.get(key).is_none_or(|known| known.rank < rank) {
            self.settings.insert(key, RankedValue::new(value, rank, directive));
        }
    }

    /// Reports that the first argument is invalid.
    pub(super) fn reject_argument(&mut self, directive: &Directive, expected: &str) {
        let name = &directive.name.text;
        let span = directive.args.first().map_or(&directive.name.span, |word| &word.span);
        let message = match directive.arg(0) {
            "" => format!("`{name}` needs a value"),
            given => format!("`{name}` cannot be `{given}`"),
        };
        self.report.add_diagnostic(span.diagnostic(message).with_help(format!("`{name}` takes {expected}")));
    }

    /// Returns whether a directive is in a block where it may be; reports it if not.
    pub(super) fn check_scope(&mut self, directive: &Directive, scopes: &[BlockScope], place: &str) -> bool {
        let fits = scopes.contains(&self.open.scope);
        if !fits {
            let issue = directive.name.span.diagnostic(format!("`{}` is not allowed here", directive.name.text));
            self.report.add_diagnostic(issue.with_help(format!("allowed in {place}")));
        }
        fits
    }

    /// Returns a file's path as seen from the main file.
    pub(super) fn resolve_path(&self, text: &str) -> String {
        self.folder.join(text).display().to_string()
    }
}
