//! Hosts and routes as far as they are read.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::diagnostics::{Diagnostic, Span, SpannedValue};
use crate::config::schema::scope::draft::{ScopeDraft, ScopedDraft};
use crate::config::settings::LogSettings;
use crate::routes::{Answer, HostListen, HostName, PathMatch};

/// A `[[host]]` as far as it is read.
#[derive(Default)]
pub(in crate::config) struct HostDraft {
    pub(in crate::config) span: Span,
    pub(super) names: Vec<SpannedValue<HostName>>,
    pub(super) listens: Vec<SpannedValue<HostListen>>,
    pub(in crate::config) certificates: CertificatesDraft,
    pub(in crate::config) scope: ScopeDraft,
    pub(in crate::config) routes: Vec<HostRouteDraft>,
}

/// A `[[host.route]]` as far as it is read.
#[derive(Default)]
pub(in crate::config) struct HostRouteDraft {
    pub(super) span: Span,
    pub(super) path: Option<SpannedValue<PathMatch>>,
    pub(in crate::config) pools: Option<Vec<SpannedValue<Arc<str>>>>,
    pub(super) answer: Option<SpannedValue<Answer>>,
    pub(super) replace_path: Option<SpannedValue<String>>,
    pub(in crate::config) scope: ScopeDraft,
    /// Whether a key could not be read, so that a missing one may not be missing in the file.
    pub(super) has_errors: bool,
}

/// The certificates of a host as far as they are read.
#[derive(Default)]
pub(in crate::config) struct CertificatesDraft {
    pub(super) chains: Vec<SpannedValue<PathBuf>>,
    pub(super) keys: Vec<SpannedValue<PathBuf>>,
    /// The place of the first of both keys; `None` without either.
    pub(super) span: Option<Span>,
}

impl HostDraft {
    /// Looks up the formats of the access logs of the host and its routes.
    pub(in crate::config) fn resolve_access_logs(&mut self, log: &LogSettings, errors: &mut Vec<Diagnostic>) {
        for scope in std::iter::once(&mut self.scope).chain(self.routes.iter_mut().map(|route| &mut route.scope)) {
            scope.resolve_access_logs(log, errors);
        }
    }
}

impl ScopedDraft for HostDraft {
    fn scope_draft(&mut self) -> &mut ScopeDraft {
        &mut self.scope
    }
}

impl ScopedDraft for HostRouteDraft {
    fn scope_draft(&mut self) -> &mut ScopeDraft {
        &mut self.scope
    }
}
