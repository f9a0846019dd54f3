//! How many files the process may open, and whether that is enough for what is configured.

use std::fs;

use crate::config::Limits;
use crate::telemetry::{ErrorLog, LogLevel};

/// What the process needs for itself: logs, listeners, event queues.
const RESERVED_FILES: usize = 64;

/// Says so where there may be more clients than files. A client that waits for an answer takes two: its connection and the
/// replica's.
pub(super) fn warn_if_too_few(limits: &Limits, errors: &ErrorLog) {
    let Some(files) = fs::read_to_string("/proc/self/limits").ok().as_deref().and_then(soft_limit) else { return };
    let wanted = limits.connections.saturating_mul(2).saturating_add(RESERVED_FILES);
    if files < wanted {
        let connections = limits.connections;
        errors.write(
            LogLevel::Info,
            format_args!(
                "this process may open {files} files, and `limits.connections` = {connections} may take {wanted}: raise \
                 `ulimit -n` (`LimitNOFILE`) or lower the key"
            ),
        );
    }
}

/// The soft limit as Linux tells it; `None` where there is none.
fn soft_limit(limits: &str) -> Option<usize> {
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_read_as_linux_writes_it() {
        let told = "Limit   Soft Limit  Hard Limit  Units\nMax processes  5  5  processes\n\
                    Max open files            1024                 524288               files\n";
        assert_eq!(soft_limit(told), Some(1024));
        assert_eq!(soft_limit("Max open files   unlimited   unlimited   files"), None);
        assert_eq!(soft_limit(""), None);
    }
}
