//! From a request for generation to its answer, whole or streamed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;

use super::api_error::ApiError;
use super::dialects::answer::{AnswerProgress, DialectWriter, TokenChunk};
use super::dialects::openai::data_event;
use super::faults::EmulatedFault;
use super::faulty_socket::SocketFault;
use super::response_body::{BodyAborted, BodyChunk};
use super::runner::SubmittedRequests;
use crate::dialect::Dialect;
use crate::engine::EngineEventKind;

/// Time in which hyper surely flushes what it was given before.
pub(super) const FLUSH_DELAY: Duration = Duration::from_millis(5);

/// A generation under way.
pub(super) struct Generation {
    dialect: Dialect,
    answer: AnswerProgress,
    writer: Box<dyn DialectWriter>,
    submitted: SubmittedRequests,
    /// Tokens that go into one event.
    tokens_per_event: u64,
    /// Tokens per choice that have been told.
    sent_tokens: Vec<u64>,
}

impl Generation {
    pub(super) fn new(
        dialect: Dialect,
        answer: AnswerProgress,
        pen: Box<dyn DialectWriter>,
        ticket: SubmittedRequests,
        per_event: u64,
    ) -> Self {
        let told = vec![0; answer.request.choice_count()];
        Self { dialect, answer, writer: pen, submitted: ticket, tokens_per_event: per_event.max(1), sent_tokens: told }
    }

    /// Waits for the last token; returns the answer's JSON.
    pub(super) async fn collect_response(&mut self, fault: Option<EmulatedFault>) -> Result<String, ApiError> {
        match fault {
            Some(EmulatedFault::ErrorEvent(_)) => return Err(ApiError::engine_dead()),
            Some(EmulatedFault::Stall(_)) => std::future::pending::<()>().await,
            _ => {}
        }
        let aborts = matches!(fault, Some(EmulatedFault::AbortEvent(_)));
        while let Some((choice, kind)) = self.submitted.next_event().await {
            self.on_engine_event(choice, kind);
            if aborts {
                return Ok(self.writer.write_response(&self.answer, "abort"));
            }
        }
        Ok(self.writer.write_response(&self.answer, self.answer.request.finish_reason))
    }

    /// Tells all events; returns the answer as JSON unless a fault ended it early.
    pub(super) async fn stream_response(&mut self, outlet: &mut EventSink) -> Option<String> {
        match self.write_events(outlet).await {
            Ok(()) => Some(self.writer.write_response(&self.answer, self.answer.request.finish_reason)),
            Err(EarlyEnd::Cut) => None,
            Err(EarlyEnd::Aborted) => {
                self.write_abort_events(outlet).await;
                None
            }
        }
    }

    async fn write_events(&mut self, outlet: &mut EventSink) -> Result<(), EarlyEnd> {
        // vLLM creates a response at once, and opens the other dialects with the first token.
        let mut opened = self.dialect == Dialect::Responses;
        if opened {
            outlet.send_events(self.writer.write_opening_events(&self.answer)).await?;
        }
        while let Some((choice, kind)) = self.submitted.next_event().await {
            if !opened {
                opened = true;
                outlet.send_events(self.writer.write_opening_events(&self.answer)).await?;
            }
            if let Some(piece) = self.on_engine_event(choice, kind) {
                outlet.send_events(self.writer.write_chunk_events(&self.answer, &piece)).await?;
            }
        }
        outlet.send_events(self.writer.write_final_events(&self.answer)).await
    }

    async fn write_abort_events(&mut self, outlet: &mut EventSink) {
        outlet.fault = None;
        for choice in 0..self.sent_tokens.len() {
            let piece = TokenChunk { choice, tokens: 0..0, finish_reason: Some("abort") };
            let events = self.writer.write_chunk_events(&self.answer, &piece);
            let _ = outlet.send_events(events).await;
        }
        let _ = outlet.send_events(self.writer.write_final_events(&self.answer)).await;
    }

    /// Notes an event of the engine; returns what is to be told now.
    fn on_engine_event(&mut self, choice: usize, kind: EngineEventKind) -> Option<TokenChunk> {
        let generated = self.answer.generated_tokens.get_mut(choice)?;
        match kind {
            EngineEventKind::Finished => return None,
            EngineEventKind::FirstToken { cached } if choice.is_multiple_of(self.answer.request.choices_per_prompt) => {
                self.answer.cached_tokens += cached.0;
            }
            EngineEventKind::FirstToken { .. } | EngineEventKind::Token => {}
        }
        *generated += 1;
        let told = self.sent_tokens.get_mut(choice)?;
        let last = *generated == self.answer.request.output_tokens;
        if !last && *generated - *told < self.tokens_per_event {
            return None;
        }
        let tokens = std::mem::replace(told, *generated)..*generated;
        Some(TokenChunk { choice, tokens, finish_reason: last.then_some(self.answer.request.finish_reason) })
    }
}

/// How a stream ended early.
enum EarlyEnd {
    /// Nothing more goes out.
    Cut,
    /// The rest is what a replica says that is told to stop.
    Aborted,
}

/// Where a stream's events go, and the fault that may meet them there.
pub(super) struct EventSink {
    sender: mpsc::Sender<BodyChunk>,
    sent_events: u64,
    fault: Option<EmulatedFault>,
    socket_fault: Arc<SocketFault>,
    /// If set, every event but the first takes a permit.
    lockstep_permits: Option<Arc<Semaphore>>,
}

impl EventSink {
    pub(super) fn new(
        to: mpsc::Sender<BodyChunk>,
        fault: Option<EmulatedFault>,
        trick: Arc<SocketFault>,
        steps: Option<Arc<Semaphore>>,
    ) -> Self {
        Self { sender: to, sent_events: 0, fault, socket_fault: trick, lockstep_permits: steps }
    }

    async fn send_events(&mut self, events: Vec<String>) -> Result<(), EarlyEnd> {
        for event in events {
            self.send_event(event).await?;
        }
        Ok(())
    }

    async fn send_event(&mut self, event: String) -> Result<(), EarlyEnd> {
        self.apply_fault().await?;
        if self.sent_events > 0
            && let Some(steps) = &self.lockstep_permits
        {
            steps.acquire().await.map_err(|_| EarlyEnd::Cut)?.forget();
        }
        self.sent_events += 1;
        self.send_chunk(Ok(event.into())).await
    }

    async fn apply_fault(&mut self) -> Result<(), EarlyEnd> {
        let Some(fault) = self.fault else { return Ok(()) };
        match fault {
            EmulatedFault::SlowFirst(time) if self.sent_events == 0 => sleep(time).await,
            EmulatedFault::CloseAfterHead => return self.abort_body().await,
            EmulatedFault::DieMidstream(n) if n == self.sent_events => return self.abort_body().await,
            EmulatedFault::CutMidstream(n) if n == self.sent_events => return Err(EarlyEnd::Cut),
            EmulatedFault::Stall(n) if n == self.sent_events => std::future::pending().await,
            EmulatedFault::AbortEvent(n) if n == self.sent_events => return Err(EarlyEnd::Aborted),
            EmulatedFault::ErrorEvent(n) if n == self.sent_events => {
                self.send_chunk(Ok(data_event(&ApiError::engine_dead().to_json()).into())).await?;
                self.send_chunk(Ok(Bytes::from_static(b"data: [DONE]\n\n"))).await?;
                return Err(EarlyEnd::Cut);
            }
            EmulatedFault::BadChunk(n) if n == self.sent_events => {
                sleep(FLUSH_DELAY).await;
                self.socket_fault.garble_next_write();
            }
            _ => {}
        }
        Ok(())
    }

    async fn abort_body(&mut self) -> Result<(), EarlyEnd> {
        sleep(FLUSH_DELAY).await;
        self.send_chunk(Err(BodyAborted)).await?;
        Err(EarlyEnd::Cut)
    }

    async fn send_chunk(&mut self, said: BodyChunk) -> Result<(), EarlyEnd> {
        self.sender.send(said).await.map_err(|_| EarlyEnd::Cut)
    }
}
