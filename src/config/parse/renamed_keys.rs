//! Keys with an earlier name: the error for the old name gives the new one.

/// A row per renamed key: its table (empty for keys of a pool), the old name and the new one.
const RENAMED_KEYS: [(&str, &str, &str); 13] = [
    ("", "ask_for_usage", "request_usage"),
    ("", "check", "health_check"),
    ("", "eject_growth", "eject_backoff"),
    ("", "refuse", "block_paths"),
    ("", "replay_percent", "retry_budget_percent"),
    ("", "replay_spare", "retry_budget_min"),
    ("", "stalled", "stall_timeout"),
    ("record", "keep", "max_files"),
    ("timeouts", "body", "client_body"),
    ("timeouts", "header", "client_header"),
    ("timeouts", "hold", "first_event_hold"),
    ("timeouts", "send", "client_send"),
    ("timeouts", "waiting", "waiting_comment"),
];

/// Returns the present name of the key that was once `name` in `table`; a pool's keys are also known at the top.
pub(in crate::config) fn renamed_key(table: &str, name: &str) -> Option<&'static str> {
    let table = if table == "pool" { "" } else { table };
    let row = RENAMED_KEYS.iter().find(|(of, old, _)| *of == table && *old == name);
    row.map(|(.., new)| *new)
}
