//! One replica: nginx's `server` line as a string, or the same words as a table.

use std::net::IpAddr;

use toml::de::{DeTable, DeValue};

use crate::config::diagnostics::{Diagnostic, Span, SpannedValue};
use crate::config::parse::suggest::suggestion;
use crate::config::parse::units;
use crate::config::parse::value::{ReadResult, TomlValue, type_name};
use crate::fleet::{MemberSpec, Origin, OriginError};
use crate::units::Weight;

/// One word behind a replica's URL.
pub(in crate::config) struct ReplicaOption {
    pub(in crate::config) name: &'static str,
    /// What it takes, as the end of "`word` takes ..."; empty for a word that stands alone.
    expected: &'static str,
    /// Its value where it is left out; empty where there is none.
    #[cfg_attr(not(test), expect(dead_code, reason = "the tests compare it with the code"))]
    pub(in crate::config) default: &'static str,
    /// `None` if the value is none.
    set: fn(&mut MemberSpec, &str) -> Option<()>,
}

pub(in crate::config) static REPLICA_OPTIONS: &[ReplicaOption] = &[
    ReplicaOption {
        name: "weight",
        expected: "a whole number from 1 to 65535 (`down` takes a replica out)",
        default: "1",
        set: |m, v| v.parse().ok().filter(|n| *n <= 65_535).and_then(Weight::new).map(|weight| m.weight = weight),
    },
    ReplicaOption {
        name: "max_fails",
        expected: "a whole number, or 0 to never eject",
        default: "1",
        set: |m, v| v.parse().ok().map(|n| (m.eject_limits.max_fails, m.eject_limits.backoff) = (n, false)),
    },
    ReplicaOption {
        name: "fail_timeout",
        expected: "a time such as 30s, 500ms or 1m, up to 365d",
        default: "10s",
        set: |m, v| {
            units::parse_duration(v).map(|t| (m.eject_limits.fail_timeout, m.eject_limits.backoff) = (t, false))
        },
    },
    ReplicaOption {
        name: "max_conns",
        expected: "a whole number, or 0 for no limit",
        default: "0",
        set: |m, v| v.parse().ok().map(|n: u32| m.max_conns = (n > 0).then_some(n)),
    },
    ReplicaOption {
        name: "backup",
        expected: "",
        default: "",
        set: |m, _| {
            m.backup = true;
            Some(())
        },
    },
    ReplicaOption {
        name: "down",
        expected: "",
        default: "",
        set: |m, _| {
            m.down = true;
            Some(())
        },
    },
    ReplicaOption {
        name: "drain",
        expected: "",
        default: "",
        set: |m, _| {
            m.drain = true;
            Some(())
        },
    },
    ReplicaOption {
        name: "slow_start",
        expected: "a time such as 30s, 500ms or 1m, up to 365d; 0 for at once",
        default: "0",
        set: |m, v| units::parse_duration(v).map(|t| m.slow_start = t),
    },
    ReplicaOption {
        name: "resolve",
        expected: "",
        default: "",
        set: |m, _| {
            m.dns_lookup.get_or_insert_default();
            Some(())
        },
    },
    ReplicaOption {
        name: "service",
        expected: "the name of a service, such as http or _http._tcp",
        default: "",
        set: |m, v| {
            let fits = !v.is_empty() && v.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            fits.then(|| m.dns_lookup.get_or_insert_default().service = Some(v.into()))
        },
    },
    ReplicaOption {
        name: "name",
        expected: "a name of visible ASCII characters",
        default: "",
        set: |m, v| (!v.is_empty() && v.bytes().all(|b| b.is_ascii_graphic())).then(|| m.name = v.into()),
    },
];

/// nginx's words that mean something we do not do yet.
const UNSUPPORTED_OPTIONS: [&str; 1] = ["route"];

/// Reads `"http://h:8000 weight=2 backup"` or `{ url = "http://h:8000", weight = 2, backup = true }`.
pub(in crate::config) fn parse_replica(value: &TomlValue<'_>) -> ReadResult<SpannedValue<MemberSpec>> {
    match value.raw {
        DeValue::Table(table) => parse_replica_table(value, table),
        _ => parse_replica_words(&value.span, value.words()?),
    }
}

/// Tells whether a replica may have the word `name`.
pub(crate) fn is_replica_option(name: &str) -> bool {
    REPLICA_OPTIONS.iter().any(|word| word.name == name)
}

/// Reads a URL and the words behind it; `whole` is where all of them are.
pub(crate) fn parse_replica_words(
    whole: &Span,
    words: Vec<SpannedValue<String>>,
) -> ReadResult<SpannedValue<MemberSpec>> {
    let mut words = words.into_iter();
    if let [SpannedValue { value, span: at }, _, ..] = words.as_slice()
        && value == "server"
    {
        return Err(at.diagnostic("a replica begins with its URL").with_help("leave out nginx's `server`").into());
    }
    let url = words.next().ok_or_else(|| whole.diagnostic("a replica needs a URL").with_help(REPLICA_EXAMPLE));
    let given: Vec<GivenOption> = words
        .map(|SpannedValue { value: word, span: at }| match word.split_once('=') {
            Some((name, value)) => GivenOption { name: name.to_owned(), value: Some(value.to_owned()), span: at },
            None => GivenOption { name: word, value: None, span: at },
        })
        .collect();
    build_member(url, &given, Vec::new())
}

fn parse_replica_table(value: &TomlValue<'_>, table: &DeTable<'_>) -> ReadResult<SpannedValue<MemberSpec>> {
    let mut issues = Vec::new();
    let mut url = Err(value.diagnostic("a replica needs a `url`").with_help(REPLICA_TABLE_EXAMPLE));
    let mut given = Vec::new();
    for (key, item) in table {
        let (name, at) = (key.get_ref().to_string(), value.span.with_range(item.span()));
        let word = REPLICA_OPTIONS.iter().find(|word| word.name == name);
        let text = match item.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(number) => Some(number.as_str().to_owned()),
            DeValue::Float(number) => Some(number.as_str().to_owned()),
            DeValue::Boolean(true) if name != "url" => None,
            DeValue::Boolean(false) if word.is_some_and(|word| word.expected.is_empty()) => continue,
            other => {
                let issue =
                    at.diagnostic(format!("`{name}` cannot be {}", type_name(other))).with_help(REPLICA_TABLE_EXAMPLE);
                if name == "url" {
                    url = Err(issue);
                } else {
                    issues.push(issue);
                }
                continue;
            }
        };
        match (name.as_str(), text) {
            ("url", Some(text)) => url = Ok(SpannedValue::new(text, at)),
            _ if word.is_none() => issues.push(unknown_option(&name, &value.span.with_range(key.span()), &["url"])),
            (_, text) => given.push(GivenOption { name, value: text, span: at }),
        }
    }
    build_member(url, &given, issues)
}

const REPLICA_EXAMPLE: &str = "for example \"http://10.0.0.1:8000 weight=2\"";
const REPLICA_TABLE_EXAMPLE: &str = "for example { url = \"http://10.0.0.1:8000\", weight = 2 }";

/// A word as given.
struct GivenOption {
    name: String,
    /// What is behind `=`; `None` for a word that stands alone.
    value: Option<String>,
    span: Span,
}

fn build_member(
    url: Result<SpannedValue<String>, Diagnostic>,
    given: &[GivenOption],
    mut issues: Vec<Diagnostic>,
) -> ReadResult<SpannedValue<MemberSpec>> {
    let origin = url.and_then(|url| Ok(SpannedValue::new(parse_origin(&url)?, url.span)));
    // The words are checked whatever the URL is, so that all that is wrong is said at once.
    let stand_in = || "http://stand-in".parse::<Origin>().expect("a URL with a host");
    let mut member = MemberSpec::new(origin.as_ref().map_or_else(|_| stand_in(), |origin| origin.value.clone()));
    let mut seen: Vec<&str> = Vec::new();
    for word in given {
        if seen.contains(&word.name.as_str()) {
            issues.push(word.span.diagnostic(format!("`{}` is given twice", word.name)).with_help("keep one"));
            continue;
        }
        seen.push(&word.name);
        issues.extend(apply_option(word, &mut member).err());
    }
    if let Ok(origin) = &origin {
        issues.extend(check_dns_options(&mut member, given, origin));
    }
    match origin {
        Ok(origin) if issues.is_empty() => Ok(SpannedValue::new(member, origin.span)),
        Ok(_) => Err(issues),
        Err(issue) => {
            issues.push(issue);
            Err(issues)
        }
    }
}

/// What goes with `resolve` and what does not; as in nginx it means nothing where the host is an address.
fn check_dns_options(member: &mut MemberSpec, given: &[GivenOption], origin: &SpannedValue<Origin>) -> Vec<Diagnostic> {
    let find = |name: &str| given.iter().find(|word| word.name == name);
    let mut issues = Vec::new();
    if let (Some(service), None) = (find("service"), find("resolve")) {
        issues.push(service.span.diagnostic("`service` needs `resolve`").with_help("add resolve"));
    }
    if let (Some(name), Some(_)) = (find("name"), find("resolve")) {
        let issue = name.span.diagnostic("`name` cannot go with `resolve`: each address is a replica of its own");
        issues.push(issue.with_help("leave `name` out; the replicas are called by address and port"));
    }
    if member.origin.host().parse::<IpAddr>().is_ok() {
        member.dns_lookup = None;
        if let Some(service) = find("service") {
            issues.push(service.span.diagnostic("`service` needs a host name"));
        }
    }
    if find("service").is_some() && has_port(origin.span.text()) {
        let issue = origin.span.diagnostic("`service` cannot go with a port: SRV records name it");
        issues.push(issue.with_help("leave the port out"));
    }
    issues
}

fn has_port(url: &str) -> bool {
    let url = url.trim_matches(['"', '\'']);
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or_default();
    authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'))
}

fn apply_option(given: &GivenOption, member: &mut MemberSpec) -> Result<(), Diagnostic> {
    let GivenOption { name, value, span: at } = given;
    let word = REPLICA_OPTIONS.iter().find(|word| word.name == name).ok_or_else(|| unknown_option(name, at, &[]))?;
    let takes = if word.expected.is_empty() { "no value" } else { word.expected };
    let help = format!("`{name}` takes {takes}");
    match value {
        Some(value) if value.ends_with(';') => Err(at.diagnostic("a `;` has no place here").with_help("leave it out")),
        Some(value) if word.expected.is_empty() => {
            Err(at.diagnostic(format!("`{name}` cannot be `{value}`")).with_help(help))
        }
        None if !word.expected.is_empty() => Err(at.diagnostic(format!("`{name}` needs a value")).with_help(help)),
        value => {
            let value = value.as_deref().unwrap_or_default();
            (word.set)(member, value)
                .ok_or_else(|| at.diagnostic(format!("`{name}` cannot be `{value}`")).with_help(help))
        }
    }
}

/// A word that is none; `more` are the keys that go with the words in a table.
fn unknown_option(name: &str, at: &Span, more: &[&str]) -> Diagnostic {
    if let Some(later) = UNSUPPORTED_OPTIONS.iter().find(|later| **later == name) {
        return at.diagnostic(format!("nginx's `{later}` is not supported yet"));
    }
    if name.ends_with(';') {
        return at.diagnostic("a `;` has no place here").with_help("leave it out");
    }
    let names: Vec<&str> = more.iter().copied().chain(REPLICA_OPTIONS.iter().map(|word| word.name)).collect();
    at.diagnostic(format!("unknown word `{name}` for a replica")).with_help(suggestion(name, "words", &names))
}

fn parse_origin(url: &SpannedValue<String>) -> Result<Origin, Diagnostic> {
    let text = url.value.as_str();
    url.value.parse().map_err(|bad: OriginError| {
        let issue = url.span.diagnostic(match &bad {
            OriginError::InvalidUrl(_) => bad.to_string(),
            _ => format!("bad URL `{text}`: {bad}"),
        });
        match bad {
            OriginError::UnsupportedScheme
                if !text.contains("://") && format!("http://{text}").parse::<Origin>().is_ok() =>
            {
                issue.with_help(format!("did you mean `http://{text}`?"))
            }
            _ => issue.with_help(REPLICA_EXAMPLE),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_member(text: &str) -> Result<MemberSpec, Vec<String>> {
        let place = Span::from_text("f", text);
        let words = text.split_whitespace().map(|word| SpannedValue::new(word.to_owned(), place.clone())).collect();
        parse_replica_words(&place, words)
            .map(|at| at.value)
            .map_err(|all| all.into_iter().map(|i| i.message).collect())
    }

    #[test]
    fn nginx_words_set_what_they_say() {
        let text = "http://a:1/v1 weight=2 max_fails=3 fail_timeout=1m max_conns=100 backup down name=gpu1";
        let member = parse_member(text).unwrap();
        assert_eq!((member.weight.get(), member.eject_limits.max_fails), (2, 3));
        assert_eq!((member.eject_limits.fail_timeout.as_secs(), member.max_conns), (60, Some(100)));
        assert_eq!((member.backup, member.down, &*member.name), (true, true, "gpu1"));
    }

    #[test]
    fn names_are_resolved_as_nginx_says() {
        let lookup = |text: &str| parse_member(text).map(|member| member.dns_lookup.map(|lookup| lookup.service));
        assert_eq!(lookup("http://gpu:1 resolve"), Ok(Some(None)));
        assert_eq!(lookup("http://gpu service=http resolve"), Ok(Some(Some("http".into()))));
        assert_eq!(lookup("http://10.0.0.1:1 resolve"), Ok(None), "an address has nothing to ask for");
        for text in ["http://gpu service=http", "http://gpu:1 resolve service=http", "http://gpu resolve name=a"] {
            assert_eq!(lookup(text).unwrap_err().len(), 1, "{text}");
        }
    }

    #[test]
    fn words_left_out_have_the_tables_defaults() {
        for word in REPLICA_OPTIONS.iter().filter(|word| !word.default.is_empty()) {
            let text = format!("http://a:1 {}={}", word.name, word.default);
            let mut written = parse_member(&text).unwrap();
            // nginx's words have nginx's meaning: times away that do not grow.
            written.eject_limits.backoff = true;
            assert_eq!(Ok(written), parse_member("http://a:1"), "{text}");
        }
    }

    #[test]
    fn all_that_is_wrong_with_a_replica_is_said() {
        let issues =
            parse_member("ftp://a weight=0 wieght=2 backup=yes max_fails slow_start=30x backup backup;").unwrap_err();
        assert_eq!(issues.len(), 8, "{issues:#?}");
    }
}
