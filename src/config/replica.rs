//! One replica: nginx's `server` line as a string, or the same words as a table.

use std::net::IpAddr;

use toml::de::{DeTable, DeValue};

use super::amount;
use super::nearest::suggest;
use super::report::{At, Issue, Place};
use super::value::{Read, Value, kind};
use crate::fleet::{BadOrigin, MemberSpec, Origin};
use crate::units::Weight;

/// One word behind a replica's URL.
pub(super) struct Word {
    pub(super) name: &'static str,
    /// What it takes, as the end of "`word` takes ..."; empty for a word that stands alone.
    wants: &'static str,
    /// Its value where it is left out; empty where there is none.
    #[cfg_attr(not(test), expect(dead_code, reason = "the tests compare it with the code"))]
    pub(super) default: &'static str,
    /// `None` if the value is none.
    set: fn(&mut MemberSpec, &str) -> Option<()>,
}

pub(super) static WORDS: &[Word] = &[
    Word {
        name: "weight",
        wants: "a whole number from 1 to 65535 (`down` takes a replica out)",
        default: "1",
        set: |m, v| v.parse().ok().filter(|n| *n <= 65_535).and_then(Weight::new).map(|weight| m.weight = weight),
    },
    Word {
        name: "max_fails",
        wants: "a whole number, or 0 to never eject",
        default: "1",
        set: |m, v| v.parse().ok().map(|n| (m.eject.max_fails, m.eject.grows) = (n, false)),
    },
    Word {
        name: "fail_timeout",
        wants: "a time such as 30s, 500ms or 1m, up to 365d",
        default: "10s",
        set: |m, v| amount::time(v).map(|t| (m.eject.fail_timeout, m.eject.grows) = (t, false)),
    },
    Word {
        name: "max_conns",
        wants: "a whole number, or 0 for no limit",
        default: "0",
        set: |m, v| v.parse().ok().map(|n: u32| m.max_conns = (n > 0).then_some(n)),
    },
    Word {
        name: "backup",
        wants: "",
        default: "",
        set: |m, _| {
            m.backup = true;
            Some(())
        },
    },
    Word {
        name: "down",
        wants: "",
        default: "",
        set: |m, _| {
            m.down = true;
            Some(())
        },
    },
    Word {
        name: "drain",
        wants: "",
        default: "",
        set: |m, _| {
            m.drain = true;
            Some(())
        },
    },
    Word {
        name: "slow_start",
        wants: "a time such as 30s, 500ms or 1m, up to 365d; 0 for at once",
        default: "0",
        set: |m, v| amount::time(v).map(|t| m.slow_start = t),
    },
    Word {
        name: "resolve",
        wants: "",
        default: "",
        set: |m, _| {
            m.lookup.get_or_insert_default();
            Some(())
        },
    },
    Word {
        name: "service",
        wants: "the name of a service, such as http or _http._tcp",
        default: "",
        set: |m, v| {
            let fits = !v.is_empty() && v.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            fits.then(|| m.lookup.get_or_insert_default().service = Some(v.into()))
        },
    },
    Word {
        name: "name",
        wants: "a name of visible ASCII characters",
        default: "",
        set: |m, v| (!v.is_empty() && v.bytes().all(|b| b.is_ascii_graphic())).then(|| m.name = v.into()),
    },
];

/// nginx's words that mean something we do not do yet.
const LATER: [&str; 1] = ["route"];

/// Reads `"http://h:8000 weight=2 backup"` or `{ url = "http://h:8000", weight = 2, backup = true }`.
pub(super) fn replica(value: &Value<'_>) -> Read<At<MemberSpec>> {
    match value.given {
        DeValue::Table(table) => from_table(value, table),
        _ => from_words(&value.at, value.words()?),
    }
}

/// Tells whether a replica may have the word `name`.
pub(crate) fn knows(name: &str) -> bool {
    WORDS.iter().any(|word| word.name == name)
}

/// Reads a URL and the words behind it; `whole` is where all of them are.
pub(crate) fn from_words(whole: &Place, words: Vec<At<String>>) -> Read<At<MemberSpec>> {
    let mut words = words.into_iter();
    if let [At { value, at }, _, ..] = words.as_slice()
        && value == "server"
    {
        return Err(at.issue("a replica begins with its URL").help("leave out nginx's `server`").into());
    }
    let url = words.next().ok_or_else(|| whole.issue("a replica needs a URL").help(EXAMPLE));
    let given: Vec<Given> = words
        .map(|At { value: word, at }| match word.split_once('=') {
            Some((name, value)) => Given { name: name.to_owned(), value: Some(value.to_owned()), at },
            None => Given { name: word, value: None, at },
        })
        .collect();
    member(url, &given, Vec::new())
}

fn from_table(value: &Value<'_>, table: &DeTable<'_>) -> Read<At<MemberSpec>> {
    let mut issues = Vec::new();
    let mut url = Err(value.issue("a replica needs a `url`").help(EXAMPLE_TABLE));
    let mut given = Vec::new();
    for (key, item) in table {
        let (name, at) = (key.get_ref().to_string(), value.at.at(item.span()));
        let word = WORDS.iter().find(|word| word.name == name);
        let text = match item.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(number) => Some(number.as_str().to_owned()),
            DeValue::Float(number) => Some(number.as_str().to_owned()),
            DeValue::Boolean(true) if name != "url" => None,
            DeValue::Boolean(false) if word.is_some_and(|word| word.wants.is_empty()) => continue,
            other => {
                let issue = at.issue(format!("`{name}` cannot be {}", kind(other))).help(EXAMPLE_TABLE);
                if name == "url" {
                    url = Err(issue);
                } else {
                    issues.push(issue);
                }
                continue;
            }
        };
        match (name.as_str(), text) {
            ("url", Some(text)) => url = Ok(At::new(text, at)),
            _ if word.is_none() => issues.push(unknown(&name, &value.at.at(key.span()), &["url"])),
            (_, text) => given.push(Given { name, value: text, at }),
        }
    }
    member(url, &given, issues)
}

const EXAMPLE: &str = "for example \"http://10.0.0.1:8000 weight=2\"";
const EXAMPLE_TABLE: &str = "for example { url = \"http://10.0.0.1:8000\", weight = 2 }";

/// A word as given.
struct Given {
    name: String,
    /// What is behind `=`; `None` for a word that stands alone.
    value: Option<String>,
    at: Place,
}

fn member(url: Result<At<String>, Issue>, given: &[Given], mut issues: Vec<Issue>) -> Read<At<MemberSpec>> {
    let origin = url.and_then(|url| Ok(At::new(origin(&url)?, url.at)));
    // The words are checked whatever the URL is, so that all that is wrong is said at once.
    let stand_in = || "http://stand-in".parse::<Origin>().expect("a URL with a host");
    let mut member = MemberSpec::new(origin.as_ref().map_or_else(|_| stand_in(), |origin| origin.value.clone()));
    let mut seen: Vec<&str> = Vec::new();
    for word in given {
        if seen.contains(&word.name.as_str()) {
            issues.push(word.at.issue(format!("`{}` is given twice", word.name)).help("keep one"));
            continue;
        }
        seen.push(&word.name);
        issues.extend(apply(word, &mut member).err());
    }
    if let Ok(origin) = &origin {
        issues.extend(resolving(&mut member, given, origin));
    }
    match origin {
        Ok(origin) if issues.is_empty() => Ok(At::new(member, origin.at)),
        Ok(_) => Err(issues),
        Err(issue) => {
            issues.push(issue);
            Err(issues)
        }
    }
}

/// What goes with `resolve` and what does not; as in nginx it means nothing where the host is an address.
fn resolving(member: &mut MemberSpec, given: &[Given], origin: &At<Origin>) -> Vec<Issue> {
    let find = |name: &str| given.iter().find(|word| word.name == name);
    let mut issues = Vec::new();
    if let (Some(service), None) = (find("service"), find("resolve")) {
        issues.push(service.at.issue("`service` needs `resolve`").help("add resolve"));
    }
    if let (Some(name), Some(_)) = (find("name"), find("resolve")) {
        let issue = name.at.issue("`name` cannot go with `resolve`: each address is a replica of its own");
        issues.push(issue.help("leave `name` out; the replicas are called by address and port"));
    }
    if member.origin.host().parse::<IpAddr>().is_ok() {
        member.lookup = None;
        if let Some(service) = find("service") {
            issues.push(service.at.issue("`service` needs a host name"));
        }
    }
    if find("service").is_some() && has_port(origin.at.written()) {
        let issue = origin.at.issue("`service` cannot go with a port: SRV records name it");
        issues.push(issue.help("leave the port out"));
    }
    issues
}

fn has_port(url: &str) -> bool {
    let url = url.trim_matches(['"', '\'']);
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or_default();
    authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'))
}

fn apply(given: &Given, member: &mut MemberSpec) -> Result<(), Issue> {
    let Given { name, value, at } = given;
    let word = WORDS.iter().find(|word| word.name == name).ok_or_else(|| unknown(name, at, &[]))?;
    let takes = if word.wants.is_empty() { "no value" } else { word.wants };
    let help = format!("`{name}` takes {takes}");
    match value {
        Some(value) if value.ends_with(';') => Err(at.issue("a `;` has no place here").help("leave it out")),
        Some(value) if word.wants.is_empty() => Err(at.issue(format!("`{name}` cannot be `{value}`")).help(help)),
        None if !word.wants.is_empty() => Err(at.issue(format!("`{name}` needs a value")).help(help)),
        value => {
            let value = value.as_deref().unwrap_or_default();
            (word.set)(member, value).ok_or_else(|| at.issue(format!("`{name}` cannot be `{value}`")).help(help))
        }
    }
}

/// A word that is none; `more` are the keys that go with the words in a table.
fn unknown(name: &str, at: &Place, more: &[&str]) -> Issue {
    if let Some(later) = LATER.iter().find(|later| **later == name) {
        return at.issue(format!("nginx's `{later}` is not supported yet"));
    }
    if name.ends_with(';') {
        return at.issue("a `;` has no place here").help("leave it out");
    }
    let names: Vec<&str> = more.iter().copied().chain(WORDS.iter().map(|word| word.name)).collect();
    at.issue(format!("unknown word `{name}` for a replica")).help(suggest(name, "words", &names))
}

fn origin(url: &At<String>) -> Result<Origin, Issue> {
    let text = url.value.as_str();
    url.value.parse().map_err(|bad: BadOrigin| {
        let issue = url.at.issue(match &bad {
            BadOrigin::NotUrl(_) => bad.to_string(),
            _ => format!("bad URL `{text}`: {bad}"),
        });
        match bad {
            BadOrigin::Scheme if !text.contains("://") && format!("http://{text}").parse::<Origin>().is_ok() => {
                issue.help(format!("did you mean `http://{text}`?"))
            }
            _ => issue.help(EXAMPLE),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<MemberSpec, Vec<String>> {
        let place = Place::whole("f", text);
        let words = text.split_whitespace().map(|word| At::new(word.to_owned(), place.clone())).collect();
        from_words(&place, words).map(|at| at.value).map_err(|all| all.into_iter().map(|i| i.message).collect())
    }

    #[test]
    fn nginx_words_set_what_they_say() {
        let text = "http://a:1/v1 weight=2 max_fails=3 fail_timeout=1m max_conns=100 backup down name=gpu1";
        let member = read(text).unwrap();
        assert_eq!((member.weight.get(), member.eject.max_fails), (2, 3));
        assert_eq!((member.eject.fail_timeout.as_secs(), member.max_conns), (60, Some(100)));
        assert_eq!((member.backup, member.down, &*member.name), (true, true, "gpu1"));
    }

    #[test]
    fn names_are_resolved_as_nginx_says() {
        let lookup = |text: &str| read(text).map(|member| member.lookup.map(|lookup| lookup.service));
        assert_eq!(lookup("http://gpu:1 resolve"), Ok(Some(None)));
        assert_eq!(lookup("http://gpu service=http resolve"), Ok(Some(Some("http".into()))));
        assert_eq!(lookup("http://10.0.0.1:1 resolve"), Ok(None), "an address has nothing to ask for");
        for text in ["http://gpu service=http", "http://gpu:1 resolve service=http", "http://gpu resolve name=a"] {
            assert_eq!(lookup(text).unwrap_err().len(), 1, "{text}");
        }
    }

    #[test]
    fn words_left_out_have_the_tables_defaults() {
        for word in WORDS.iter().filter(|word| !word.default.is_empty()) {
            let text = format!("http://a:1 {}={}", word.name, word.default);
            let mut written = read(&text).unwrap();
            // nginx's words have nginx's meaning: times away that do not grow.
            written.eject.grows = true;
            assert_eq!(Ok(written), read("http://a:1"), "{text}");
        }
    }

    #[test]
    fn all_that_is_wrong_with_a_replica_is_said() {
        let issues = read("ftp://a weight=0 wieght=2 backup=yes max_fails slow_start=30x backup backup;").unwrap_err();
        assert_eq!(issues.len(), 8, "{issues:#?}");
    }
}
