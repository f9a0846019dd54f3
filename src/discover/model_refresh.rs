//! Requests to read lists of models before their interval ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::units::{Moment, ReplicaId};

/// The shortest time between two rounds, and between two extra reads of one replica.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// How long a request waits for a round: as long as a reload waits for new replicas.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// Requests that wait for one replica: one of its own, and one of a round.
const MAX_WAITING_READS: usize = 2;

/// Has lists of models read at once: that of one replica which no longer knows a model, or all of those that are
/// learned, for a model which is not known.
///
/// All threads share it. However many requests ask, each replica is asked at most once a second in either way.
#[derive(Debug, Default)]
pub struct ModelRefresh {
    /// Guards the table and the last round.
    state: Mutex<RefreshState>,
}

/// A request to a poller to read its replica's models. The poller drops it after the read.
#[derive(Debug)]
pub(super) struct ReadRequest {
    /// Dropped by all pollers of a round, it ends the round.
    _round: Option<Arc<watch::Sender<()>>>,
}

#[derive(Debug, Default)]
struct RefreshState {
    pollers: BTreeMap<ReplicaId, PollerEntry>,
    round: Option<Round>,
}

#[derive(Debug)]
struct PollerEntry {
    requests: mpsc::Sender<ReadRequest>,
    /// Whether some pool takes its models from the replica's list.
    learns_models: bool,
    /// The last request for this replica alone.
    requested_at: Option<Moment>,
}

/// The last round of reads.
#[derive(Debug)]
struct Round {
    started_at: Moment,
    /// Closed at its end.
    finished: watch::Receiver<()>,
}

impl ModelRefresh {
    /// Asks for the models of one replica, and does not wait.
    pub fn request_replica(&self, replica: ReplicaId, now: Moment) {
        let mut state = self.lock_state();
        let Some(entry) = state.pollers.get_mut(&replica) else { return };
        if entry.requested_at.is_none_or(|before| now.since(before) >= MIN_INTERVAL) {
            entry.requested_at = Some(now);
            // Full: the read that it waits for is still to come.
            let _ = entry.requests.try_send(ReadRequest { _round: None });
        }
    }

    /// Reads the models of all replicas whose lists are learned, and waits until they have answered, at most 2 s.
    ///
    /// If a round has begun within the last second, waits for the end of that one.
    pub async fn refresh_all(&self, now: Moment) {
        let mut finished = self.join_round(now);
        // Nothing is ever sent: the end is the drop of the last sender.
        let _ = timeout(MAX_WAIT, finished.changed()).await;
    }

    fn join_round(&self, now: Moment) -> watch::Receiver<()> {
        let mut state = self.lock_state();
        if let Some(round) = &state.round
            && now.since(round.started_at) < MIN_INTERVAL
        {
            return round.finished.clone();
        }
        let (sender, finished) = watch::channel(());
        let sender = Arc::new(sender);
        for entry in state.pollers.values().filter(|entry| entry.learns_models) {
            // Full: the replica has not answered for a second.
            let _ = entry.requests.try_send(ReadRequest { _round: Some(sender.clone()) });
        }
        state.round = Some(Round { started_at: now, finished: finished.clone() });
        finished
    }

    /// Registers the poller of a replica, in place of an earlier one. Returns the requests to it.
    pub(super) fn register(&self, replica: ReplicaId, learns_models: bool) -> mpsc::Receiver<ReadRequest> {
        let (requests, receiver) = mpsc::channel(MAX_WAITING_READS);
        self.lock_state().pollers.insert(replica, PollerEntry { requests, learns_models, requested_at: None });
        receiver
    }

    /// Forgets all pollers.
    pub(super) fn clear(&self) {
        self.lock_state().pollers.clear();
    }

    fn lock_state(&self) -> MutexGuard<'_, RefreshState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_millis(milliseconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(9) + Duration::from_millis(milliseconds)
    }

    #[test]
    fn replica_is_asked_once_a_second() {
        let refresh = ModelRefresh::default();
        let mut requests = refresh.register(ReplicaId(1), false);
        for millis in [0, 1, 999, 1_000, 1_500] {
            refresh.request_replica(ReplicaId(1), at_millis(millis));
            refresh.request_replica(ReplicaId(2), at_millis(millis));
        }
        assert!(requests.try_recv().is_ok() && requests.try_recv().is_ok());
        assert!(requests.try_recv().is_err(), "the third was within a second");
    }

    #[tokio::test]
    async fn round_is_shared_and_ends_with_its_last_read() {
        let refresh = ModelRefresh::default();
        let mut learned = refresh.register(ReplicaId(1), true);
        let mut configured = refresh.register(ReplicaId(2), false);
        let waits = futures_util::future::join(refresh.refresh_all(at_millis(0)), refresh.refresh_all(at_millis(500)));
        let read = async {
            let request = learned.recv().await.unwrap();
            assert!(learned.try_recv().is_err(), "one read for both");
            drop(request);
        };
        tokio::join!(waits, read);
        refresh.refresh_all(at_millis(999)).await;
        assert!(learned.try_recv().is_err(), "that round has ended");
        assert!(configured.try_recv().is_err());
        let before = refresh.join_round(at_millis(1_000));
        assert!(learned.try_recv().is_ok());
        drop(before);
    }
}
