//! The limit of open files, compared with the configured limits.

use std::fs;

use crate::config::Limits;
use crate::telemetry::{ErrorLog, LogLevel};

/// Files of the process itself: logs, listeners, event queues.
const RESERVED_FILES: usize = 64;

/// Logs if clients may need more files than the process may open. A request takes two: the connection of the client and
/// that to the replica.
pub(super) fn warn_if_too_few(limits: &Limits, log: &ErrorLog) {
    let Some(files) = fs::read_to_string("/proc/self/limits").ok().as_deref().and_then(soft_limit) else { return };
    let connections = limits.connections;
    let needed = connections.saturating_mul(2).saturating_add(RESERVED_FILES);
    if files < needed {
        log.write(
            LogLevel::Info,
            format_args!(
                "the process may open {files} files, but `limits.connections` = {connections} can need {needed}: raise \
                 `ulimit -n` (`LimitNOFILE`) or lower the key"
            ),
        );
    }
}

/// Returns the soft limit of open files from the text of `/proc/self/limits`; `None` if it is unlimited.
fn soft_limit(limits: &str) -> Option<usize> {
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_limit_is_read_from_linux_format() {
        let limits = "Limit   Soft Limit  Hard Limit  Units\nMax processes  5  5  processes\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(soft_limit(limits), Some(1024));
        assert_eq!(soft_limit("Max open files   unlimited   unlimited   files"), None);
        assert_eq!(soft_limit(""), None);
    }
}
