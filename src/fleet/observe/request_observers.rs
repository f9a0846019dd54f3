//! The observers that follow one request from its choice to its end.

use std::sync::Arc;

use super::decision_log::{DecisionLog, DecisionResult};
use super::shadow::{ShadowReservation, ShadowResult};
use crate::fleet::ResponseProgress;
use crate::units::{Moment, Slot};

/// The observers of one request.
#[derive(Debug)]
pub(in crate::fleet) struct RequestObservers {
    /// The log that has the decision, and its number there.
    pub(in crate::fleet) logged_decision: Option<(Arc<DecisionLog>, u64)>,
    pub(in crate::fleet) shadow_reservation: Option<ShadowReservation>,
}

impl RequestObservers {
    /// Returns the decision as a line, if it is logged.
    pub(in crate::fleet) fn decision_line(&self) -> Option<String> {
        let (log, number) = self.logged_decision.as_ref()?;
        log.decision_line(*number)
    }

    /// Records a part of the response.
    pub(in crate::fleet) fn on_progress(&mut self, progress: ResponseProgress, now: Moment) {
        if let Some(reservation) = &mut self.shadow_reservation {
            reservation.on_progress(progress, now);
        }
    }

    /// Returns the shadow policy's choice.
    pub(in crate::fleet) fn shadow_result(&self) -> Option<ShadowResult> {
        self.shadow_reservation.as_ref()?.result()
    }

    /// Records the end of the request on the replica in `slot`.
    pub(in crate::fleet) fn finish(self, slot: Slot, result: DecisionResult) {
        if let Some(reservation) = self.shadow_reservation {
            reservation.finish(result.outcome, slot, result.time_to_first_token.is_some());
        }
        if let Some((log, number)) = self.logged_decision {
            log.record_result(number, result);
        }
    }
}
