//! Reading and decoding a request's body within the limit of one request and the memory budget of all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::body_buffer::BodyBuffer;
use crate::http::{ContentCodings, DecodeError, content_length};
use crate::server::RequestError;

/// Bodies are decoded on the worker itself up to this size, coded and decoded.
const MAX_INLINE_DECODE_BYTES: usize = 256 << 10;

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
    share: BudgetShare,
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

    fn shrink(&mut self, bytes: usize) {
        self.budget.free_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes -= bytes;
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
    limit_bytes: usize,
    read_timeout: Duration,
) -> Result<BufferedBody, RequestError> {
    let mut share = budget.new_share();
    if body.is_end_stream() {
        return Ok(BufferedBody { bytes: Bytes::new(), share });
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
    Ok(BufferedBody { bytes: buffer.finish(), share })
}

/// Decodes a body that has a `Content-Encoding`, and removes that header. *Cost*: a look-up of the header for others.
///
/// A body that is large, or becomes so, is decoded on another thread, for as many bodies at once as `slots` has permits.
///
/// *Errors*: the coding is not known, the body is corrupt, or the decoded body exceeds the limit or the budget.
pub(in crate::server) async fn decode_body(
    body: BufferedBody,
    headers: &mut HeaderMap,
    limit_bytes: usize,
    slots: &Semaphore,
) -> Result<BufferedBody, RequestError> {
    if !headers.contains_key(header::CONTENT_ENCODING) {
        return Ok(body);
    }
    let codings = content_codings(headers)?;
    headers.remove(header::CONTENT_ENCODING);
    if codings.is_empty() || body.bytes.is_empty() {
        return Ok(body);
    }
    let BufferedBody { bytes, mut share } = body;
    if bytes.len() <= MAX_INLINE_DECODE_BYTES {
        match decode_bytes(&codings, bytes.clone(), &mut share, limit_bytes.min(MAX_INLINE_DECODE_BYTES)) {
            Err(DecodeError::TooLarge) => {}
            Err(error) => return Err(request_error(error, limit_bytes)),
            Ok(bytes) => return Ok(BufferedBody { bytes, share }),
        }
    }
    let _slot = slots.acquire().await;
    let decoding = tokio::task::spawn_blocking(move || {
        let bytes = decode_bytes(&codings, bytes, &mut share, limit_bytes)?;
        Ok(BufferedBody { bytes, share })
    });
    // Only a runtime that is shutting down drops the task.
    let Ok(decoded) = decoding.await else { return Err(RequestError::BodyIncomplete) };
    decoded.map_err(|error| request_error(error, limit_bytes))
}

/// Checks that the body of a request has known codings only.
///
/// *Errors*: it has another one.
pub(in crate::server) fn check_content_coding(headers: &HeaderMap) -> Result<(), RequestError> {
    content_codings(headers).map(drop)
}

fn content_codings(headers: &HeaderMap) -> Result<ContentCodings, RequestError> {
    ContentCodings::parse(headers).map_err(RequestError::UnsupportedCoding)
}

/// Returns the decoded body. If that succeeds `share` counts it in place of `bytes`, and else `bytes` alone.
///
/// *Errors*: the body is corrupt, or exceeds the limit or the budget.
fn decode_bytes(
    codings: &ContentCodings,
    bytes: Bytes,
    share: &mut BudgetShare,
    limit_bytes: usize,
) -> Result<Bytes, DecodeError> {
    let coded_bytes = share.bytes;
    let mut buffer = BodyBuffer::new(None, limit_bytes);
    let decoded = codings.decode(bytes, limit_bytes, |piece| {
        share.grow(piece.len()).map_err(|_| DecodeError::NoMemory)?;
        if buffer.push(Bytes::copy_from_slice(piece)) { Ok(()) } else { Err(DecodeError::TooLarge) }
    });
    share.shrink(if decoded.is_ok() { coded_bytes } else { share.bytes - coded_bytes });
    decoded.map(|()| buffer.finish())
}

fn request_error(error: DecodeError, limit_bytes: usize) -> RequestError {
    match error {
        DecodeError::TooLarge => RequestError::BodyTooLarge { limit_bytes },
        DecodeError::NoMemory => RequestError::BodyBudgetExhausted,
        DecodeError::Corrupt(cause) => RequestError::CorruptCoding(cause.to_string()),
    }
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
