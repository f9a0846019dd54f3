//! Idle connections to replicas.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use super::connection::UpstreamConnection;
use crate::units::{Moment, ReplicaId};

/// Most idle connections to one replica, per worker.
const MAX_IDLE_PER_REPLICA: usize = 512;

/// One worker's idle connections; the most recently used is taken first.
#[derive(Default)]
pub(super) struct IdleConnections {
    connections: RefCell<BTreeMap<ReplicaId, Vec<UpstreamConnection>>>,
}

impl IdleConnections {
    /// Takes a usable connection that has been idle for less than `keepalive`; `None` if there is none.
    ///
    /// `keepalive` must be shorter than the replicas' own: vLLM closes after 5 s.
    pub(super) async fn acquire(
        &self,
        replica: ReplicaId,
        now: Moment,
        keepalive: Duration,
    ) -> Option<UpstreamConnection> {
        poll_fn(|cx| {
            let mut connections = self.connections.borrow_mut();
            let Some(idle) = connections.get_mut(&replica) else { return Poll::Ready(None) };
            while let Some(mut connection) = idle.pop() {
                if !is_expired(connection.idle_since, now, keepalive) && connection.is_reusable(cx) {
                    connection.reused = true;
                    return Poll::Ready(Some(connection));
                }
            }
            Poll::Ready(None)
        })
        .await
    }

    /// Keeps a connection whose response has ended; closes it if there are too many.
    pub(super) fn insert(&self, replica: ReplicaId, mut connection: UpstreamConnection, now: Moment) {
        connection.idle_since = now;
        let mut connections = self.connections.borrow_mut();
        let idle = connections.entry(replica).or_default();
        if idle.len() < MAX_IDLE_PER_REPLICA {
            idle.push(connection);
        }
    }

    /// Closes connections that have been idle for `keepalive` or longer.
    pub(super) fn sweep(&self, now: Moment, keepalive: Duration) {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|_, idle| {
            // In the order in which they became idle, the oldest first.
            let fresh = idle.iter().position(|c| !is_expired(c.idle_since, now, keepalive)).unwrap_or(idle.len());
            idle.drain(..fresh);
            !idle.is_empty()
        });
    }
}

fn is_expired(idle_since: Moment, now: Moment, keepalive: Duration) -> bool {
    now.since(idle_since) >= keepalive
}
