//! The reaction of pools to failing replicas.

use std::time::Duration;

use super::draft::FailurePolicyDraft;
use crate::config::parse::value::{ReadResult, TomlValue};
use crate::fleet::{FailurePolicy, MemberSpec, PathPolicy};

impl FailurePolicyDraft {
    /// Returns the policy of a pool with these paths. With any path, a response may take any time, so by default there
    /// is no stall timeout.
    pub(super) fn into_policy(self, paths: &PathPolicy) -> FailurePolicy {
        let default = self.policy.stall_timeout.filter(|_| *paths != PathPolicy::Any);
        FailurePolicy { stall_timeout: self.stall_timeout.unwrap_or(default), ..self.policy }
    }

    /// Sets whether a member's ejections grow, if the pool has the key for it.
    pub(super) fn apply_backoff(&self, member: &mut MemberSpec) {
        member.eject_limits.backoff = self.eject_backoff.unwrap_or(member.eject_limits.backoff);
    }
}

/// Reads `stall_timeout`; `None` for never.
pub(super) fn parse_stall_timeout(value: &TomlValue<'_>) -> ReadResult<Option<Duration>> {
    if value.raw.as_str() == Some("off") { Ok(None) } else { value.positive_duration().map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;
    use crate::fleet::{PoolSpec, RetryBudgetLimits};

    fn load_pool(keys: &str, options: &str) -> Result<PoolSpec, String> {
        let text = format!("replicas = [\"http://a {options}\", \"http://b\"]\n{keys}");
        let loaded = load(&text, "f", []).map_err(|report| report.to_string())?;
        Ok(loaded.settings.pools[0].clone())
    }

    #[test]
    fn ejections_grow_unless_replica_or_pool_keys_differ() {
        let grows = |keys, options| load_pool(keys, options).map(|pool| pool.members[0].eject_limits.backoff);
        assert_eq!(grows("", ""), Ok(true));
        assert_eq!(grows("", "weight=2"), Ok(true));
        assert_eq!(grows("", "max_fails=1"), Ok(false));
        assert_eq!(grows("", "fail_timeout=10s"), Ok(false));
        assert_eq!(grows("eject_backoff = false", ""), Ok(false));
        assert_eq!(grows("eject_backoff = true", "max_fails=3"), Ok(true));
    }

    #[test]
    fn retry_budget_and_stall_timeout_are_read() {
        let policy = load_pool("retry_budget_percent = 50\nretry_budget_min = 0\nstall_timeout = \"1m\"", "")
            .unwrap()
            .failure_policy;
        assert_eq!(policy.retry_limits, RetryBudgetLimits { percent: 50, min_retries: 0 });
        assert_eq!(policy.stall_timeout, Some(Duration::from_secs(60)));
        assert_eq!(load_pool("stall_timeout = \"off\"", "").unwrap().failure_policy.stall_timeout, None);
        assert_eq!(load_pool("paths = \"any\"", "").unwrap().failure_policy.stall_timeout, None);
        assert_eq!(
            load_pool("paths = \"any\"\nstall_timeout = \"30s\"", "").unwrap().failure_policy,
            FailurePolicy::default()
        );
    }
}
