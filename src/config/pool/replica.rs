//! One replica: nginx's `server` line as a string, or a table with the same options.

use std::net::IpAddr;

use toml::de::DeValue;

use super::replica_options::{REPLICA_OPTIONS, UNSUPPORTED_OPTIONS, find_option};
use crate::config::diagnostics::{Diagnostic, Span, SpannedValue};
use crate::config::parse::suggest::suggestion;
use crate::config::parse::value::{ReadResult, TomlEntry, TomlValue, type_name};
use crate::fleet::{MemberSpec, Origin, OriginError};

const REPLICA_EXAMPLE: &str = "for example \"http://10.0.0.1:8000 weight=2\"";
const REPLICA_TABLE_EXAMPLE: &str = "for example { url = \"http://10.0.0.1:8000\", weight = 2 }";

/// An option as it is written.
struct GivenOption {
    name: String,
    /// The text after `=`; `None` for a flag.
    value: Option<String>,
    span: Span,
}

/// Reads `"http://h:8000 weight=2 backup"` or `{ url = "http://h:8000", weight = 2, backup = true }`.
pub(super) fn parse_replica(value: &TomlValue<'_>) -> ReadResult<SpannedValue<MemberSpec>> {
    match value.raw {
        DeValue::Table(_) => parse_replica_table(value),
        _ => parse_replica_words(&value.span, value.words()?),
    }
}

/// Reads a URL and the options after it; `span` is the place of them all.
pub(crate) fn parse_replica_words(
    span: &Span,
    words: Vec<SpannedValue<String>>,
) -> ReadResult<SpannedValue<MemberSpec>> {
    let mut words = words.into_iter();
    if let [SpannedValue { value, span }, _, ..] = words.as_slice()
        && value == "server"
    {
        return Err(span.diagnostic("a replica begins with its URL").with_help("remove nginx's `server`").into());
    }
    let url = words.next().ok_or_else(|| span.diagnostic("a replica needs a URL").with_help(REPLICA_EXAMPLE));
    let given: Vec<GivenOption> = words
        .map(|SpannedValue { value: word, span }| match word.split_once('=') {
            Some((name, value)) => GivenOption { name: name.to_owned(), value: Some(value.to_owned()), span },
            None => GivenOption { name: word, value: None, span },
        })
        .collect();
    build_member(url, &given, Vec::new())
}

fn parse_replica_table(value: &TomlValue<'_>) -> ReadResult<SpannedValue<MemberSpec>> {
    let mut errors = Vec::new();
    let mut url = Err(value.diagnostic("a replica needs a `url`").with_help(REPLICA_TABLE_EXAMPLE));
    let mut given = Vec::new();
    for TomlEntry { key, value: item, .. } in value.entries()? {
        let (name, span) = (key.value.to_owned(), item.span);
        let row = find_option(&name);
        let text = match item.value {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(number) => Some(number.as_str().to_owned()),
            DeValue::Float(number) => Some(number.as_str().to_owned()),
            DeValue::Boolean(true) if name != "url" => None,
            DeValue::Boolean(false) if row.is_some_and(|row| row.expected.is_empty()) => continue,
            other => {
                let diagnostic = span.diagnostic(format!("`{name}` cannot be {}", type_name(other)));
                let diagnostic = diagnostic.with_help(REPLICA_TABLE_EXAMPLE);
                if name == "url" {
                    url = Err(diagnostic);
                } else {
                    errors.push(diagnostic);
                }
                continue;
            }
        };
        match (name.as_str(), text) {
            ("url", Some(text)) => url = Ok(SpannedValue::new(text, span)),
            _ if row.is_none() => errors.push(unknown_option(&name, &key.span, &["url"])),
            (_, text) => given.push(GivenOption { name, value: text, span }),
        }
    }
    build_member(url, &given, errors)
}

/// Builds a replica from its URL and options. The options are checked even if the URL is wrong, to report all errors.
fn build_member(
    url: Result<SpannedValue<String>, Diagnostic>,
    given: &[GivenOption],
    mut errors: Vec<Diagnostic>,
) -> ReadResult<SpannedValue<MemberSpec>> {
    let origin = url.and_then(|url| Ok(SpannedValue::new(parse_origin(&url)?, url.span)));
    let placeholder = || "http://placeholder".parse::<Origin>().expect("a URL with a host");
    let mut member = MemberSpec::new(origin.as_ref().map_or_else(|_| placeholder(), |origin| origin.value.clone()));
    let mut names: Vec<&str> = Vec::new();
    for option in given {
        if names.contains(&option.name.as_str()) {
            errors.push(option.span.diagnostic(format!("`{}` is given twice", option.name)).with_help("keep one"));
            continue;
        }
        names.push(&option.name);
        errors.extend(apply_option(option, &mut member).err());
    }
    match origin {
        Ok(origin) => {
            errors.extend(check_dns_options(&mut member, given, &origin));
            if errors.is_empty() { Ok(SpannedValue::new(member, origin.span)) } else { Err(errors) }
        }
        Err(error) => {
            errors.push(error);
            Err(errors)
        }
    }
}

/// Checks the options that depend on `resolve`, which has no effect on an address, as in nginx.
fn check_dns_options(member: &mut MemberSpec, given: &[GivenOption], origin: &SpannedValue<Origin>) -> Vec<Diagnostic> {
    let find = |name: &str| given.iter().find(|option| option.name == name);
    let mut errors = Vec::new();
    if let (Some(service), None) = (find("service"), find("resolve")) {
        errors.push(service.span.diagnostic("`service` needs `resolve`").with_help("add resolve"));
    }
    if let (Some(name), Some(_)) = (find("name"), find("resolve")) {
        let message = "`name` cannot be combined with `resolve`: each address is a replica of its own";
        let help = "remove `name`; the replicas are named by address and port";
        errors.push(name.span.diagnostic(message).with_help(help));
    }
    if member.origin.host().parse::<IpAddr>().is_ok() || member.origin.socket().is_some() {
        member.dns_lookup = None;
        if let Some(service) = find("service") {
            errors.push(service.span.diagnostic("`service` needs a host name"));
        }
    }
    if find("service").is_some() && has_port(origin.span.text()) {
        let diagnostic = origin.span.diagnostic("`service` cannot be combined with a port: SRV records have it");
        errors.push(diagnostic.with_help("remove the port"));
    }
    errors
}

fn has_port(url: &str) -> bool {
    let url = url.trim_matches(['"', '\'']);
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or_default();
    authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'))
}

fn apply_option(given: &GivenOption, member: &mut MemberSpec) -> Result<(), Diagnostic> {
    let GivenOption { name, value, span } = given;
    let row = find_option(name).ok_or_else(|| unknown_option(name, span, &[]))?;
    let expected = if row.expected.is_empty() { "no value" } else { row.expected };
    let help = format!("`{name}` takes {expected}");
    match value {
        Some(value) if value.ends_with(';') => Err(span.diagnostic("unexpected `;`").with_help("remove it")),
        Some(value) if row.expected.is_empty() => {
            Err(span.diagnostic(format!("`{name}` cannot be `{value}`")).with_help(help))
        }
        None if !row.expected.is_empty() => Err(span.diagnostic(format!("`{name}` needs a value")).with_help(help)),
        value => {
            let value = value.as_deref().unwrap_or_default();
            let error = || span.diagnostic(format!("`{name}` cannot be `{value}`")).with_help(help);
            (row.set)(member, value).ok_or_else(error)
        }
    }
}

/// Returns the error of an unknown option; `keys` are those that a table has in addition to the options.
fn unknown_option(name: &str, span: &Span, keys: &[&str]) -> Diagnostic {
    if UNSUPPORTED_OPTIONS.contains(&name) {
        return span.diagnostic(format!("nginx's `{name}` is not supported yet"));
    }
    if name.ends_with(';') {
        return span.diagnostic("unexpected `;`").with_help("remove it");
    }
    let known: Vec<&str> = keys.iter().copied().chain(REPLICA_OPTIONS.iter().map(|row| row.name)).collect();
    span.diagnostic(format!("unknown option `{name}` of a replica")).with_help(suggestion(name, "options", &known))
}

fn parse_origin(url: &SpannedValue<String>) -> Result<Origin, Diagnostic> {
    let text = url.value.as_str();
    text.parse().map_err(|error: OriginError| {
        let diagnostic = url.span.diagnostic(match &error {
            OriginError::InvalidUrl(_) => error.to_string(),
            _ => format!("bad URL `{text}`: {error}"),
        });
        match error {
            OriginError::UnsupportedScheme
                if !text.contains("://") && format!("http://{text}").parse::<Origin>().is_ok() =>
            {
                diagnostic.with_help(format!("did you mean `http://{text}`?"))
            }
            _ => diagnostic.with_help(REPLICA_EXAMPLE),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_member(text: &str) -> Result<MemberSpec, Vec<String>> {
        let span = Span::from_text("f", text);
        let words = text.split_whitespace().map(|word| SpannedValue::new(word.to_owned(), span.clone())).collect();
        parse_replica_words(&span, words)
            .map(|member| member.value)
            .map_err(|errors| errors.into_iter().map(|error| error.message).collect())
    }

    #[test]
    fn options_of_nginx_are_read() {
        let text = "http://a:1/v1 weight=2 max_fails=3 fail_timeout=1m max_conns=100 backup down name=gpu1";
        let member = parse_member(text).unwrap();
        assert_eq!((member.weight.get(), member.eject_limits.max_fails), (2, 3));
        assert_eq!((member.eject_limits.fail_timeout.as_secs(), member.max_conns), (60, Some(100)));
        assert_eq!((member.backup, member.down, &*member.name), (true, true, "gpu1"));
    }

    #[test]
    fn resolve_is_read_as_in_nginx() {
        let lookup = |text: &str| parse_member(text).map(|member| member.dns_lookup.map(|lookup| lookup.service));
        assert_eq!(lookup("http://gpu:1 resolve"), Ok(Some(None)));
        assert_eq!(lookup("http://gpu service=http resolve"), Ok(Some(Some("http".into()))));
        assert_eq!(lookup("http://10.0.0.1:1 resolve"), Ok(None), "an address is not resolved");
        for text in ["http://gpu service=http", "http://gpu:1 resolve service=http", "http://gpu resolve name=a"] {
            assert_eq!(lookup(text).unwrap_err().len(), 1, "{text}");
        }
    }

    #[test]
    fn defaults_of_the_table_are_those_of_the_code() {
        for row in REPLICA_OPTIONS.iter().filter(|row| !row.default.is_empty()) {
            let text = format!("http://a:1 {}={}", row.name, row.default);
            let mut written = parse_member(&text).unwrap();
            // nginx's options have nginx's meaning: ejections that do not grow.
            written.eject_limits.backoff = true;
            assert_eq!(Ok(written), parse_member("http://a:1"), "{text}");
        }
    }

    #[test]
    fn every_error_of_a_replica_is_reported() {
        let errors =
            parse_member("ftp://a weight=0 wieght=2 backup=yes max_fails slow_start=30x backup backup;").unwrap_err();
        assert_eq!(errors.len(), 8, "{errors:#?}");
    }
}
