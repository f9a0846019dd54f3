//! The settings while they are read.

use std::sync::Arc;

use crate::config::diagnostics::SpannedValue;
use crate::config::referenced_files::ReferencedFiles;
use crate::config::settings::Settings;
use crate::routes::RouteScope;

use super::key_spec::KeySpec;
use super::scope::draft::{ScopeDraft, ScopedDraft};
use super::secret::SecretDraft;

/// A table of the file, which holds keys of the settings.
pub(in crate::config) struct TableSchema {
    /// Its name; empty for the top of the file.
    pub(in crate::config) name: &'static str,
    pub(in crate::config) keys: &'static [KeySpec<SettingsDraft>],
}

/// The settings as far as they are read. What the end of reading resolves is next to them.
#[derive(Default)]
pub(in crate::config) struct SettingsDraft {
    pub(in crate::config) settings: Settings,
    /// The three forms of the admin listener's token.
    pub(in crate::config) admin_token: SecretDraft,
    /// The name of the access log's format; `None` if the format itself is given, or neither.
    pub(in crate::config) format_name: Option<SpannedValue<String>>,
    pub(in crate::config) referenced_files: ReferencedFiles,
    /// The keys at the top that hosts and routes may have too.
    pub(in crate::config) scope: ScopeDraft,
}

impl ScopedDraft for SettingsDraft {
    fn scope_draft(&mut self) -> &mut ScopeDraft {
        &mut self.scope
    }
}

impl SettingsDraft {
    /// Returns the settings in tables that hold for routes without their own.
    pub(super) fn scope(&mut self) -> &mut RouteScope {
        Arc::make_mut(&mut self.settings.scope)
    }
}
