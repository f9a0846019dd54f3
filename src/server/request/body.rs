//! Reading a request's body within the limit of one request and the memory budget of all.

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

/// The memory that the bodies of all requests together may take.
#[derive(Debug)]
pub(in crate::server) struct BodyMemoryBudget {
    free_bytes: AtomicUsize,
}

/// One body's part of the budget, given back on drop.
#[derive(Debug)]
struct BudgetShare {
    budget: Arc<BodyMemoryBudget>,
    bytes: usize,
}

/// A request's body in one piece; counted against the budget until dropped.
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
    fn grow(&mut self, bytes: usize) -> Result<(), RequestError> {
        let take = |free: usize| free.checked_sub(bytes);
        match self.budget.free_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => {
                self.bytes += bytes;
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

/// Reads a body to its end. A declared length that is too large is refused before the body is read.
///
/// *Errors*: the body exceeds the limit or the budget, sends nothing for `read_timeout`, or breaks off.
pub(in crate::server) async fn read_body(
    mut body: Incoming,
    headers: &HeaderMap,
    budget: &Arc<BodyMemoryBudget>,
    limits: &Limits,
    read_timeout: Duration,
) -> Result<BufferedBody, RequestError> {
    let limit_bytes = limits.body_bytes;
    let mut share = budget.new_share();
    if body.is_end_stream() {
        return Ok(BufferedBody { bytes: Bytes::new(), _share: share });
    }
    let declared = content_length(headers).map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    if declared.is_some_and(|n| n > limit_bytes) {
        return Err(RequestError::BodyTooLarge { limit_bytes });
    }
    share.grow(declared.unwrap_or(0))?;
    let mut buffer = BodyBuffer::new(declared, limit_bytes);
    loop {
        let frame = timeout(read_timeout, body.frame()).await.map_err(|_| RequestError::BodyTimeout(read_timeout))?;
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|_| RequestError::BodyIncomplete)?.into_data() else { continue };
        share.grow(buffer.len().saturating_add(data.len()).min(limit_bytes).saturating_sub(share.bytes))?;
        if !buffer.push(data) {
            return Err(RequestError::BodyTooLarge { limit_bytes });
        }
    }
    Ok(BufferedBody { bytes: buffer.finish(), _share: share })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_shares_are_given_back_and_never_exceed_the_budget() {
        let budget = BodyMemoryBudget::new(100);
        let mut share = budget.new_share();
        share.grow(60).unwrap();
        assert!(matches!(budget.new_share().grow(41), Err(RequestError::BodyBudgetExhausted)));
        budget.new_share().grow(40).unwrap();
        drop(share);
        budget.new_share().grow(100).unwrap();
    }
}
