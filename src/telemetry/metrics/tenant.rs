//! What is counted of each key that clients show.

use std::sync::Arc;

use arc_swap::ArcSwap;
use metrics::{Counter, Label, SharedString};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::{STATUS_CLASSES, TENANT_COMPLETION_TOKENS, TENANT_PROMPT_TOKENS, TENANT_REQUESTS, register_counter};

/// The series of all keys that have been shown, by their names, which the configuration bounds.
#[derive(Default)]
pub(in crate::telemetry) struct TenantMetrics(ArcSwap<Vec<Arc<TenantSeries>>>);

/// The series of one key.
pub(in crate::telemetry) struct TenantSeries {
    name: Arc<str>,
    /// By the class of the status.
    pub(in crate::telemetry) requests: [Counter; 6],
    pub(in crate::telemetry) prompt_tokens: Counter,
    pub(in crate::telemetry) completion_tokens: Counter,
}

impl TenantMetrics {
    /// The series of the key called `name`; made when it is first asked for.
    pub(in crate::telemetry) fn get_or_create(
        &self,
        name: &Arc<str>,
        recorder: &PrometheusRecorder,
    ) -> Arc<TenantSeries> {
        let known = |list: &[Arc<TenantSeries>]| list.iter().find(|s| s.name == *name).cloned();
        if let Some(found) = known(&self.0.load()) {
            return found;
        }
        let label = || Label::new("tenant", SharedString::from_shared(name.clone()));
        let requests = STATUS_CLASSES
            .map(|class| register_counter(recorder, TENANT_REQUESTS, vec![label(), Label::new("status", class)]));
        let made = Arc::new(TenantSeries {
            name: name.clone(),
            requests,
            prompt_tokens: register_counter(recorder, TENANT_PROMPT_TOKENS, vec![label()]),
            completion_tokens: register_counter(recorder, TENANT_COMPLETION_TOKENS, vec![label()]),
        });
        self.0.rcu(|list| match known(list) {
            Some(_) => list.clone(),
            None => Arc::new(list.iter().cloned().chain([made.clone()]).collect()),
        });
        known(&self.0.load()).unwrap_or(made)
    }
}
