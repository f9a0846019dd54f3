//! Gathering a request's body within the limits of one request and of all together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::body_buffer::BodyBuffer;
use crate::config::Limits;
use crate::http::content_length;
use crate::server::RequestError;

/// The bytes of request bodies that may still be taken in, all requests together.
#[derive(Debug)]
pub(in crate::server) struct BodyMemoryBudget {
    free_bytes: AtomicUsize,
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
struct BudgetShare {
    budget: Arc<BodyMemoryBudget>,
    bytes: usize,
}

/// A request's body in one piece, on the in-flight budget until it is dropped.
#[derive(Debug)]
pub(in crate::server) struct BufferedBody {
    pub(in crate::server) bytes: Bytes,
    _share: BudgetShare,
}

impl BodyMemoryBudget {
    pub(in crate::server) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { free_bytes: AtomicUsize::new(bytes) })
    }

    fn new_share(self: &Arc<Self>) -> BudgetShare {
        BudgetShare { budget: self.clone(), bytes: 0 }
    }
}

impl BudgetShare {
    fn grow(&mut self, by: usize) -> Result<(), RequestError> {
        let take = |left: usize| left.checked_sub(by);
        match self.budget.free_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => {
                self.bytes += by;
                Ok(())
            }
            Err(_) => Err(RequestError::BodyBudgetExhausted),
        }
    }
}

impl Drop for BudgetShare {
    fn drop(&mut self) {
        self.budget.free_bytes.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// Reads a body to its end.
///
/// *Errors*: it is larger than a request may be, exceeds the budget, stalls or breaks off. A body that says its length
/// is refused before it is read.
pub(in crate::server) async fn read_body(
    mut body: Incoming,
    headers: &HeaderMap,
    budget: &Arc<BodyMemoryBudget>,
    limits: &Limits,
    patience: Duration,
) -> Result<BufferedBody, RequestError> {
    let limit_bytes = limits.body_bytes;
    let mut share = budget.new_share();
    if body.is_end_stream() {
        return Ok(BufferedBody { bytes: Bytes::new(), _share: share });
    }
    let known = content_length(headers).map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    if known.is_some_and(|n| n > limit_bytes) {
        return Err(RequestError::BodyTooLarge { limit_bytes });
    }
    share.grow(known.unwrap_or(0))?;
    let mut growing = BodyBuffer::new(known, limit_bytes);
    loop {
        let frame = timeout(patience, body.frame()).await.map_err(|_| RequestError::BodyTimeout(patience))?;
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|_| RequestError::BodyIncomplete)?.into_data() else { continue };
        share.grow(growing.len().saturating_add(data.len()).min(limit_bytes).saturating_sub(share.bytes))?;
        if !growing.push(data) {
            return Err(RequestError::BodyTooLarge { limit_bytes });
        }
    }
    Ok(BufferedBody { bytes: growing.finish(), _share: share })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_given_back_and_never_exceed_the_budget() {
        let budget = BodyMemoryBudget::new(100);
        let mut share = budget.new_share();
        share.grow(60).unwrap();
        assert!(matches!(budget.new_share().grow(41), Err(RequestError::BodyBudgetExhausted)));
        budget.new_share().grow(40).unwrap();
        drop(share);
        budget.new_share().grow(100).unwrap();
    }
}
