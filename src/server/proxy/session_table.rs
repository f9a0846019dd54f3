//! The replicas of sticky sessions that clients or replicas name.

use std::time::Duration;

use super::bounded_map::BoundedMap;
use crate::units::{Moment, ReplicaId};

/// The most sessions that are kept, of all pools together. At most 512 bytes of key each: about 70 MB at worst.
const MAX_SESSIONS: usize = 100_000;
/// The longest key, pool included. Sessions with longer ones are not kept.
const MAX_SESSION_KEY_BYTES: usize = 512;

/// The key of a session. Pools do not share sessions.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionKey<'a> {
    pub(super) pool: &'a str,
    pub(super) id: &'a [u8],
}

impl SessionKey<'_> {
    /// Returns the key as bytes; `None` if it is too long.
    fn to_bytes(self) -> Option<Vec<u8>> {
        let fits = self.pool.len() + 1 + self.id.len() <= MAX_SESSION_KEY_BYTES;
        fits.then(|| [self.pool.as_bytes(), b"\0", self.id].concat())
    }
}

/// A bounded map from sessions to replicas. Sessions that are not used are evicted first.
pub(in crate::server) struct SessionTable {
    replicas: BoundedMap<ReplicaId>,
}

impl Default for SessionTable {
    fn default() -> Self {
        Self { replicas: BoundedMap::new(MAX_SESSIONS) }
    }
}

impl SessionTable {
    /// Returns a session's replica and keeps the session for another `timeout`; `None` for an unknown session.
    pub(super) fn get(&self, key: SessionKey<'_>, timeout: Duration, now: Moment) -> Option<ReplicaId> {
        self.replicas.get_and_extend(&key.to_bytes()?, timeout, now)
    }

    /// Records the replica of a session for `timeout`.
    pub(super) fn insert(&self, key: SessionKey<'_>, replica: ReplicaId, timeout: Duration, now: Moment) {
        if let Some(key) = key.to_bytes() {
            self.replicas.insert(&key, replica, timeout, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn moment_at(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(seconds)
    }

    fn session_key(id: &[u8]) -> SessionKey<'_> {
        SessionKey { pool: "p", id }
    }

    #[test]
    fn session_expires_when_it_is_not_used_for_its_timeout() {
        let table = SessionTable::default();
        table.insert(session_key(b"a"), ReplicaId(1), HOUR, moment_at(0));
        assert_eq!(table.get(session_key(b"a"), HOUR, moment_at(3_000)), Some(ReplicaId(1)));
        assert_eq!(table.get(session_key(b"a"), HOUR, moment_at(6_000)), Some(ReplicaId(1)), "it was used in between");
        assert_eq!(table.get(session_key(b"a"), HOUR, moment_at(9_601)), None);
        assert_eq!(
            table.get(SessionKey { pool: "q", id: b"a" }, HOUR, moment_at(6_000)),
            None,
            "pools do not share sessions"
        );
        table.insert(session_key(b"b"), ReplicaId(1), HOUR, moment_at(9_700));
        assert_eq!(table.replicas.len(), 1);
    }

    #[test]
    fn moved_session_stays_one_session() {
        let table = SessionTable::default();
        table.insert(session_key(b"a"), ReplicaId(1), HOUR, moment_at(0));
        table.insert(session_key(b"a"), ReplicaId(2), HOUR, moment_at(1));
        assert_eq!(table.get(session_key(b"a"), HOUR, moment_at(2)), Some(ReplicaId(2)));
        assert_eq!(table.replicas.len(), 1);
    }

    #[test]
    fn table_is_bounded_and_keeps_used_sessions() {
        let table = SessionTable::default();
        table.insert(session_key(b"used"), ReplicaId(7), HOUR, moment_at(0));
        for i in 0..MAX_SESSIONS + 10 {
            table.insert(session_key(&i.to_le_bytes()), ReplicaId(1), HOUR, moment_at(1));
            if i % 1_000 == 0 {
                table.get(session_key(b"used"), HOUR, moment_at(1));
            }
        }
        assert_eq!(table.replicas.len(), MAX_SESSIONS);
        assert_eq!(table.get(session_key(b"used"), HOUR, moment_at(2)), Some(ReplicaId(7)));
        assert_eq!(table.get(session_key(&0usize.to_le_bytes()), HOUR, moment_at(2)), None);
        table.insert(session_key(&[b'x'; MAX_SESSION_KEY_BYTES]), ReplicaId(1), HOUR, moment_at(3));
        assert_eq!(table.replicas.len(), MAX_SESSIONS, "a session with a key that is too long is not kept");
    }
}
