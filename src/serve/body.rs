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

use super::Refusal;
use super::growing::Growing;
use crate::config::Limits;

/// The bytes of request bodies that may still be taken in, all requests together.
#[derive(Debug)]
pub(super) struct Budget {
    left: AtomicUsize,
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

/// A request's body in one piece, on the in-flight budget until it is dropped.
#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) bytes: Bytes,
    _share: Share,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(bytes) })
    }

    fn share(self: &Arc<Self>) -> Share {
        Share { budget: self.clone(), bytes: 0 }
    }
}

impl Share {
    fn grow(&mut self, by: usize) -> Result<(), Refusal> {
        let take = |left: usize| left.checked_sub(by);
        match self.budget.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => {
                self.bytes += by;
                Ok(())
            }
            Err(_) => Err(Refusal::BodiesInFlight),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// Reads a body to its end.
///
/// *Errors*: it is larger than a request may be, exceeds the budget, stalls or breaks off. A body that says its length
/// is refused before it is read.
pub(super) async fn gather(
    mut body: Incoming,
    headers: &HeaderMap,
    budget: &Arc<Budget>,
    limits: &Limits,
    patience: Duration,
) -> Result<Gathered, Refusal> {
    let limit_bytes = limits.body_bytes;
    let mut share = budget.share();
    if body.is_end_stream() {
        return Ok(Gathered { bytes: Bytes::new(), _share: share });
    }
    let known = content_length(headers);
    if known.is_some_and(|n| n > limit_bytes) {
        return Err(Refusal::BodyTooLarge { limit_bytes });
    }
    share.grow(known.unwrap_or(0))?;
    let mut growing = Growing::new(known, limit_bytes);
    loop {
        let frame = timeout(patience, body.frame()).await.map_err(|_| Refusal::BodyStalled(patience))?;
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|_| Refusal::BodyBroken)?.into_data() else { continue };
        share.grow(growing.len().saturating_add(data.len()).min(limit_bytes).saturating_sub(share.bytes))?;
        if !growing.push(data) {
            return Err(Refusal::BodyTooLarge { limit_bytes });
        }
    }
    Ok(Gathered { bytes: growing.finish(), _share: share })
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_given_back_and_never_exceed_the_budget() {
        let budget = Budget::new(100);
        let mut share = budget.share();
        share.grow(60).unwrap();
        assert!(matches!(budget.share().grow(41), Err(Refusal::BodiesInFlight)));
        budget.share().grow(40).unwrap();
        drop(share);
        budget.share().grow(100).unwrap();
    }
}
