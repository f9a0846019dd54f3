//! A pool's `sticky` table.

use std::time::Duration;

use toml::de::DeValue;

use super::keys::Key;
use super::nearest::suggest;
use super::report::{Issue, Place};
use super::value::{Read, Value};
use crate::fleet::{Cookie, SameSite, Sticky, Variable};

/// nginx's `timeout` of `sticky learn`.
const TIMEOUT: Duration = Duration::from_secs(600);
/// What browsers take for ever: nginx's `expires=max` is as far away.
const FOR_EVER: Duration = Duration::from_secs(3_650 * 86_400);

/// What is written, before it is one of the kinds.
#[derive(Default)]
struct Draft {
    cookie: Cookie,
    learn: Vec<Variable>,
    lookup: Vec<Variable>,
    header: String,
    timeout: Option<Duration>,
}

/// The keys, each kind first of its own.
static KEYS: &[Key<Draft>] = &[
    Key {
        path: "cookie",
        wants: "a cookie's name",
        default: "",
        set: |d, v| token(v).map(|name| d.cookie.name = name),
    },
    Key {
        path: "expires",
        wants: "a time such as \"1h\", or \"max\"",
        default: "",
        set: |d, v| expires(v).map(|time| d.cookie.expires = Some(time)),
    },
    Key {
        path: "domain",
        wants: "a domain such as \".example.com\"",
        default: "",
        set: |d, v| token(v).map(|domain| d.cookie.domain = Some(domain)),
    },
    Key {
        path: "path",
        wants: "a path such as \"/\"",
        default: "",
        set: |d, v| token(v).map(|path| d.cookie.path = Some(path)),
    },
    Key {
        path: "httponly",
        wants: "true or false",
        default: "",
        set: |d, v| v.flag().map(|on| d.cookie.http_only = on),
    },
    Key { path: "secure", wants: "true or false", default: "", set: |d, v| v.flag().map(|on| d.cookie.secure = on) },
    Key {
        path: "samesite",
        wants: "\"strict\", \"lax\" or \"none\"",
        default: "",
        set: |d, v| v.one_of("values", &SAME_SITES).map(|value| d.cookie.same_site = Some(value)),
    },
    Key {
        path: "learn",
        wants: "what names a new session, such as \"$upstream_cookie_sid\"",
        default: "",
        set: |d, v| v.each(variable).map(|all| d.learn = all),
    },
    Key {
        path: "lookup",
        wants: "what names a request's session, such as \"$cookie_sid\"",
        default: "",
        set: |d, v| v.each(asked).map(|all| d.lookup = all),
    },
    Key { path: "header", wants: "a header's name", default: "", set: |d, v| token(v).map(|name| d.header = name) },
    Key {
        path: "timeout",
        wants: "a time above 0 such as \"10m\"",
        default: "",
        set: |d, v| v.some_time().map(|time| d.timeout = Some(time)),
    },
];

const SAME_SITES: [(&str, SameSite); 3] =
    [("strict", SameSite::Strict), ("lax", SameSite::Lax), ("none", SameSite::None)];

/// The kinds by the key that makes them, and what may stand beside it.
const KINDS: [(&str, &[&str]); 3] = [
    ("cookie", &["expires", "domain", "path", "httponly", "secure", "samesite"]),
    ("learn", &["lookup", "timeout"]),
    ("header", &["timeout"]),
];

/// Reads `{ cookie = "route", expires = "1h" }`, `{ learn = "...", lookup = "..." }` or `{ header = "..." }`.
pub(super) fn sticky(value: &Value<'_>) -> Read<Sticky> {
    let DeValue::Table(table) = value.given else { return Err(value.wrong()) };
    let mut draft = Draft::default();
    let mut issues = Vec::new();
    let mut given: Vec<(&str, Place)> = Vec::new();
    for (key, item) in table {
        let (name, at) = (key.get_ref().as_ref(), value.at.at(key.span()));
        let Some(row) = KEYS.iter().find(|row| row.path == name) else {
            let names: Vec<&str> = KEYS.iter().map(|row| row.path).collect();
            issues.push(at.issue(format!("unknown key `{name}` in `sticky`")).help(suggest(name, "keys", &names)));
            continue;
        };
        let spot = value.at.at(item.span());
        let item = Value { key: name, wants: row.wants, given: item.get_ref(), at: spot, unquoted: false };
        issues.extend((row.set)(&mut draft, &item).err().unwrap_or_default());
        given.push((row.path, at));
    }
    let kind = KINDS.iter().find(|(kind, _)| given.iter().any(|(name, _)| name == kind));
    let Some((kind, beside)) = kind else {
        issues.push(value.issue("`sticky` needs one of `cookie`, `learn` and `header`").help(EXAMPLE));
        return Err(issues);
    };
    let odd = given.iter().filter(|(name, _)| name != kind && !beside.contains(name));
    issues.extend(odd.map(|(name, at)| out_of_place(name, kind, at)));
    if *kind == "learn" && !given.iter().any(|(name, _)| *name == "lookup") {
        issues.push(value.issue("`learn` needs a `lookup`").help("for example lookup = \"$cookie_sid\""));
    }
    if !issues.is_empty() {
        return Err(issues);
    }
    let timeout = draft.timeout.unwrap_or(TIMEOUT);
    Ok(match *kind {
        "cookie" => Sticky::Cookie(draft.cookie),
        "learn" => Sticky::Learn { create: draft.learn, lookup: draft.lookup, timeout },
        _ => Sticky::header(&draft.header, timeout),
    })
}

const EXAMPLE: &str = "for example sticky = { cookie = \"route\", expires = \"1h\" }";

fn out_of_place(name: &str, kind: &str, at: &Place) -> Issue {
    at.issue(format!("`{name}` has no place beside `{kind}`")).help("leave it out")
}

/// What may stand in a cookie without quotes.
fn token(value: &Value<'_>) -> Read<String> {
    let text = value.text()?;
    let fits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"=;,\"\\".contains(&b));
    if fits { Ok(text.into_owned()) } else { Err(value.wrong()) }
}

fn expires(value: &Value<'_>) -> Read<Duration> {
    if value.given.as_str() == Some("max") { Ok(FOR_EVER) } else { value.some_time() }
}

fn variable(value: &Value<'_>) -> Read<Variable> {
    Variable::parse(&value.text()?).ok_or_else(|| value.wrong())
}

/// A variable that is known before there is an answer.
fn asked(value: &Value<'_>) -> Read<Variable> {
    match variable(value)? {
        Variable::UpstreamCookie(_) | Variable::UpstreamHeader(_) => {
            let issue = value.issue("a session is looked up before there is an answer");
            Err(issue.help("write `$cookie_NAME` or `$http_NAME`").into())
        }
        known => Ok(known),
    }
}

#[cfg(test)]
mod tests {
    use super::super::load;
    use super::*;

    fn read(table: &str) -> Result<Sticky, String> {
        let text = format!("replicas = [\"http://a\", \"http://b\"]\nsticky = {table}");
        let loaded = load(&text, "f", []).map_err(|report| report.to_string())?;
        Ok(loaded.settings.pools[0].sticky.clone().expect("it was given"))
    }

    #[test]
    fn the_three_kinds_are_read() {
        let cookie = Cookie {
            name: "route".to_owned(),
            expires: Some(Duration::from_secs(3_600)),
            http_only: true,
            same_site: Some(SameSite::Lax),
            ..Cookie::default()
        };
        let table = "{ cookie = \"route\", expires = \"1h\", httponly = true, samesite = \"lax\" }";
        assert_eq!(read(table), Ok(Sticky::Cookie(cookie)));
        assert_eq!(
            read("{ learn = \"$upstream_cookie_sid\", lookup = [\"$cookie_sid\", \"$http_x_sid\"], timeout = \"1h\" }"),
            Ok(Sticky::Learn {
                create: vec![Variable::UpstreamCookie("sid".to_owned())],
                lookup: vec![Variable::Cookie("sid".to_owned()), Variable::Header("x-sid".to_owned())],
                timeout: Duration::from_secs(3_600),
            })
        );
        assert_eq!(read("{ header = \"X-Session-Id\" }"), Ok(Sticky::header("x-session-id", TIMEOUT)));
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
            let report = read(table).expect_err(table);
            assert!(report.contains(wanted), "{table}: {report}");
        }
    }
}
