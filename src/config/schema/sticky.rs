//! A pool's `sticky` table.

use std::time::Duration;

use toml::de::DeValue;

use super::top::KeySpec;
use crate::config::diagnostics::{Diagnostic, Span};
use crate::config::parse::suggest::suggestion;
use crate::config::parse::value::{ReadResult, TomlValue};
use crate::fleet::{SameSite, Sticky, StickyCookie, StickyVariable};

/// nginx's `timeout` of `sticky learn`.
const DEFAULT_SESSION_TIMEOUT: Duration = Duration::from_secs(600);
/// What browsers take for ever: nginx's `expires=max` is as far away.
const MAX_COOKIE_AGE: Duration = Duration::from_secs(3_650 * 86_400);

/// What is written, before it is one of the kinds.
#[derive(Default)]
struct StickyDraft {
    cookie: StickyCookie,
    learn: Vec<StickyVariable>,
    lookup: Vec<StickyVariable>,
    header: String,
    timeout: Option<Duration>,
}

/// The keys, each kind first of its own.
static STICKY_SCHEMA: &[KeySpec<StickyDraft>] = &[
    KeySpec {
        path: "cookie",
        expected: "a cookie's name",
        default: "",
        set: |d, v| parse_cookie_token(v).map(|name| d.cookie.name = name),
    },
    KeySpec {
        path: "expires",
        expected: "a time such as \"1h\", or \"max\"",
        default: "",
        set: |d, v| parse_expires(v).map(|time| d.cookie.expires = Some(time)),
    },
    KeySpec {
        path: "domain",
        expected: "a domain such as \".example.com\"",
        default: "",
        set: |d, v| parse_cookie_token(v).map(|domain| d.cookie.domain = Some(domain)),
    },
    KeySpec {
        path: "path",
        expected: "a path such as \"/\"",
        default: "",
        set: |d, v| parse_cookie_token(v).map(|path| d.cookie.path = Some(path)),
    },
    KeySpec {
        path: "httponly",
        expected: "true or false",
        default: "",
        set: |d, v| v.boolean().map(|on| d.cookie.http_only = on),
    },
    KeySpec {
        path: "secure",
        expected: "true or false",
        default: "",
        set: |d, v| v.boolean().map(|on| d.cookie.secure = on),
    },
    KeySpec {
        path: "samesite",
        expected: "\"strict\", \"lax\" or \"none\"",
        default: "",
        set: |d, v| v.one_of("values", &SAME_SITE_VALUES).map(|value| d.cookie.same_site = Some(value)),
    },
    KeySpec {
        path: "learn",
        expected: "what names a new session, such as \"$upstream_cookie_sid\"",
        default: "",
        set: |d, v| v.map_list(parse_variable).map(|all| d.learn = all),
    },
    KeySpec {
        path: "lookup",
        expected: "what names a request's session, such as \"$cookie_sid\"",
        default: "",
        set: |d, v| v.map_list(parse_request_variable).map(|all| d.lookup = all),
    },
    KeySpec {
        path: "header",
        expected: "a header's name",
        default: "",
        set: |d, v| parse_cookie_token(v).map(|name| d.header = name),
    },
    KeySpec {
        path: "timeout",
        expected: "a time above 0 such as \"10m\"",
        default: "",
        set: |d, v| v.positive_duration().map(|time| d.timeout = Some(time)),
    },
];

const SAME_SITE_VALUES: [(&str, SameSite); 3] =
    [("strict", SameSite::Strict), ("lax", SameSite::Lax), ("none", SameSite::None)];

/// The kinds by the key that makes them, and what may stand beside it.
const STICKY_METHODS: [(&str, &[&str]); 3] = [
    ("cookie", &["expires", "domain", "path", "httponly", "secure", "samesite"]),
    ("learn", &["lookup", "timeout"]),
    ("header", &["timeout"]),
];

/// Reads `{ cookie = "route", expires = "1h" }`, `{ learn = "...", lookup = "..." }` or `{ header = "..." }`.
pub(in crate::config) fn parse_sticky(value: &TomlValue<'_>) -> ReadResult<Sticky> {
    let DeValue::Table(table) = value.raw else { return Err(value.invalid()) };
    let mut draft = StickyDraft::default();
    let mut issues = Vec::new();
    let mut given: Vec<(&str, Span)> = Vec::new();
    for (key, item) in table {
        let (name, at) = (key.get_ref().as_ref(), value.span.with_range(key.span()));
        let Some(row) = STICKY_SCHEMA.iter().find(|row| row.path == name) else {
            let names: Vec<&str> = STICKY_SCHEMA.iter().map(|row| row.path).collect();
            issues.push(
                at.diagnostic(format!("unknown key `{name}` in `sticky`")).with_help(suggestion(name, "keys", &names)),
            );
            continue;
        };
        let spot = value.span.with_range(item.span());
        let item = TomlValue { key: name, expected: row.expected, raw: item.get_ref(), span: spot, unquoted: false };
        issues.extend((row.set)(&mut draft, &item).err().unwrap_or_default());
        given.push((row.path, at));
    }
    let kind = STICKY_METHODS.iter().find(|(kind, _)| given.iter().any(|(name, _)| name == kind));
    let Some((kind, beside)) = kind else {
        issues.push(value.diagnostic("`sticky` needs one of `cookie`, `learn` and `header`").with_help(STICKY_EXAMPLE));
        return Err(issues);
    };
    let odd = given.iter().filter(|(name, _)| name != kind && !beside.contains(name));
    issues.extend(odd.map(|(name, at)| misplaced_key(name, kind, at)));
    if *kind == "learn" && !given.iter().any(|(name, _)| *name == "lookup") {
        issues.push(value.diagnostic("`learn` needs a `lookup`").with_help("for example lookup = \"$cookie_sid\""));
    }
    if !issues.is_empty() {
        return Err(issues);
    }
    let timeout = draft.timeout.unwrap_or(DEFAULT_SESSION_TIMEOUT);
    Ok(match *kind {
        "cookie" => Sticky::Cookie(draft.cookie),
        "learn" => Sticky::Learn { create: draft.learn, lookup: draft.lookup, timeout },
        _ => Sticky::from_header(&draft.header, timeout),
    })
}

const STICKY_EXAMPLE: &str = "for example sticky = { cookie = \"route\", expires = \"1h\" }";

fn misplaced_key(name: &str, kind: &str, at: &Span) -> Diagnostic {
    at.diagnostic(format!("`{name}` has no place beside `{kind}`")).with_help("leave it out")
}

/// What may stand in a cookie without quotes.
fn parse_cookie_token(value: &TomlValue<'_>) -> ReadResult<String> {
    let text = value.string()?;
    let fits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"=;,\"\\".contains(&b));
    if fits { Ok(text.into_owned()) } else { Err(value.invalid()) }
}

fn parse_expires(value: &TomlValue<'_>) -> ReadResult<Duration> {
    if value.raw.as_str() == Some("max") { Ok(MAX_COOKIE_AGE) } else { value.positive_duration() }
}

fn parse_variable(value: &TomlValue<'_>) -> ReadResult<StickyVariable> {
    StickyVariable::parse(&value.string()?).ok_or_else(|| value.invalid())
}

/// A variable that is known before there is an answer.
fn parse_request_variable(value: &TomlValue<'_>) -> ReadResult<StickyVariable> {
    match parse_variable(value)? {
        StickyVariable::UpstreamCookie(_) | StickyVariable::UpstreamHeader(_) => {
            let issue = value.diagnostic("a session is looked up before there is an answer");
            Err(issue.with_help("write `$cookie_NAME` or `$http_NAME`").into())
        }
        known => Ok(known),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    fn load_sticky(table: &str) -> Result<Sticky, String> {
        let text = format!("replicas = [\"http://a\", \"http://b\"]\nsticky = {table}");
        let loaded = load(&text, "f", []).map_err(|report| report.to_string())?;
        Ok(loaded.settings.pools[0].sticky.clone().expect("it was given"))
    }

    #[test]
    fn the_three_kinds_are_read() {
        let cookie = StickyCookie {
            name: "route".to_owned(),
            expires: Some(Duration::from_secs(3_600)),
            http_only: true,
            same_site: Some(SameSite::Lax),
            ..StickyCookie::default()
        };
        let table = "{ cookie = \"route\", expires = \"1h\", httponly = true, samesite = \"lax\" }";
        assert_eq!(load_sticky(table), Ok(Sticky::Cookie(cookie)));
        assert_eq!(
            load_sticky(
                "{ learn = \"$upstream_cookie_sid\", lookup = [\"$cookie_sid\", \"$http_x_sid\"], timeout = \"1h\" }"
            ),
            Ok(Sticky::Learn {
                create: vec![StickyVariable::UpstreamCookie("sid".to_owned())],
                lookup: vec![StickyVariable::Cookie("sid".to_owned()), StickyVariable::Header("x-sid".to_owned())],
                timeout: Duration::from_secs(3_600),
            })
        );
        assert_eq!(
            load_sticky("{ header = \"X-Session-Id\" }"),
            Ok(Sticky::from_header("x-session-id", DEFAULT_SESSION_TIMEOUT))
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (table, wanted) in [
            ("true", "`sticky` cannot be a boolean"),
            ("{}", "needs one of"),
            ("{ expires = \"1h\" }", "needs one of"),
            ("{ cookie = \"a b\" }", "f:2:21: `cookie` cannot be `a b`"),
            ("{ cookie = \"a\", timeout = \"1h\" }", "`timeout` has no place beside `cookie`"),
            ("{ cookie = \"a\", header = \"b\" }", "`header` has no place beside `cookie`"),
            ("{ cookei = \"a\" }", "did you mean `cookie`?"),
            ("{ learn = \"$upstream_cookie_a\" }", "`learn` needs a `lookup`"),
            ("{ learn = \"$upstream_cookie_a\", lookup = \"$upstream_cookie_a\" }", "before there is an answer"),
            ("{ cookie = \"a\", samesite = \"laxx\" }", "did you mean `lax`?"),
        ] {
            let report = load_sticky(table).expect_err(table);
            assert!(report.contains(wanted), "{table}: {report}");
        }
    }
}
