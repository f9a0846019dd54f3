//! Requests and tokens by API key.

use std::sync::Arc;

use metrics::Counter;

use super::labelled_series::LabelledSeries;
use super::names::{TENANT_COMPLETION_TOKENS, TENANT_PROMPT_TOKENS, TENANT_REQUESTS};
use super::recorder::CounterRecorder;
use super::status_counters::StatusCounters;
use crate::units::Usage;

/// The series of all keys that clients have used, by name. The configuration bounds their number.
#[derive(Default)]
pub(super) struct TenantMetrics(LabelledSeries<Arc<str>, TenantSeries>);

/// The series of one key.
struct TenantSeries {
    requests: StatusCounters,
    prompt_tokens: Counter,
    completion_tokens: Counter,
}

impl TenantMetrics {
    /// Records a request that was answered to a client with the key `name`, and its tokens if they are known.
    pub(super) fn record(&self, recorder: &CounterRecorder, name: &Arc<str>, status: u16, usage: Option<Usage>) {
        let create = || (name.clone(), TenantSeries::new(recorder, name));
        let series = self.0.get_or_create(|known| known == name, create);
        series.requests.record(status);
        if let Some(usage) = usage {
            series.prompt_tokens.increment(usage.prompt.0);
            series.completion_tokens.increment(usage.completion.0);
        }
    }
}

impl TenantSeries {
    fn new(recorder: &CounterRecorder, name: &str) -> Self {
        Self {
            requests: StatusCounters::new(recorder, &TENANT_REQUESTS, &[name]),
            prompt_tokens: recorder.counter(&TENANT_PROMPT_TOKENS, &[name]),
            completion_tokens: recorder.counter(&TENANT_COMPLETION_TOKENS, &[name]),
        }
    }
}
