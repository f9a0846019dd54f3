//! The generation of a response, whole or streamed.

use super::event_sink::{EarlyEnd, EventSink};
use crate::dialect::Dialect;
use crate::emulate::api_error::ApiError;
use crate::emulate::dialects::answer::{AnswerProgress, DialectWriter, TokenChunk};
use crate::emulate::faults::EmulatedFault;
use crate::emulate::runner::SubmittedRequests;
use crate::engine::EngineEventKind;

/// A generation in progress.
pub(in crate::emulate) struct Generation {
    dialect: Dialect,
    answer: AnswerProgress,
    writer: Box<dyn DialectWriter>,
    submitted: SubmittedRequests,
    /// Tokens per event.
    tokens_per_event: u64,
    /// Tokens sent, by choice.
    sent_tokens: Vec<u64>,
}

impl Generation {
    pub(in crate::emulate) fn new(
        dialect: Dialect,
        answer: AnswerProgress,
        writer: Box<dyn DialectWriter>,
        submitted: SubmittedRequests,
        tokens_per_event: u64,
    ) -> Self {
        let sent_tokens = vec![0; answer.request.choice_count()];
        Self { dialect, answer, writer, submitted, tokens_per_event: tokens_per_event.max(1), sent_tokens }
    }

    /// Waits for the last token. Returns the response's JSON.
    ///
    /// *Errors*: the fault is an error.
    pub(in crate::emulate) async fn collect_response(
        &mut self,
        fault: Option<EmulatedFault>,
    ) -> Result<String, ApiError> {
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

    /// Sends all events. Returns the response as JSON; `None` if the stream ended early.
    pub(in crate::emulate) async fn stream_response(&mut self, sink: &mut EventSink) -> Option<String> {
        match self.write_events(sink).await {
            Ok(()) => Some(self.writer.write_response(&self.answer, self.answer.request.finish_reason)),
            Err(EarlyEnd::Cut) => None,
            Err(EarlyEnd::Aborted) => {
                self.write_abort_events(sink).await;
                None
            }
        }
    }

    async fn write_events(&mut self, sink: &mut EventSink) -> Result<(), EarlyEnd> {
        // vLLM creates a response at once and opens the other dialects with the first token.
        let mut opened = self.dialect == Dialect::Responses;
        if opened {
            sink.send_events(self.writer.write_opening_events(&self.answer)).await?;
        }
        while let Some((choice, kind)) = self.submitted.next_event().await {
            if !opened {
                opened = true;
                sink.send_events(self.writer.write_opening_events(&self.answer)).await?;
            }
            if let Some(chunk) = self.on_engine_event(choice, kind) {
                sink.send_events(self.writer.write_chunk_events(&self.answer, &chunk)).await?;
            }
        }
        sink.send_events(self.writer.write_final_events(&self.answer)).await
    }

    async fn write_abort_events(&mut self, sink: &mut EventSink) {
        sink.clear_fault();
        for choice in 0..self.sent_tokens.len() {
            let chunk = TokenChunk { choice, tokens: 0..0, finish_reason: Some("abort") };
            let events = self.writer.write_chunk_events(&self.answer, &chunk);
            // Fails only if the client has left.
            let _ = sink.send_events(events).await;
        }
        let _ = sink.send_events(self.writer.write_final_events(&self.answer)).await;
    }

    /// Records an event of the engine. Returns the tokens to send now.
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
        let sent = self.sent_tokens.get_mut(choice)?;
        let last = *generated == self.answer.request.output_tokens;
        if !last && *generated - *sent < self.tokens_per_event {
            return None;
        }
        let tokens = std::mem::replace(sent, *generated)..*generated;
        Some(TokenChunk { choice, tokens, finish_reason: last.then_some(self.answer.request.finish_reason) })
    }
}
