//! The report on a settled lease, and its observer.

use std::sync::Arc;

use super::{Outcome, Replica, ShadowResult, TokenIntervals};
use crate::prompt::PromptFingerprint;
use crate::units::{ModelName, Moment, Usage};

/// The moments of one response.
#[derive(Debug)]
pub struct LeaseTimeline {
    /// Time of the choice.
    pub chosen_at: Moment,
    /// Time of the first byte of the body.
    pub first_byte: Option<Moment>,
    /// Time of the first generated content.
    pub first_token: Option<Moment>,
    /// Time of the last generated content.
    pub last_token: Option<Moment>,
    /// Time of the last part of the response; the time of the choice before the first.
    pub last_progress: Moment,
    /// The intervals between arrivals of generated content.
    pub token_intervals: TokenIntervals,
}

/// The report on one settled lease.
#[derive(Debug)]
pub struct LeaseReport<'a> {
    /// Name of the pool that chose.
    pub pool: &'a Arc<str>,
    /// The chosen replica.
    pub replica: &'a Replica,
    /// How the request ended.
    pub outcome: Outcome,
    /// When its parts came.
    pub timeline: &'a LeaseTimeline,
    /// Time of the end.
    pub ended_at: Moment,
    /// The requested model, if the pool has it.
    pub model: Option<&'a ModelName>,
    /// The prompt tokens reserved, and the generated tokens estimated from events.
    pub estimated_usage: Usage,
    /// The token counts that the replica reported.
    pub usage: Option<Usage>,
    /// The prompt's fingerprint, if it was computed.
    pub prefix: Option<&'a Arc<PromptFingerprint>>,
    /// The shadow policy's choice, if one was evaluated.
    pub shadow_result: Option<ShadowResult>,
}

/// Receives the report on every settled lease, after the pool's lock is released.
pub trait LeaseObserver: Send + Sync {
    /// Records one settled lease. Called on the data path: it must not block.
    fn on_settled(&self, report: &LeaseReport<'_>);
}

impl LeaseTimeline {
    pub(super) fn new(chosen_at: Moment) -> Self {
        Self {
            chosen_at,
            first_byte: None,
            first_token: None,
            last_token: None,
            last_progress: chosen_at,
            token_intervals: TokenIntervals::default(),
        }
    }
}
