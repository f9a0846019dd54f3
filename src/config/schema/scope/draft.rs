//! The settings of a scope while they are read.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};

use super::access_log::{AccessLogDraft, resolve_access_logs};
use super::client_address::TrustedProxies;
use crate::config::diagnostics::{Diagnostic, SpannedValue};
use crate::config::settings::LogSettings;
use crate::routes::{AccessLogSpec, AddressRule, HeaderRule, KeyAccess, RouteScope, Timeouts};

/// The settings that a scope names; those that it does not name are those of the scope around it.
#[derive(Default)]
pub(in crate::config) struct ScopeDraft {
    pub(super) body_bytes: Option<usize>,
    pub(super) timeouts: TimeoutsDraft,
    pub(super) trusted_proxies: Option<TrustedProxies>,
    pub(super) client_address_header: Option<HeaderName>,
    pub(super) client_address_recursive: Option<bool>,
    pub(super) gzip: Option<Option<usize>>,
    pub(super) request_headers: Option<Vec<HeaderRule>>,
    pub(super) response_headers: Option<Vec<HeaderRule>>,
    pub(super) success_headers: Option<Vec<HeaderRule>>,
    pub(super) access: Option<Vec<AddressRule>>,
    pub(super) methods: Option<Option<Vec<Method>>>,
    pub(super) keys: Option<KeyAccess>,
    /// The access logs until their formats are looked up.
    pub(super) access_log_drafts: Option<Vec<AccessLogDraft>>,
    pub(super) access_logs: Option<Arc<[AccessLogSpec]>>,
    /// The names in `keys`, with their places.
    pub(in crate::config) key_names: Vec<SpannedValue<Arc<str>>>,
}

/// Timeouts, and the names of those that are given.
#[derive(Default)]
pub(super) struct TimeoutsDraft {
    pub(super) given: Vec<String>,
    pub(super) values: Timeouts,
}

/// A draft of something that has a scope.
pub(in crate::config) trait ScopedDraft {
    /// Returns the draft of its scope.
    fn scope_draft(&mut self) -> &mut ScopeDraft;
}

/// A timeout, by its name in `[timeouts]`.
type TimeoutField = (&'static str, fn(&mut Timeouts) -> &mut Duration);

/// The timeouts that a host or a route may have of its own; the others hold for connections or the process.
pub(super) static SCOPED_TIMEOUTS: &[TimeoutField] = &[
    ("connect", |timeouts| &mut timeouts.connect),
    ("first_byte", |timeouts| &mut timeouts.first_byte),
    ("plain_answer", |timeouts| &mut timeouts.plain_answer),
    ("plain_answer_max", |timeouts| &mut timeouts.plain_answer_max),
    ("idle", |timeouts| &mut timeouts.idle),
    ("total", |timeouts| &mut timeouts.total),
    ("client_body", |timeouts| &mut timeouts.client_body),
    ("client_send", |timeouts| &mut timeouts.client_send),
    ("first_event_hold", |timeouts| &mut timeouts.first_event_hold),
    ("waiting_comment", |timeouts| &mut timeouts.waiting_comment),
    ("keepalive", |timeouts| &mut timeouts.keepalive),
];

impl ScopeDraft {
    /// Looks up the formats of the access logs.
    pub(in crate::config) fn resolve_access_logs(&mut self, log: &LogSettings, errors: &mut Vec<Diagnostic>) {
        let drafts = self.access_log_drafts.take();
        self.access_logs = drafts.map(|drafts| resolve_access_logs(&drafts, log, errors));
    }

    /// Returns the scope within `outer`.
    pub(in crate::config) fn apply(&self, outer: &RouteScope) -> RouteScope {
        let mut scope = outer.clone();
        scope.body_bytes = self.body_bytes.unwrap_or(outer.body_bytes);
        if let Some(proxies) = &self.trusted_proxies {
            scope.client_address.trusted_proxies.clone_from(&proxies.networks);
            scope.client_address.trusts_unix_sockets = proxies.has_unix_sockets;
        }
        if let Some(header) = &self.client_address_header {
            scope.client_address.header.clone_from(header);
        }
        scope.client_address.recursive = self.client_address_recursive.unwrap_or(outer.client_address.recursive);
        scope.gzip = self.gzip.unwrap_or(outer.gzip);
        if let Some(rules) = &self.request_headers {
            scope.headers.request.clone_from(rules);
        }
        if let Some(rules) = &self.response_headers {
            scope.headers.response.clone_from(rules);
        }
        if let Some(rules) = &self.success_headers {
            scope.headers.success.clone_from(rules);
        }
        if let Some(rules) = &self.access {
            scope.access.clone_from(rules);
        }
        if let Some(methods) = &self.methods {
            scope.methods.clone_from(methods);
        }
        if let Some(keys) = &self.keys {
            scope.keys.clone_from(keys);
        }
        if let Some(logs) = &self.access_logs {
            scope.access_logs = Some(logs.clone());
        }
        let mut values = self.timeouts.values.clone();
        for (_, field) in SCOPED_TIMEOUTS.iter().filter(|(name, _)| self.timeouts.given.iter().any(|g| g == name)) {
            *field(&mut scope.timeouts) = *field(&mut values);
        }
        scope
    }
}
