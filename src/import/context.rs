//! The state of an import: what has been read so far.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::blocks::{BlockScope, NginxServer, NginxUpstream, OpenBlocks};
use super::report::{ImportReport, RemarkKind};
use super::syntax::directive::{Directive, SourceLine};

/// The state of an import.
pub(super) struct ImportContext {
    pub(super) report: ImportReport,
    /// The keys of router.toml outside pools.
    pub(super) settings: BTreeMap<&'static str, ImportedKey>,
    pub(super) upstreams: Vec<NginxUpstream>,
    pub(super) servers: Vec<NginxServer>,
    /// The blocks that are being read.
    pub(super) open: OpenBlocks,
    pub(super) deferred: DeferredDirectives,
    /// The main file's folder; relative paths start here.
    pub(super) folder: PathBuf,
}

/// Directives that are converted once the whole configuration is read.
#[derive(Default)]
pub(super) struct DeferredDirectives {
    pub(super) log_formats: Vec<Directive>,
    /// The names of formats in `access_log`s.
    pub(super) used_log_formats: Vec<String>,
    pub(super) gzip: Vec<Directive>,
    /// TLS directives, carried if a pool or an address uses them.
    pub(super) tls: Vec<Directive>,
    /// The lines of used TLS directives.
    pub(super) used_tls_lines: BTreeSet<SourceLine>,
}

/// A key's value.
pub(super) struct ImportedKey {
    /// As TOML.
    pub(super) value: String,
    /// The greatest rank wins.
    rank: u128,
    source: (String, SourceLine),
}

impl ImportedKey {
    /// Returns whether it is not the log target `off`.
    pub(super) fn is_on(&self) -> bool {
        self.value != "\"off\""
    }
}

impl ImportContext {
    pub(super) fn new(report: ImportReport, folder: PathBuf) -> Self {
        Self {
            report,
            settings: BTreeMap::new(),
            upstreams: Vec::new(),
            servers: Vec::new(),
            open: OpenBlocks::new(),
            deferred: DeferredDirectives::default(),
            folder,
        }
    }

    /// Sets a key that the router has once: the greatest rank wins, the first of equals. The others are remarked on.
    pub(super) fn set_key(&mut self, key: &'static str, value: String, rank: u128, directive: &Directive) {
        let source = (directive.to_one_line(), directive.source_line());
        let reason = |winner: &ImportedKey| {
            let (text, SourceLine { file, line }) = &winner.source;
            format!("the router has one value: that of {file}:{line}, {text}")
        };
        match self.settings.get_mut(key) {
            Some(known) if known.value == value => self.report.carried_count += 1,
            Some(known) if known.rank < rank => {
                let (text, line) = std::mem::replace(known, ImportedKey { value, rank, source }).source;
                let reason = reason(known);
                self.report.add_remark_at(RemarkKind::Impossible, text, line, reason);
            }
            Some(known) => {
                let reason = reason(known);
                self.report.add_impossible(directive, reason);
            }
            None => {
                self.settings.insert(key, ImportedKey { value, rank, source });
                self.report.carried_count += 1;
            }
        }
    }

    /// Raises a secondary key of a directive to the value with the greatest rank. The directive is counted by its main
    /// key.
    pub(super) fn set_max(&mut self, key: &'static str, value: String, rank: u128, directive: &Directive) {
        if self.settings.get(key).is_none_or(|known| known.rank < rank) {
            let source = (directive.to_one_line(), directive.source_line());
            self.settings.insert(key, ImportedKey { value, rank, source });
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
