//! Connections that wait for their next request.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use super::connection::UpstreamConnection;
use super::is_expired;
use crate::units::{Moment, ReplicaId};

/// The most connections kept idle to one replica, per worker.
const MAX_IDLE_PER_REPLICA: usize = 512;

/// One worker's idle connections, the latest used taken first.
#[derive(Default)]
pub(super) struct IdleConnections {
    connections: RefCell<BTreeMap<ReplicaId, Vec<UpstreamConnection>>>,
}

impl IdleConnections {
    /// Takes a connection that can be used, if there is one. `keep` must be shorter than the replicas' own keep-alive:
    /// vLLM closes after 5 s.
    pub(super) async fn acquire(&self, replica: ReplicaId, now: Moment, keep: Duration) -> Option<UpstreamConnection> {
        poll_fn(|cx| {
            let mut links = self.connections.borrow_mut();
            let Some(waiting) = links.get_mut(&replica) else { return Poll::Ready(None) };
            while let Some(mut link) = waiting.pop() {
                if !is_expired(link.idle_since, now, keep) && link.is_reusable(cx) {
                    link.reused = true;
                    return Poll::Ready(Some(link));
                }
            }
            Poll::Ready(None)
        })
        .await
    }

    /// Keeps a connection whose answer has ended.
    pub(super) fn insert(&self, replica: ReplicaId, mut link: UpstreamConnection, now: Moment) {
        link.idle_since = now;
        let mut links = self.connections.borrow_mut();
        let waiting = links.entry(replica).or_default();
        if waiting.len() < MAX_IDLE_PER_REPLICA {
            waiting.push(link);
        }
    }

    /// Closes what has waited too long.
    pub(super) fn sweep(&self, now: Moment, keep: Duration) {
        let mut links = self.connections.borrow_mut();
        links.retain(|_, waiting| {
            // Oldest first: they were put in the order they became idle.
            let fresh = waiting.iter().position(|l| !is_expired(l.idle_since, now, keep)).unwrap_or(waiting.len());
            waiting.drain(..fresh);
            !waiting.is_empty()
        });
    }
}
