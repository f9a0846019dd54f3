//! A simulated replica: a scheduler whose steps take time.

use super::event::EngineEvent;
use super::model::EngineModel;
use super::request::{EngineRequest, SubmitError};
use super::scheduler::Scheduler;
use super::stats::SchedulerStats;
use crate::units::Moment;

/// One simulated replica. See the [module's documentation](super).
#[derive(Debug)]
pub struct SimulatedEngine {
    pub(super) scheduler: Scheduler,
    /// The end of the current step; `None` while idle.
    pub(super) step_end: Option<Moment>,
    /// Events that have happened and are not yet reported, in order of time.
    pending_events: Vec<EngineEvent>,
}

impl SimulatedEngine {
    /// Returns an idle replica with an empty cache. *Cost*: 28 bytes per KV block.
    pub fn new(model: EngineModel) -> Self {
        Self { scheduler: Scheduler::new(model), step_end: None, pending_events: Vec::new() }
    }

    /// Returns the model, with its lower bounds applied.
    pub fn model(&self) -> &EngineModel {
        self.scheduler.model()
    }

    /// Sets [`EngineModel::speed`] from the next step on.
    pub fn set_speed(&mut self, speed: f64) {
        self.scheduler.set_speed(speed);
    }

    /// Puts a request at the end of the queue; an idle replica begins a step with it at once.
    ///
    /// `now` must not be before that of an earlier call. *Errors*: the request needs more memory than there is, or its
    /// id is in use. *Cost*: the steps up to `now`, and about 20 ns per block of the prompt.
    pub fn submit(&mut self, request: EngineRequest, now: Moment) -> Result<(), SubmitError> {
        self.run_until(now);
        self.scheduler.submit(request)?;
        if self.step_end.is_none() {
            self.begin_step(now);
        }
        Ok(())
    }

    /// Removes a request; its memory is free at once, the current step still takes its time. Returns whether the
    /// request was in the engine. Its events up to `now` are still reported.
    pub fn abort(&mut self, id: u64, now: Moment) -> bool {
        self.run_until(now);
        self.scheduler.abort(id)
    }

    /// Appends the unreported events up to `now` to `events`, in order of time; returns the end of the current step,
    /// `None` while idle.
    ///
    /// A late caller gets the same events as one that calls at every step's end. *Cost*: about 15 ns per running
    /// request and step.
    pub fn advance(&mut self, now: Moment, events: &mut Vec<EngineEvent>) -> Option<Moment> {
        self.run_until(now);
        events.append(&mut self.pending_events);
        self.step_end
    }

    /// Returns the state after all steps that ended by the last call of `submit`, `abort` or `advance`. O(requests).
    pub fn stats(&self) -> SchedulerStats {
        self.scheduler.stats()
    }

    fn run_until(&mut self, now: Moment) {
        while let Some(end) = self.step_end.filter(|end| *end <= now) {
            self.scheduler.complete_step(end, &mut self.pending_events);
            self.begin_step(end);
        }
    }

    fn begin_step(&mut self, now: Moment) {
        self.step_end = self.scheduler.begin_step().map(|duration| now + duration);
    }
}
