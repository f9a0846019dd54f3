//! Runs a [`SimulatedEngine`] in real time, with a channel of events per answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};
use tokio::time::sleep_until;

use crate::clock::Clock;
use crate::engine::{
    EngineEvent, EngineEventKind, EngineModel, EngineRequest, SchedulerStats, SimulatedEngine, SubmitError,
};

/// An engine in real time.
#[derive(Debug)]
pub(super) struct EngineRunner {
    clock: Clock,
    /// Guards the engine and the listeners of its requests.
    state: Mutex<RunnerState>,
    /// Notified when a request is submitted.
    work_added: Notify,
}

#[derive(Debug)]
struct RunnerState {
    engine: SimulatedEngine,
    listeners: BTreeMap<u64, EngineListener>,
    next_id: u64,
    events: Vec<EngineEvent>,
}

#[derive(Debug)]
struct EngineListener {
    choice: usize,
    sender: mpsc::UnboundedSender<(usize, EngineEventKind)>,
}

impl RunnerState {
    /// Sends all events so far to their listeners. Returns the end of the current step; `None` if the engine is idle.
    fn deliver_events(&mut self, clock: &Clock) -> Option<tokio::time::Instant> {
        let step_end = self.engine.advance(clock.now(), &mut self.events);
        for event in self.events.drain(..) {
            let Some(listener) = self.listeners.get(&event.request_id) else { continue };
            // A dropped listener aborts its request itself.
            let _ = listener.sender.send((listener.choice, event.kind));
            if event.kind == EngineEventKind::Finished {
                self.listeners.remove(&event.request_id);
            }
        }
        step_end.map(|end| clock.deadline(end))
    }
}

impl EngineRunner {
    pub(super) fn new(model: EngineModel, clock: Clock) -> Self {
        let engine = SimulatedEngine::new(model);
        let state = RunnerState { engine, listeners: BTreeMap::new(), next_id: 0, events: Vec::new() };
        Self { clock, state: Mutex::new(state), work_added: Notify::new() }
    }

    /// Advances the engine at the end of every step. Never returns.
    pub(super) async fn run(&self) {
        loop {
            let step_end = self.lock().deliver_events(&self.clock);
            match step_end {
                Some(end) => sleep_until(end).await,
                None => self.work_added.notified().await,
            }
        }
    }

    /// Submits all of `requests` (their ids are replaced) or none; their indices are the choices.
    ///
    /// *Errors*: the engine refuses a request.
    pub(super) fn submit(self: &Arc<Self>, requests: Vec<EngineRequest>) -> Result<SubmittedRequests, SubmitError> {
        let (sender, events) = mpsc::unbounded_channel();
        let mut submitted =
            SubmittedRequests { runner: self.clone(), request_ids: Vec::new(), unfinished: requests.len(), events };
        for (choice, mut request) in requests.into_iter().enumerate() {
            let mut state = self.lock();
            state.next_id += 1;
            let id = state.next_id;
            request.id = id;
            state.engine.submit(request, self.clock.now())?;
            state.listeners.insert(id, EngineListener { choice, sender: sender.clone() });
            submitted.request_ids.push(id);
        }
        self.work_added.notify_one();
        Ok(submitted)
    }

    pub(super) fn set_speed(&self, speed: f64) {
        self.lock().engine.set_speed(speed);
    }

    pub(super) fn stats(&self) -> SchedulerStats {
        self.lock().engine.stats()
    }

    fn lock(&self) -> MutexGuard<'_, RunnerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The requests of one answer. On drop it aborts the unfinished ones.
#[derive(Debug)]
pub(super) struct SubmittedRequests {
    runner: Arc<EngineRunner>,
    request_ids: Vec<u64>,
    unfinished: usize,
    events: mpsc::UnboundedReceiver<(usize, EngineEventKind)>,
}

impl SubmittedRequests {
    /// Waits for the next event. Returns its choice and kind; `None` once all choices are finished.
    pub(super) async fn next_event(&mut self) -> Option<(usize, EngineEventKind)> {
        let (choice, kind) = self.events.recv().await?;
        self.unfinished -= usize::from(kind == EngineEventKind::Finished);
        Some((choice, kind))
    }
}

impl Drop for SubmittedRequests {
    fn drop(&mut self) {
        if self.unfinished == 0 {
            return;
        }
        let mut state = self.runner.lock();
        for id in &self.request_ids {
            state.listeners.remove(id);
            state.engine.abort(*id, self.runner.clock.now());
        }
    }
}
