//! Lets an [`Engine`] run in real time: one owner of its clock, a channel per request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};
use tokio::time::sleep_until;

use crate::clock::Clock;
use crate::engine::{Constants, Engine, Event, EventKind, Refused, Stats, Work};

/// An engine in real time.
#[derive(Debug)]
pub(super) struct Runner {
    clock: Clock,
    /// Guards the engine and the list of who hears of which request.
    state: Mutex<State>,
    /// Told when an idle engine got work.
    woken: Notify,
}

#[derive(Debug)]
struct State {
    engine: Engine,
    listeners: BTreeMap<u64, Listener>,
    next_id: u64,
    events: Vec<Event>,
}

#[derive(Debug)]
struct Listener {
    choice: usize,
    to: mpsc::UnboundedSender<(usize, EventKind)>,
}

impl State {
    /// Tells listeners all that happened by now; returns whether a step is under way, and when it ends.
    fn tell(&mut self, clock: &Clock) -> Option<tokio::time::Instant> {
        let ends = self.engine.advance(clock.now(), &mut self.events);
        for event in self.events.drain(..) {
            let Some(listener) = self.listeners.get(&event.id) else { continue };
            // A listener that is gone takes its request out of the engine itself.
            let _ = listener.to.send((listener.choice, event.kind));
            if event.kind == EventKind::Finished {
                self.listeners.remove(&event.id);
            }
        }
        ends.map(|end| clock.deadline(end))
    }
}

impl Runner {
    pub(super) fn new(constants: Constants, clock: Clock) -> Self {
        let engine = Engine::new(constants);
        let state = State { engine, listeners: BTreeMap::new(), next_id: 0, events: Vec::new() };
        Self { clock, state: Mutex::new(state), woken: Notify::new() }
    }

    /// Wakes at every step's end; never returns.
    pub(super) async fn run(&self) {
        loop {
            let ends = self.lock().tell(&self.clock);
            match ends {
                Some(end) => sleep_until(end).await,
                None => self.woken.notified().await,
            }
        }
    }

    /// Submits all of `works` (their ids are replaced) or none; the ticket's choices are their indices.
    pub(super) fn submit(self: &Arc<Self>, works: Vec<Work>) -> Result<Ticket, Refused> {
        let (to, heard) = mpsc::unbounded_channel();
        let mut ticket = Ticket { runner: self.clone(), ids: Vec::new(), unfinished: works.len(), heard };
        for (choice, mut work) in works.into_iter().enumerate() {
            let mut state = self.lock();
            state.next_id += 1;
            let id = state.next_id;
            work.id = id;
            state.engine.submit(work, self.clock.now())?;
            state.listeners.insert(id, Listener { choice, to: to.clone() });
            ticket.ids.push(id);
        }
        self.woken.notify_one();
        Ok(ticket)
    }

    pub(super) fn stats(&self) -> Stats {
        self.lock().engine.stats()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The requests behind one answer. Dropped before they are finished, it aborts them.
#[derive(Debug)]
pub(super) struct Ticket {
    runner: Arc<Runner>,
    ids: Vec<u64>,
    unfinished: usize,
    heard: mpsc::UnboundedReceiver<(usize, EventKind)>,
}

impl Ticket {
    /// The next event and the choice it belongs to; `None` once all choices are finished.
    pub(super) async fn next(&mut self) -> Option<(usize, EventKind)> {
        let heard = self.heard.recv().await?;
        self.unfinished -= usize::from(heard.1 == EventKind::Finished);
        Some(heard)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.unfinished == 0 {
            return;
        }
        let mut state = self.runner.lock();
        for id in &self.ids {
            state.listeners.remove(id);
            state.engine.abort(*id, self.runner.clock.now());
        }
    }
}
