//! Hosts and routes as far as they are read.

use std::sync::Arc;

use crate::config::diagnostics::{Span, SpannedValue};
use crate::config::schema::scope::draft::{ScopeDraft, ScopedDraft};
use crate::routes::{Answer, HostListen, HostName, PathMatch};

/// A `[[host]]` as far as it is read.
#[derive(Default)]
pub(in crate::config) struct HostDraft {
    pub(in crate::config) span: Span,
    pub(super) names: Vec<SpannedValue<HostName>>,
    pub(super) listens: Vec<SpannedValue<HostListen>>,
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
