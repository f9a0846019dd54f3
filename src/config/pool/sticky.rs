//! The keys of a pool's `sticky`.

use std::time::Duration;

use http::HeaderName;

use crate::config::parse::value::{ReadResult, TomlValue};
use crate::config::schema::key_spec::{EXPECTED_BOOLEAN, KeySpec, find_key, read_table, unknown_key};
use crate::fleet::{SameSite, Sticky, StickyCookie, StickyVariable};

/// nginx's `timeout` of `sticky learn`.
const DEFAULT_SESSION_TIMEOUT: Duration = Duration::from_secs(600);
/// The age that `expires = "max"` gives a cookie, as in nginx.
const MAX_COOKIE_AGE: Duration = Duration::from_secs(3_650 * 86_400);

/// A `sticky` table as far as it is read.
#[derive(Default)]
pub(in crate::config) struct StickyDraft {
    cookie: StickyCookie,
    learn: Vec<StickyVariable>,
    lookup: Vec<StickyVariable>,
    header: String,
    session: bool,
    timeout: Option<Duration>,
}

pub(in crate::config) static STICKY_SCHEMA: &[KeySpec<StickyDraft>] = &[
    KeySpec {
        name: "cookie",
        expected: "a cookie's name",
        default: "",
        doc: "Sets a cookie of this name, which names the replica.",
        set: |d, v| parse_cookie_token(v).map(|name| d.cookie.name = name),
    },
    KeySpec {
        name: "expires",
        expected: "a time such as \"1h\", or \"max\"",
        default: "",
        doc: "With `cookie`: the cookie's age; without it, the cookie ends with the browser's session.",
        set: |d, v| parse_expires(v).map(|time| d.cookie.expires = Some(time)),
    },
    KeySpec {
        name: "domain",
        expected: "a domain such as \".example.com\"",
        default: "",
        doc: "With `cookie`: the cookie's domain.",
        set: |d, v| parse_cookie_token(v).map(|domain| d.cookie.domain = Some(domain)),
    },
    KeySpec {
        name: "path",
        expected: "a path such as \"/\"",
        default: "",
        doc: "With `cookie`: the cookie's path.",
        set: |d, v| parse_cookie_token(v).map(|path| d.cookie.path = Some(path)),
    },
    KeySpec {
        name: "httponly",
        expected: EXPECTED_BOOLEAN,
        default: "false",
        doc: "With `cookie`: whether the cookie is hidden from scripts.",
        set: |d, v| v.boolean().map(|on| d.cookie.http_only = on),
    },
    KeySpec {
        name: "secure",
        expected: EXPECTED_BOOLEAN,
        default: "false",
        doc: "With `cookie`: whether the cookie is sent by TLS only.",
        set: |d, v| v.boolean().map(|on| d.cookie.secure = on),
    },
    KeySpec {
        name: "samesite",
        expected: "\"strict\", \"lax\" or \"none\"",
        default: "",
        doc: "With `cookie`: the cookie's `SameSite`.",
        set: |d, v| v.one_of("values", &SAME_SITE_VALUES).map(|value| d.cookie.same_site = Some(value)),
    },
    KeySpec {
        name: "learn",
        expected: "variables that name a new session, such as \"$upstream_cookie_sid\"",
        default: "",
        doc: "Learns sessions from responses: a variable `$upstream_cookie_NAME` or `$upstream_http_NAME`, or a list.",
        set: |d, v| v.map_list(parse_variable).map(|variables| d.learn = variables),
    },
    KeySpec {
        name: "lookup",
        expected: "variables that name a request's session, such as \"$cookie_sid\"",
        default: "",
        doc: "With `learn`: where requests name their session, `$cookie_NAME` or `$http_NAME`, or a list.",
        set: |d, v| v.map_list(parse_request_variable).map(|variables| d.lookup = variables),
    },
    KeySpec {
        name: "header",
        expected: "a header's name",
        default: "",
        doc: "Takes the session from this request header.",
        set: |d, v| parse_cookie_token(v).map(|name| d.header = name),
    },
    KeySpec {
        name: "session",
        expected: "true",
        default: "",
        doc: "Takes the session that the client names: the body's `prompt_cache_key`, a session header (see \
              `session_headers`), or a session id in the body.",
        set: |d, v| {
            let is_on = v.boolean()?;
            d.session = is_on;
            if is_on { Ok(()) } else { Err(v.invalid()) }
        },
    },
    KeySpec {
        name: "timeout",
        expected: "a time above 0 such as \"10m\"",
        default: "\"10m\"",
        doc: "With `learn`, `header` or `session`: how long a session is kept after its last request.",
        set: |d, v| v.positive_duration().map(|time| d.timeout = Some(time)),
    },
];

const SAME_SITE_VALUES: [(&str, SameSite); 3] =
    [("strict", SameSite::Strict), ("lax", SameSite::Lax), ("none", SameSite::None)];

/// The methods by the key that selects each, and the keys it can be combined with.
const STICKY_METHODS: [(&str, &[&str]); 4] = [
    ("cookie", &["expires", "domain", "path", "httponly", "secure", "samesite"]),
    ("learn", &["lookup", "timeout"]),
    ("header", &["timeout"]),
    ("session", &["timeout"]),
];

/// Headers that are equal in all sessions of a client, or hold its key.
const CLIENT_HEADERS: [&str; 4] = ["authorization", "cookie", "proxy-authorization", "x-api-key"];

const STICKY_EXAMPLE: &str = "for example sticky = { cookie = \"route\", expires = \"1h\" }";

/// Reads `{ cookie = "route", expires = "1h" }`, `{ learn = "...", lookup = "..." }`, `{ header = "..." }` or
/// `{ session = true }`.
pub(super) fn parse_sticky(value: &TomlValue<'_>) -> ReadResult<Sticky> {
    let entries = value.entries()?;
    let mut draft = StickyDraft::default();
    let mut errors = read_table(STICKY_SCHEMA, &entries, &mut draft, |key| unknown_key(STICKY_SCHEMA, "`sticky`", key));
    let has = |name: &str| entries.iter().any(|entry| entry.key.value == name);
    let Some((method, companions)) = STICKY_METHODS.iter().find(|(method, _)| has(method)) else {
        let diagnostic = value.diagnostic("`sticky` needs one of `cookie`, `learn`, `header` and `session`");
        errors.push(diagnostic.with_help(STICKY_EXAMPLE));
        return Err(errors);
    };
    for key in entries.iter().map(|entry| &entry.key).filter(|key| find_key(STICKY_SCHEMA, key.value).is_some()) {
        if key.value != *method && !companions.contains(&key.value) {
            let message = format!("`{}` cannot be combined with `{method}`", key.value);
            errors.push(key.span.diagnostic(message).with_help("remove it"));
        }
    }
    if *method == "learn" && !has("lookup") {
        let diagnostic = value.diagnostic("`learn` needs a `lookup`");
        errors.push(diagnostic.with_help("for example lookup = \"$cookie_sid\""));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let timeout = draft.timeout.unwrap_or(DEFAULT_SESSION_TIMEOUT);
    Ok(match *method {
        "cookie" => Sticky::Cookie(draft.cookie),
        "learn" => Sticky::Learn { create: draft.learn, lookup: draft.lookup, timeout },
        "header" => Sticky::from_header(&draft.header, timeout),
        _ => Sticky::from_session(timeout),
    })
}

/// Reads the name of a header with the client's session, in lower case.
pub(super) fn parse_session_header(value: &TomlValue<'_>) -> ReadResult<String> {
    let name = value.string()?.parse::<HeaderName>().map_err(|_| value.invalid())?;
    if CLIENT_HEADERS.contains(&name.as_str()) {
        let diagnostic = value.diagnostic(format!("`{name}` names a client, not a session"));
        return Err(diagnostic.with_help("for cookies, sticky = { cookie = \"route\" }").into());
    }
    Ok(name.as_str().to_owned())
}

/// Reads a text that a cookie can hold without quotes.
fn parse_cookie_token(value: &TomlValue<'_>) -> ReadResult<String> {
    let text = value.string()?;
    let is_token = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"=;,\"\\".contains(&b));
    if is_token { Ok(text.into_owned()) } else { Err(value.invalid()) }
}

fn parse_expires(value: &TomlValue<'_>) -> ReadResult<Duration> {
    if value.raw.as_str() == Some("max") { Ok(MAX_COOKIE_AGE) } else { value.positive_duration() }
}

fn parse_variable(value: &TomlValue<'_>) -> ReadResult<StickyVariable> {
    StickyVariable::parse(&value.string()?).ok_or_else(|| value.invalid())
}

/// Reads a variable that is known before there is a response.
fn parse_request_variable(value: &TomlValue<'_>) -> ReadResult<StickyVariable> {
    match parse_variable(value)? {
        StickyVariable::UpstreamCookie(_) | StickyVariable::UpstreamHeader(_) => {
            let diagnostic = value.diagnostic("a session is looked up before the response");
            Err(diagnostic.with_help("write `$cookie_NAME` or `$http_NAME`").into())
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
        Ok(loaded.settings.pools[0].sticky.clone().expect("it is given"))
    }

    #[test]
    fn defaults_of_the_table_are_those_of_the_code() {
        for row in STICKY_SCHEMA.iter().filter(|row| !row.default.is_empty()) {
            let method = if row.name == "timeout" { "header = \"x\"" } else { "cookie = \"x\"" };
            let written = load_sticky(&format!("{{ {method}, {} = {} }}", row.name, row.default));
            assert_eq!(written, load_sticky(&format!("{{ {method} }}")), "{}", row.name);
        }
    }

    #[test]
    fn all_methods_are_read() {
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
        assert_eq!(
            load_sticky("{ session = true, timeout = \"1h\" }"),
            Ok(Sticky::from_session(Duration::from_secs(3_600)))
        );
    }

    #[test]
    fn error_is_reported_with_its_place() {
        for (table, wanted) in [
            ("true", "`sticky` cannot be a boolean"),
            ("{}", "needs one of"),
            ("{ expires = \"1h\" }", "needs one of"),
            ("{ cookie = \"a b\" }", "f:2:21: `cookie` cannot be `a b`"),
            ("{ cookie = \"a\", timeout = \"1h\" }", "`timeout` cannot be combined with `cookie`"),
            ("{ cookie = \"a\", header = \"b\" }", "`header` cannot be combined with `cookie`"),
            ("{ session = false }", "`session` takes true"),
            ("{ header = \"a\", session = true }", "`session` cannot be combined with `header`"),
            ("{ cookei = \"a\" }", "did you mean `cookie`?"),
            ("{ learn = \"$upstream_cookie_a\" }", "`learn` needs a `lookup`"),
            ("{ learn = \"$upstream_cookie_a\", lookup = \"$upstream_cookie_a\" }", "before the response"),
            ("{ cookie = \"a\", samesite = \"laxx\" }", "did you mean `lax`?"),
        ] {
            let report = load_sticky(table).expect_err(table);
            assert!(report.contains(wanted), "{table}: {report}");
        }
    }
}
