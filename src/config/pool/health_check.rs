//! The keys of a pool's `health_check`.

use std::time::Duration;

use crate::config::parse::value::{ReadResult, TomlValue};
use crate::config::schema::key_spec::{KeySpec, read_table, unknown_key};
use crate::fleet::HealthCheck;

const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// A health check as far as it is read.
#[derive(Default)]
pub(in crate::config) struct HealthCheckDraft {
    check: HealthCheck,
    path: Option<String>,
}

pub(in crate::config) static HEALTH_CHECK_SCHEMA: &[KeySpec<HealthCheckDraft>] = &[
    KeySpec {
        name: "path",
        expected: "a path with `/` in front",
        default: "\"/health\"",
        doc: "The path of the request; with `model`, the default is `/v1/completions`.",
        set: |d, v| parse_check_path(v).map(|path| d.path = Some(path)),
    },
    KeySpec {
        name: "interval",
        expected: "a time from 100ms such as \"5s\"",
        default: "\"5s\"",
        doc: "The time from one check to the next.",
        set: |d, v| parse_interval(v).map(|interval| d.check.interval = interval),
    },
    KeySpec {
        name: "timeout",
        expected: "a time above 0 such as \"2s\"",
        default: "\"2s\"",
        doc: "The time for a response; a replica that sends data to clients passes however late its response is.",
        set: |d, v| v.positive_duration().map(|time| d.check.timeout = time),
    },
    KeySpec {
        name: "rise",
        expected: "a whole number from 1",
        default: "2",
        doc: "Passed checks in a row that bring a replica back.",
        set: |d, v| v.integer_u32(1).map(|rise| d.check.rise = rise),
    },
    KeySpec {
        name: "fall",
        expected: "a whole number from 1",
        default: "3",
        doc: "Failed checks in a row that eject a replica.",
        set: |d, v| v.integer_u32(1).map(|fall| d.check.fall = fall),
    },
    KeySpec {
        name: "status",
        expected: "a status from 100 to 599",
        default: "",
        doc: "The status that passes; without it, 200 to 299.",
        set: |d, v| parse_status(v).map(|status| d.check.status = Some(status)),
    },
    KeySpec {
        name: "model",
        expected: "a model's name",
        default: "",
        doc: "Requests one token of this model by POST, in place of a GET.",
        set: |d, v| parse_model(v).map(|model| d.check.model = Some((&*model).into())),
    },
];

/// Reads `{ path = "/health", interval = "5s" }`; `{}` has every key at its default.
pub(super) fn parse_health_check(value: &TomlValue<'_>) -> ReadResult<HealthCheck> {
    let mut draft = HealthCheckDraft::default();
    let errors = read_table(HEALTH_CHECK_SCHEMA, &value.entries()?, &mut draft, |key| {
        unknown_key(HEALTH_CHECK_SCHEMA, "`health_check`", key)
    });
    if !errors.is_empty() {
        return Err(errors);
    }
    let default = if draft.check.model.is_some() { "/v1/completions" } else { "/health" };
    Ok(HealthCheck { path: draft.path.unwrap_or_else(|| default.to_owned()), ..draft.check })
}

fn parse_check_path(value: &TomlValue<'_>) -> ReadResult<String> {
    let text = value.string()?;
    let is_path = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if is_path { Ok(text.into_owned()) } else { Err(value.invalid()) }
}

fn parse_interval(value: &TomlValue<'_>) -> ReadResult<Duration> {
    value.duration().ok().filter(|interval| *interval >= MIN_CHECK_INTERVAL).ok_or_else(|| value.invalid())
}

fn parse_status(value: &TomlValue<'_>) -> ReadResult<u16> {
    let status = value.integer(100).ok().and_then(|n| u16::try_from(n).ok());
    status.filter(|status| *status < 600).ok_or_else(|| value.invalid())
}

fn parse_model(value: &TomlValue<'_>) -> ReadResult<String> {
    let text = value.string()?;
    let is_model = !text.trim().is_empty() && !text.contains(char::is_control);
    if is_model { Ok(text.into_owned()) } else { Err(value.invalid()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    fn load_check(table: &str) -> Result<HealthCheck, String> {
        let text = format!("replicas = [\"http://a\", \"http://b\"]\nhealth_check = {table}");
        let loaded = load(&text, "f", []).map_err(|report| report.to_string())?;
        Ok(loaded.settings.pools[0].failure_policy.health_check.clone().expect("it is given"))
    }

    #[test]
    fn defaults_of_the_table_are_those_of_the_code() {
        for row in HEALTH_CHECK_SCHEMA.iter().filter(|row| !row.default.is_empty()) {
            let table = format!("{{ {} = {} }}", row.name, row.default);
            assert_eq!(load_check(&table), Ok(HealthCheck::default()), "{table}");
        }
    }

    #[test]
    fn health_check_is_read() {
        let check = load_check;
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
