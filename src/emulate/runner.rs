//! Lets an [`SimulatedEngine`] run in real time: one owner of its clock, a channel per request.

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
    /// Guards the engine and the list of who hears of which request.
    state: Mutex<RunnerState>,
    /// Told when an idle engine got work.
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
    /// Tells listeners all that happened by now; returns whether a step is under way, and when it ends.
    fn deliver_events(&mut self, clock: &Clock) -> Option<tokio::time::Instant> {
        let ends = self.engine.advance(clock.now(), &mut self.events);
        for event in self.events.drain(..) {
            let Some(listener) = self.listeners.get(&event.request_id) else { continue };
            // A listener that is gone takes its request out of the engine itself.
            let _ = listener.sender.send((listener.choice, event.kind));
            if event.kind == EngineEventKind::Finished {
                self.listeners.remove(&event.request_id);
            }
        }
        ends.map(|end| clock.deadline(end))
    }
}

impl EngineRunner {
    pub(super) fn new(constants: EngineModel, clock: Clock) -> Self {
        let engine = SimulatedEngine::new(constants);
        let state = RunnerState { engine, listeners: BTreeMap::new(), next_id: 0, events: Vec::new() };
        Self { clock, state: Mutex::new(state), work_added: Notify::new() }
    }

    /// Wakes at every step's end; never returns.
    pub(super) async fn run(&self) {
        loop {
            let ends = self.lock().deliver_events(&self.clock);
            match ends {
                Some(end) => sleep_until(end).await,
                None => self.work_added.notified().await,
            }
        }
    }

    /// Submits all of `works` (their ids are replaced) or none; the ticket's choices are their indices.
    pub(super) fn submit(self: &Arc<Self>, works: Vec<EngineRequest>) -> Result<SubmittedRequests, SubmitError> {
        let (to, heard) = mpsc::unbounded_channel();
        let mut ticket =
            SubmittedRequests { runner: self.clone(), request_ids: Vec::new(), unfinished: works.len(), events: heard };
        for (choice, mut work) in works.into_iter().enumerate() {
            let mut state = self.lock();
            state.next_id += 1;
            let id = state.next_id;
            work.id = id;
            state.engine.submit(work, self.clock.now())?;
            state.listeners.insert(id, EngineListener { choice, sender: to.clone() });
            ticket.request_ids.push(id);
        }
        self.work_added.notify_one();
        Ok(ticket)
    }

    pub(super) fn stats(&self) -> SchedulerStats {
        self.lock().engine.stats()
    }

    fn lock(&self) -> MutexGuard<'_, RunnerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The requests behind one answer. Dropped before they are finished, it aborts them.
#[derive(Debug)]
pub(super) struct SubmittedRequests {
    runner: Arc<EngineRunner>,
    request_ids: Vec<u64>,
    unfinished: usize,
    events: mpsc::UnboundedReceiver<(usize, EngineEventKind)>,
}

impl SubmittedRequests {
    /// The next event and the choice it belongs to; `None` once all choices are finished.
    pub(super) async fn next_event(&mut self) -> Option<(usize, EngineEventKind)> {
        let heard = self.events.recv().await?;
        self.unfinished -= usize::from(heard.1 == EngineEventKind::Finished);
        Some(heard)
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
