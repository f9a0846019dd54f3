//! The keys that say what a pool does about replicas that fail.

use std::time::Duration;

use toml::de::DeValue;

use super::keys::Key;
use super::nearest::suggest;
use super::value::{Read, Value};
use crate::fleet::{Check, Failing, MemberSpec};

/// Replicas are checked no more often than this.
const LEAST_EVERY: Duration = Duration::from_millis(100);

/// What a pool does about replicas that fail, as far as it was written.
#[derive(Default)]
pub(super) struct DraftFailing {
    pub(super) failing: Failing,
    /// `None` if not given; `None` inside for never.
    pub(super) stalled: Option<Option<Duration>>,
    /// Whether ejections grow, whatever the replicas' words.
    pub(super) growth: Option<bool>,
}

impl DraftFailing {
    /// What it comes to; `stalls`: whether replicas that are silent for long are taken to be stalled if nothing was said.
    pub(super) fn finish(self, stalls: bool) -> Failing {
        let usual = self.failing.stalled.filter(|_| stalls);
        Failing { stalled: self.stalled.unwrap_or(usual), ..self.failing }
    }

    /// Sets how a member's ejections grow.
    pub(super) fn apply(&self, member: &mut MemberSpec) {
        member.eject.grows = self.growth.unwrap_or(member.eject.grows);
    }
}

/// `stalled`: how long, or never.
pub(super) fn stalled(value: &Value<'_>) -> Read<Option<Duration>> {
    if value.given.as_str() == Some("off") { Ok(None) } else { value.some_time().map(Some) }
}

/// A number that no counter overflows by.
pub(super) fn number(value: &Value<'_>) -> Read<u32> {
    value.count(0).ok().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| value.wrong())
}

/// The keys of a pool's `check`.
static KEYS: &[Key<Draft>] = &[
    Key {
        path: "path",
        wants: "a path with `/` in front",
        default: "",
        set: |d, v| path(v).map(|path| d.path = Some(path)),
    },
    Key {
        path: "interval",
        wants: "a time from 100ms such as \"5s\"",
        default: "",
        set: |d, v| {
            let every = v.time().ok().filter(|every| *every >= LEAST_EVERY).ok_or_else(|| v.wrong());
            every.map(|every| d.check.every = every)
        },
    },
    Key {
        path: "timeout",
        wants: "a time above 0 such as \"2s\"",
        default: "",
        set: |d, v| v.some_time().map(|time| d.check.timeout = time),
    },
    Key {
        path: "rise",
        wants: "a whole number from 1",
        default: "",
        set: |d, v| some(v).map(|rise| d.check.rise = rise),
    },
    Key {
        path: "fall",
        wants: "a whole number from 1",
        default: "",
        set: |d, v| some(v).map(|fall| d.check.fall = fall),
    },
    Key {
        path: "status",
        wants: "a status from 100 to 599",
        default: "",
        set: |d, v| {
            let status = v.count(100).ok().and_then(|n| u16::try_from(n).ok()).filter(|status| *status < 600);
            status.map(|status| d.check.status = Some(status)).ok_or_else(|| v.wrong())
        },
    },
    Key {
        path: "model",
        wants: "a model's name",
        default: "",
        set: |d, v| {
            let text = v.text()?;
            let fits = !text.trim().is_empty() && !text.contains(char::is_control);
            d.check.model = Some((&*text).into());
            if fits { Ok(()) } else { Err(v.wrong()) }
        },
    },
];

/// What is written of a check.
#[derive(Default)]
struct Draft {
    check: Check,
    path: Option<String>,
}

/// Reads `{ path = "/health", interval = "5s" }`; `{}` has everything at its default.
pub(super) fn check(value: &Value<'_>) -> Read<Check> {
    let DeValue::Table(table) = value.given else { return Err(value.wrong()) };
    let mut draft = Draft::default();
    let mut issues = Vec::new();
    for (key, item) in table {
        let (name, at) = (key.get_ref().as_ref(), value.at.at(key.span()));
        let Some(row) = KEYS.iter().find(|row| row.path == name) else {
            let names: Vec<&str> = KEYS.iter().map(|row| row.path).collect();
            issues.push(at.issue(format!("unknown key `{name}` in `check`")).help(suggest(name, "keys", &names)));
            continue;
        };
        let spot = value.at.at(item.span());
        let item = Value { key: name, wants: row.wants, given: item.get_ref(), at: spot, unquoted: false };
        issues.extend((row.set)(&mut draft, &item).err().unwrap_or_default());
    }
    if !issues.is_empty() {
        return Err(issues);
    }
    let usual = if draft.check.model.is_some() { "/v1/completions" } else { "/health" };
    Ok(Check { path: draft.path.unwrap_or_else(|| usual.to_owned()), ..draft.check })
}

fn path(value: &Value<'_>) -> Read<String> {
    let text = value.text()?;
    let fits = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if fits { Ok(text.into_owned()) } else { Err(value.wrong()) }
}

fn some(value: &Value<'_>) -> Read<u32> {
    number(value).ok().filter(|n| *n > 0).ok_or_else(|| value.wrong())
}

#[cfg(test)]
mod tests {
    use super::super::load;
    use super::*;
    use crate::fleet::{PoolSpec, ReplayLimits};

    fn read(keys: &str, words: &str) -> Result<PoolSpec, String> {
        let text = format!("replicas = [\"http://a {words}\", \"http://b\"]\n{keys}");
        let loaded = load(&text, "f", []).map_err(|report| report.to_string())?;
        Ok(loaded.settings.pools[0].clone())
    }

    #[test]
    fn ejections_grow_unless_nginx_words_or_the_pool_say_otherwise() {
        let grows = |keys, words| read(keys, words).map(|pool| pool.members[0].eject.grows);
        assert_eq!(grows("", ""), Ok(true));
        assert_eq!(grows("", "weight=2"), Ok(true));
        assert_eq!(grows("", "max_fails=1"), Ok(false));
        assert_eq!(grows("", "fail_timeout=10s"), Ok(false));
        assert_eq!(grows("eject_growth = false", ""), Ok(false));
        assert_eq!(grows("eject_growth = true", "max_fails=3"), Ok(true));
    }

    #[test]
    fn replays_and_silence_are_read() {
        let failing = read("replay_percent = 50\nreplay_spare = 0\nstalled = \"1m\"", "").unwrap().failing;
        assert_eq!(failing.replays, ReplayLimits { percent: 50, spare: 0 });
        assert_eq!(failing.stalled, Some(Duration::from_secs(60)));
        assert_eq!(read("stalled = \"off\"", "").unwrap().failing.stalled, None);
        assert_eq!(read("paths = \"any\"", "").unwrap().failing.stalled, None, "who knows what is behind it");
        assert_eq!(read("paths = \"any\"\nstalled = \"30s\"", "").unwrap().failing, Failing::default());
    }

    #[test]
    fn checks_are_read() {
        let check = |table: &str| read(&format!("check = {table}"), "").map(|pool| pool.failing.check.unwrap());
        assert_eq!(check("{}"), Ok(Check::default()));
        let wanted = Check {
            path: "/ping?x".to_owned(),
            every: Duration::from_secs(1),
            timeout: Duration::from_millis(500),
            rise: 1,
            fall: 4,
            status: Some(204),
            model: None,
        };
        let table = "{ path = \"/ping?x\", interval = \"1s\", timeout = \"500ms\", rise = 1, fall = 4, status = 204 }";
        assert_eq!(check(table), Ok(wanted));
        let token = Check { path: "/v1/completions".to_owned(), model: Some("m".into()), ..Check::default() };
        assert_eq!(check("{ model = \"m\" }"), Ok(token));
        for (table, wanted) in [
            ("true", "`check` cannot be a boolean"),
            ("{ path = \"health\" }", "f:2:18: `path` cannot be `health`"),
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
