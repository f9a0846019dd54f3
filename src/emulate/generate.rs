//! From a request for generation to its answer, whole or streamed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;

use super::answer::{Answer, Pen, Piece};
use super::body::{Broken, Said};
use super::fault::Fault;
use super::openai::data;
use super::problem::Problem;
use super::runner::Ticket;
use super::wire::Trick;
use crate::engine::EventKind;
use crate::units::Dialect;

/// Time in which hyper surely flushes what it was given before.
pub(super) const FLUSH: Duration = Duration::from_millis(5);

/// A generation under way.
pub(super) struct Talk {
    dialect: Dialect,
    answer: Answer,
    pen: Box<dyn Pen>,
    ticket: Ticket,
    /// Tokens that go into one event.
    per_event: u64,
    /// Tokens per choice that have been told.
    told: Vec<u64>,
}

impl Talk {
    pub(super) fn new(dialect: Dialect, answer: Answer, pen: Box<dyn Pen>, ticket: Ticket, per_event: u64) -> Self {
        let told = vec![0; answer.ask.choices()];
        Self { dialect, answer, pen, ticket, per_event: per_event.max(1), told }
    }

    /// Waits for the last token; returns the answer's JSON.
    pub(super) async fn whole(&mut self, fault: Option<Fault>) -> Result<String, Problem> {
        match fault {
            Some(Fault::ErrorEvent(_)) => return Err(Problem::killed()),
            Some(Fault::Stall(_)) => std::future::pending::<()>().await,
            _ => {}
        }
        let aborts = matches!(fault, Some(Fault::AbortEvent(_)));
        while let Some((choice, kind)) = self.ticket.next().await {
            self.hear(choice, kind);
            if aborts {
                return Ok(self.pen.whole(&self.answer, "abort"));
            }
        }
        Ok(self.pen.whole(&self.answer, self.answer.ask.finish))
    }

    /// Tells all events; returns the answer as JSON unless a fault ended it early.
    pub(super) async fn stream(&mut self, outlet: &mut Outlet) -> Option<String> {
        match self.tell(outlet).await {
            Ok(()) => Some(self.pen.whole(&self.answer, self.answer.ask.finish)),
            Err(Ended::Here) => None,
            Err(Ended::Aborted) => {
                self.tell_abort(outlet).await;
                None
            }
        }
    }

    async fn tell(&mut self, outlet: &mut Outlet) -> Result<(), Ended> {
        // vLLM creates a response at once, and opens the other dialects with the first token.
        let mut opened = self.dialect == Dialect::Responses;
        if opened {
            outlet.send_all(self.pen.opening(&self.answer)).await?;
        }
        while let Some((choice, kind)) = self.ticket.next().await {
            if !opened {
                opened = true;
                outlet.send_all(self.pen.opening(&self.answer)).await?;
            }
            if let Some(piece) = self.hear(choice, kind) {
                outlet.send_all(self.pen.piece(&self.answer, &piece)).await?;
            }
        }
        outlet.send_all(self.pen.ending(&self.answer)).await
    }

    async fn tell_abort(&mut self, outlet: &mut Outlet) {
        outlet.fault = None;
        for choice in 0..self.told.len() {
            let piece = Piece { choice, tokens: 0..0, finish: Some("abort") };
            let events = self.pen.piece(&self.answer, &piece);
            let _ = outlet.send_all(events).await;
        }
        let _ = outlet.send_all(self.pen.ending(&self.answer)).await;
    }

    /// Notes an event of the engine; returns what is to be told now.
    fn hear(&mut self, choice: usize, kind: EventKind) -> Option<Piece> {
        let generated = self.answer.generated.get_mut(choice)?;
        match kind {
            EventKind::Finished => return None,
            EventKind::FirstToken { cached } if choice.is_multiple_of(self.answer.ask.n) => {
                self.answer.cached += cached.0;
            }
            EventKind::FirstToken { .. } | EventKind::Token => {}
        }
        *generated += 1;
        let told = self.told.get_mut(choice)?;
        let last = *generated == self.answer.ask.output;
        if !last && *generated - *told < self.per_event {
            return None;
        }
        let tokens = std::mem::replace(told, *generated)..*generated;
        Some(Piece { choice, tokens, finish: last.then_some(self.answer.ask.finish) })
    }
}

/// How a stream ended early.
enum Ended {
    /// Nothing more goes out.
    Here,
    /// The rest is what a replica says that is told to stop.
    Aborted,
}

/// Where a stream's events go, and the fault that may meet them there.
pub(super) struct Outlet {
    to: mpsc::Sender<Said>,
    sent: u64,
    fault: Option<Fault>,
    trick: Arc<Trick>,
    /// If set, every event but the first takes a permit.
    steps: Option<Arc<Semaphore>>,
}

impl Outlet {
    pub(super) fn new(
        to: mpsc::Sender<Said>,
        fault: Option<Fault>,
        trick: Arc<Trick>,
        steps: Option<Arc<Semaphore>>,
    ) -> Self {
        Self { to, sent: 0, fault, trick, steps }
    }

    async fn send_all(&mut self, events: Vec<String>) -> Result<(), Ended> {
        for event in events {
            self.send(event).await?;
        }
        Ok(())
    }

    async fn send(&mut self, event: String) -> Result<(), Ended> {
        self.meet_fault().await?;
        if self.sent > 0
            && let Some(steps) = &self.steps
        {
            steps.acquire().await.map_err(|_| Ended::Here)?.forget();
        }
        self.sent += 1;
        self.put(Ok(event.into())).await
    }

    async fn meet_fault(&mut self) -> Result<(), Ended> {
        let Some(fault) = self.fault else { return Ok(()) };
        match fault {
            Fault::SlowFirst(time) if self.sent == 0 => sleep(time).await,
            Fault::CloseAfterHead => return self.break_off().await,
            Fault::DieMidstream(n) if n == self.sent => return self.break_off().await,
            Fault::CutMidstream(n) if n == self.sent => return Err(Ended::Here),
            Fault::Stall(n) if n == self.sent => std::future::pending().await,
            Fault::AbortEvent(n) if n == self.sent => return Err(Ended::Aborted),
            Fault::ErrorEvent(n) if n == self.sent => {
                self.put(Ok(data(&Problem::killed().json()).into())).await?;
                self.put(Ok(Bytes::from_static(b"data: [DONE]\n\n"))).await?;
                return Err(Ended::Here);
            }
            Fault::BadChunk(n) if n == self.sent => {
                sleep(FLUSH).await;
                self.trick.garble();
            }
            _ => {}
        }
        Ok(())
    }

    async fn break_off(&mut self) -> Result<(), Ended> {
        sleep(FLUSH).await;
        self.put(Err(Broken)).await?;
        Err(Ended::Here)
    }

    async fn put(&mut self, said: Said) -> Result<(), Ended> {
        self.to.send(said).await.map_err(|_| Ended::Here)
    }
}
