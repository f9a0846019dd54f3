//! The sender of a stream's events.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;

use crate::emulate::api_error::ApiError;
use crate::emulate::dialects::openai::data_event;
use crate::emulate::faults::EmulatedFault;
use crate::emulate::faulty_socket::{FLUSH_DELAY, SocketFault};
use crate::emulate::response_body::{BodyAborted, BodyChunk};

/// The way in which a stream ended early.
pub(super) enum EarlyEnd {
    /// Nothing more is sent.
    Cut,
    /// The stream ends as by a replica that shuts down.
    Aborted,
}

/// The destination of a stream's events, with the fault that they meet.
pub(in crate::emulate) struct EventSink {
    sender: mpsc::Sender<BodyChunk>,
    sent_events: u64,
    fault: Option<EmulatedFault>,
    socket_fault: Arc<SocketFault>,
    /// If set, every event but the first needs a permit.
    lockstep_permits: Option<Arc<Semaphore>>,
}

impl EventSink {
    pub(in crate::emulate) fn new(
        sender: mpsc::Sender<BodyChunk>,
        fault: Option<EmulatedFault>,
        socket_fault: Arc<SocketFault>,
        lockstep_permits: Option<Arc<Semaphore>>,
    ) -> Self {
        Self { sender, sent_events: 0, fault, socket_fault, lockstep_permits }
    }

    /// Sends events, each after its fault.
    ///
    /// *Errors*: the stream ends here.
    pub(super) async fn send_events(&mut self, events: Vec<String>) -> Result<(), EarlyEnd> {
        for event in events {
            self.send_event(event).await?;
        }
        Ok(())
    }

    async fn send_event(&mut self, event: String) -> Result<(), EarlyEnd> {
        self.apply_fault().await?;
        if self.sent_events > 0
            && let Some(permits) = &self.lockstep_permits
        {
            permits.acquire().await.map_err(|_| EarlyEnd::Cut)?.forget();
        }
        self.sent_events += 1;
        self.send_chunk(Ok(event.into())).await
    }

    /// Sends further events without a fault.
    pub(super) fn clear_fault(&mut self) {
        self.fault = None;
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

    async fn send_chunk(&mut self, chunk: BodyChunk) -> Result<(), EarlyEnd> {
        self.sender.send(chunk).await.map_err(|_| EarlyEnd::Cut)
    }
}
