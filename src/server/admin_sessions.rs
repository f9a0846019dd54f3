//! The sessions of browsers that have shown the admin token.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::HeaderMap;

use crate::clock;
use crate::http::find_cookie;
use crate::units::Moment;

/// The cookie with the id of a session.
pub(super) const SESSION_COOKIE: &str = "tokenweir_admin";

/// The most sessions at once; a further one ends the oldest.
const MAX_SESSIONS: usize = 64;
/// The longest time that a session lasts.
const MAX_AGE: Duration = Duration::from_secs(12 * 60 * 60);
/// The time between two failed logins, so that a token cannot be guessed fast.
const LOGIN_INTERVAL: Duration = Duration::from_millis(500);

/// The running sessions.
#[derive(Default)]
pub(super) struct AdminSessions(Mutex<SessionList>);

#[derive(Default)]
struct SessionList {
    /// Oldest first.
    sessions: VecDeque<(String, Moment)>,
    next_login_at: Moment,
}

impl AdminSessions {
    /// Starts a session. Returns its id, which cannot be guessed.
    pub(super) fn start(&self, now: Moment) -> String {
        let id: String = (0..4).map(|_| format!("{:016x}", clock::random_seed())).collect();
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if list.sessions.len() >= MAX_SESSIONS {
            list.sessions.pop_front();
        }
        list.sessions.push_back((id.clone(), now + MAX_AGE));
        id
    }

    /// Returns whether a request has the cookie of a running session.
    pub(super) fn has_session(&self, headers: &HeaderMap, now: Moment) -> bool {
        session_id(headers).is_some_and(|id| self.contains(id, now))
    }

    fn contains(&self, id: &str, now: Moment) -> bool {
        let list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // An id has 256 random bits: the time that a comparison takes reveals nothing of use.
        list.sessions.iter().any(|(known, ends_at)| known == id && now < *ends_at)
    }

    /// Ends the session of a request, if it has one.
    pub(super) fn end(&self, headers: &HeaderMap) {
        let Some(id) = session_id(headers) else { return };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sessions.retain(|(known, _)| known != id);
    }

    /// Ends all sessions: the token that they have shown is no longer valid.
    pub(super) fn end_all(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sessions.clear();
    }

    /// Returns whether a login may be tried now.
    pub(super) fn may_log_in(&self, now: Moment) -> bool {
        now >= self.0.lock().unwrap_or_else(PoisonError::into_inner).next_login_at
    }

    /// Records a failed login.
    pub(super) fn record_failure(&self, now: Moment) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next_login_at = now + LOGIN_INTERVAL;
    }
}

/// Returns the id of the session that a request names.
fn session_id(headers: &HeaderMap) -> Option<&str> {
    std::str::from_utf8(find_cookie(headers, SESSION_COOKIE)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_bounded_in_number_and_age() {
        let sessions = AdminSessions::default();
        let now = Moment::ZERO + Duration::from_secs(1);
        let ids: Vec<String> = (0..=MAX_SESSIONS).map(|_| sessions.start(now)).collect();
        assert!(ids.iter().all(|id| id.len() == 64));
        assert!(!sessions.contains(&ids[0], now) && sessions.contains(&ids[1], now));
        assert!(!sessions.contains(&ids[1], now + MAX_AGE));
        let mut headers = HeaderMap::new();
        headers.append("cookie", format!("a=1; {SESSION_COOKIE}={}; b=2", ids[1]).parse().unwrap());
        assert!(sessions.has_session(&headers, now));
        sessions.end(&headers);
        assert!(!sessions.has_session(&headers, now) && sessions.contains(&ids[2], now));
        sessions.end_all();
        assert!(!ids.iter().any(|id| sessions.contains(id, now)));
    }
}
