//! What is counted of each key that clients show.

use std::sync::Arc;

use arc_swap::ArcSwap;
use metrics::{Counter, Label, SharedString};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::metrics::{CLASSES, TENANT_COMPLETION, TENANT_PROMPT, TENANT_REQUESTS, counter};

/// The series of all keys that have been shown, by their names, which the configuration bounds.
#[derive(Default)]
pub(super) struct Tenants(ArcSwap<Vec<Arc<Series>>>);

/// The series of one key.
pub(super) struct Series {
    name: Arc<str>,
    /// By the class of the status.
    pub(super) requests: [Counter; 6],
    pub(super) prompt: Counter,
    pub(super) completion: Counter,
}

impl Tenants {
    /// The series of the key called `name`; made when it is first asked for.
    pub(super) fn of(&self, name: &Arc<str>, recorder: &PrometheusRecorder) -> Arc<Series> {
        let known = |list: &[Arc<Series>]| list.iter().find(|s| s.name == *name).cloned();
        if let Some(found) = known(&self.0.load()) {
            return found;
        }
        let label = || Label::new("tenant", SharedString::from_shared(name.clone()));
        let requests =
            CLASSES.map(|class| counter(recorder, TENANT_REQUESTS, vec![label(), Label::new("status", class)]));
        let made = Arc::new(Series {
            name: name.clone(),
            requests,
            prompt: counter(recorder, TENANT_PROMPT, vec![label()]),
            completion: counter(recorder, TENANT_COMPLETION, vec![label()]),
        });
        self.0.rcu(|list| match known(list) {
            Some(_) => list.clone(),
            None => Arc::new(list.iter().cloned().chain([made.clone()]).collect()),
        });
        known(&self.0.load()).unwrap_or(made)
    }
}
