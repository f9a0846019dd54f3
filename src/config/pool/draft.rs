//! One pool as far as it is read, before pools are compared with each other.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::balance::PolicySpec;
use crate::config::diagnostics::{Diagnostic, Span, SpannedValue};
use crate::config::parse::value::TomlEntry;
use crate::config::schema::key_spec::KeySpec;
use crate::fleet::{AgentOptions, ApiKey, FailurePolicy, MemberSpec, PathPolicy, Sticky, TokenAccounting};
use crate::routes::HeaderRule;
use crate::routes::PoolRoute;
use crate::units::ModelName;

/// A pool as far as it is read.
#[derive(Default)]
pub(in crate::config) struct PoolDraft {
    /// The place of its `[[pool]]`; the start of the file for the pool at the top.
    pub(in crate::config) span: Span,
    /// The keys that are given, readable or not.
    pub(in crate::config) given_keys: Vec<SpannedValue<&'static str>>,
    pub(super) name: Option<SpannedValue<Arc<str>>>,
    pub(super) routing: RouteDraft,
    pub(in crate::config) policy: Option<SpannedValue<PolicySpec>>,
    pub(super) shadow: Option<PolicySpec>,
    /// `None` if not given, or not readable.
    pub(super) members: Option<Vec<SpannedValue<MemberSpec>>>,
    pub(in crate::config) headers: PoolHeadersDraft,
    pub(super) token_accounting: AccountingDraft,
    pub(super) upstream: UpstreamDraft,
    pub(super) sticky: Option<Sticky>,
    pub(super) agents: AgentOptions,
    /// Requests at once; `None` for no limit.
    pub(in crate::config) max_in_flight: Option<usize>,
    pub(super) failure_policy: FailurePolicyDraft,
}

/// The requests that a pool is for.
#[derive(Default)]
pub(super) struct RouteDraft {
    pub(super) route: PoolRoute,
    pub(super) accepts_azure: bool,
    pub(super) models: Vec<SpannedValue<ModelName>>,
    pub(super) paths: Option<SpannedValue<PathPolicy>>,
    pub(super) websocket: bool,
    pub(super) fallback: Option<SpannedValue<Arc<str>>>,
}

/// A pool's own header rules; `None` for those at the top.
#[derive(Default)]
pub(in crate::config) struct PoolHeadersDraft {
    pub(in crate::config) request: Option<Vec<HeaderRule>>,
    pub(in crate::config) response: Option<Vec<HeaderRule>>,
}

/// The credentials for the replicas, and the verification of their certificates.
#[derive(Default)]
pub(super) struct UpstreamDraft {
    pub(super) api_key: Option<SpannedValue<ApiKey>>,
    pub(super) api_key_env: Option<SpannedValue<String>>,
    pub(super) tls_ca: Option<SpannedValue<PathBuf>>,
    pub(super) tls_name: Option<SpannedValue<String>>,
    pub(super) tls_verify: Option<SpannedValue<bool>>,
}

/// A pool's token accounting.
#[derive(Default)]
pub(super) struct AccountingDraft {
    pub(super) accounting: TokenAccounting,
    /// `None` if not given; `Some(None)` for never.
    pub(super) engine_metrics_interval: Option<Option<Duration>>,
}

/// A pool's reaction to failing replicas.
#[derive(Default)]
pub(super) struct FailurePolicyDraft {
    pub(super) policy: FailurePolicy,
    /// `None` if not given; `Some(None)` for never.
    pub(super) stall_timeout: Option<Option<Duration>>,
    /// Whether ejections grow; `None` if each replica's own keys decide.
    pub(super) eject_backoff: Option<bool>,
}

impl PoolDraft {
    pub(in crate::config) fn new(span: Span) -> Self {
        Self { span, ..Self::default() }
    }

    /// Returns a pool that is no table, for which its replicas are not reported missing as well.
    pub(in crate::config) fn unreadable(span: Span) -> Self {
        let given_keys = vec![SpannedValue::new(REPLICAS_KEY, span.clone())];
        Self { given_keys, ..Self::new(span) }
    }

    /// Reads an entry by its row, notes that it is given, and returns the errors.
    pub(in crate::config) fn read_key(&mut self, row: &KeySpec<Self>, entry: &TomlEntry<'_>) -> Vec<Diagnostic> {
        self.given_keys.retain(|given| given.value != row.name);
        self.given_keys.push(SpannedValue::new(row.name, entry.value.span.clone()));
        row.read(self, entry)
    }

    /// Sets the replicas, given at `span`; `None` if none was readable.
    pub(in crate::config) fn set_members(&mut self, span: Span, members: Option<Vec<SpannedValue<MemberSpec>>>) {
        self.given_keys.push(SpannedValue::new(REPLICAS_KEY, span));
        self.members = members;
    }

    /// Returns the pool's name and its place: the key `name`, else the first model, else `default`.
    pub(in crate::config) fn name_or_default(&self) -> SpannedValue<Arc<str>> {
        match (&self.name, self.routing.models.first()) {
            (Some(name), _) => name.clone(),
            (None, Some(model)) => SpannedValue::new(model.value.as_str().into(), model.span.clone()),
            (None, None) => SpannedValue::new("default".into(), self.span.clone()),
        }
    }

    /// Returns the replicas; empty if none is given.
    pub(super) fn members(&self) -> &[SpannedValue<MemberSpec>] {
        self.members.as_deref().unwrap_or_default()
    }

    /// Returns the place where the replicas are given, readable or not; `None` if they are not.
    pub(super) fn replicas_span(&self) -> Option<&Span> {
        self.given_keys.iter().find(|given| given.value == REPLICAS_KEY).map(|given| &given.span)
    }
}

/// The key that every pool needs.
const REPLICAS_KEY: &str = "replicas";
