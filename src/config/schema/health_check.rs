//! The keys that say what a pool does about replicas that fail.

use std::time::Duration;

use toml::de::DeValue;

use super::top::KeySpec;
use crate::config::parse::suggest::suggestion;
use crate::config::parse::value::{ReadResult, TomlValue};
use crate::fleet::{FailurePolicy, HealthCheck, MemberSpec};

/// Replicas are checked no more often than this.
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// What a pool does about replicas that fail, as far as it was written.
#[derive(Default)]
pub(in crate::config) struct FailurePolicyDraft {
    pub(in crate::config) policy: FailurePolicy,
    /// `None` if not given; `None` inside for never.
    pub(in crate::config) stall_timeout: Option<Option<Duration>>,
    /// Whether ejections grow, whatever the replicas' words.
    pub(in crate::config) eject_backoff: Option<bool>,
}

impl FailurePolicyDraft {
    /// What it comes to; `stalls`: whether replicas that are silent for long are taken to be stalled if nothing was said.
    pub(in crate::config) fn into_policy(self, stalls: bool) -> FailurePolicy {
        let usual = self.policy.stall_timeout.filter(|_| stalls);
        FailurePolicy { stall_timeout: self.stall_timeout.unwrap_or(usual), ..self.policy }
    }

    /// Sets how a member's ejections grow.
    pub(in crate::config) fn apply_backoff(&self, member: &mut MemberSpec) {
        member.eject_limits.backoff = self.eject_backoff.unwrap_or(member.eject_limits.backoff);
    }
}

/// `stalled`: how long, or never.
pub(in crate::config) fn parse_stall_timeout(value: &TomlValue<'_>) -> ReadResult<Option<Duration>> {
    if value.raw.as_str() == Some("off") { Ok(None) } else { value.positive_duration().map(Some) }
}

/// A number that no counter overflows by.
pub(in crate::config) fn parse_u32(value: &TomlValue<'_>) -> ReadResult<u32> {
    value.integer(0).ok().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| value.invalid())
}

/// The keys of a pool's `health_check`.
static HEALTH_CHECK_SCHEMA: &[KeySpec<HealthCheckDraft>] = &[
    KeySpec {
        path: "path",
        expected: "a path with `/` in front",
        default: "",
        set: |d, v| parse_check_path(v).map(|path| d.path = Some(path)),
    },
    KeySpec {
        path: "interval",
        expected: "a time from 100ms such as \"5s\"",
        default: "",
        set: |d, v| {
            let every = v.duration().ok().filter(|every| *every >= MIN_CHECK_INTERVAL).ok_or_else(|| v.invalid());
            every.map(|every| d.check.interval = every)
        },
    },
    KeySpec {
        path: "timeout",
        expected: "a time above 0 such as \"2s\"",
        default: "",
        set: |d, v| v.positive_duration().map(|time| d.check.timeout = time),
    },
    KeySpec {
        path: "rise",
        expected: "a whole number from 1",
        default: "",
        set: |d, v| parse_positive(v).map(|rise| d.check.rise = rise),
    },
    KeySpec {
        path: "fall",
        expected: "a whole number from 1",
        default: "",
        set: |d, v| parse_positive(v).map(|fall| d.check.fall = fall),
    },
    KeySpec {
        path: "status",
        expected: "a status from 100 to 599",
        default: "",
        set: |d, v| {
            let status = v.integer(100).ok().and_then(|n| u16::try_from(n).ok()).filter(|status| *status < 600);
            status.map(|status| d.check.status = Some(status)).ok_or_else(|| v.invalid())
        },
    },
    KeySpec {
        path: "model",
        expected: "a model's name",
        default: "",
        set: |d, v| {
            let text = v.string()?;
            let fits = !text.trim().is_empty() && !text.contains(char::is_control);
            d.check.model = Some((&*text).into());
            if fits { Ok(()) } else { Err(v.invalid()) }
        },
    },
];

/// What is written of a check.
#[derive(Default)]
struct HealthCheckDraft {
    check: HealthCheck,
    path: Option<String>,
}

/// Reads `{ path = "/health", interval = "5s" }`; `{}` has everything at its default.
pub(in crate::config) fn parse_health_check(value: &TomlValue<'_>) -> ReadResult<HealthCheck> {
    let DeValue::Table(table) = value.raw else { return Err(value.invalid()) };
    let mut draft = HealthCheckDraft::default();
    let mut issues = Vec::new();
    for (key, item) in table {
        let (name, at) = (key.get_ref().as_ref(), value.span.with_range(key.span()));
        let Some(row) = HEALTH_CHECK_SCHEMA.iter().find(|row| row.path == name) else {
            let names: Vec<&str> = HEALTH_CHECK_SCHEMA.iter().map(|row| row.path).collect();
            issues.push(
                at.diagnostic(format!("unknown key `{name}` in `health_check`"))
                    .with_help(suggestion(name, "keys", &names)),
            );
            continue;
        };
        let spot = value.span.with_range(item.span());
        let item = TomlValue { key: name, expected: row.expected, raw: item.get_ref(), span: spot, unquoted: false };
        issues.extend((row.set)(&mut draft, &item).err().unwrap_or_default());
    }
    if !issues.is_empty() {
        return Err(issues);
    }
    let usual = if draft.check.model.is_some() { "/v1/completions" } else { "/health" };
    Ok(HealthCheck { path: draft.path.unwrap_or_else(|| usual.to_owned()), ..draft.check })
}

fn parse_check_path(value: &TomlValue<'_>) -> ReadResult<String> {
    let text = value.string()?;
    let fits = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if fits { Ok(text.into_owned()) } else { Err(value.invalid()) }
}

fn parse_positive(value: &TomlValue<'_>) -> ReadResult<u32> {
    parse_u32(value).ok().filter(|n| *n > 0).ok_or_else(|| value.invalid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;
    use crate::fleet::{PoolSpec, RetryBudgetLimits};

    fn load_pool(keys: &str, words: &str) -> Result<PoolSpec, String> {
        let text = format!("replicas = [\"http://a {words}\", \"http://b\"]\n{keys}");
        let loaded = load(&text, "f", []).map_err(|report| report.to_string())?;
        Ok(loaded.settings.pools[0].clone())
    }

    #[test]
    fn ejections_grow_unless_nginx_words_or_the_pool_say_otherwise() {
        let grows = |keys, words| load_pool(keys, words).map(|pool| pool.members[0].eject_limits.backoff);
        assert_eq!(grows("", ""), Ok(true));
        assert_eq!(grows("", "weight=2"), Ok(true));
        assert_eq!(grows("", "max_fails=1"), Ok(false));
        assert_eq!(grows("", "fail_timeout=10s"), Ok(false));
        assert_eq!(grows("eject_backoff = false", ""), Ok(false));
        assert_eq!(grows("eject_backoff = true", "max_fails=3"), Ok(true));
    }

    #[test]
    fn replays_and_silence_are_read() {
        let failing = load_pool("retry_budget_percent = 50\nretry_budget_min = 0\nstall_timeout = \"1m\"", "")
            .unwrap()
            .failure_policy;
        assert_eq!(failing.retry_limits, RetryBudgetLimits { percent: 50, min_retries: 0 });
        assert_eq!(failing.stall_timeout, Some(Duration::from_secs(60)));
        assert_eq!(load_pool("stall_timeout = \"off\"", "").unwrap().failure_policy.stall_timeout, None);
        assert_eq!(
            load_pool("paths = \"any\"", "").unwrap().failure_policy.stall_timeout,
            None,
            "who knows what is behind it"
        );
        assert_eq!(
            load_pool("paths = \"any\"\nstall_timeout = \"30s\"", "").unwrap().failure_policy,
            FailurePolicy::default()
        );
    }

    #[test]
    fn checks_are_read() {
        let check = |table: &str| {
            load_pool(&format!("health_check = {table}"), "").map(|pool| pool.failure_policy.health_check.unwrap())
        };
        assert_eq!(check("{}"), Ok(HealthCheck::default()));
        let wanted = HealthCheck {
            path: "/ping?x".to_owned(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(500),
            rise: 1,
            fall: 4,
            status: Some(204),
            model: None,
        };
        let table = "{ path = \"/ping?x\", interval = \"1s\", timeout = \"500ms\", rise = 1, fall = 4, status = 204 }";
        assert_eq!(check(table), Ok(wanted));
        let token =
            HealthCheck { path: "/v1/completions".to_owned(), model: Some("m".into()), ..HealthCheck::default() };
        assert_eq!(check("{ model = \"m\" }"), Ok(token));
        for (table, wanted) in [
            ("true", "`health_check` cannot be a boolean"),
            ("{ path = \"health\" }", "f:2:25: `path` cannot be `health`"),
            ("{ rise = 0 }", "`rise` takes a whole number from 1"),
            ("{ interval = \"1ms\" }", "`interval` takes a time from 100ms"),
            ("{ status = 600 }", "`status` takes a status"),
            ("{ intervall = \"1s\" }", "did you mean `interval`?"),
        ] {
            let report = check(table).expect_err(table);
            assert!(report.contains(wanted), "{table}: {report}");
        }
    }
}
