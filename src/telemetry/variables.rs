//! The variables of access-log formats: one row each, nginx's first, then ours.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use http::{HeaderMap, HeaderName, Version, header};

use super::facts::{Facts, Kept, Try};
use super::{target, time, zone};
use crate::units::Moment;

/// A variable's value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Datum<'a> {
    Text(Cow<'a, [u8]>),
    Number(u64),
    /// Written in seconds with milliseconds, cut off as nginx cuts them.
    Time(Duration),
}

/// What must be kept while a request runs so that a variable has a value at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    Nothing,
    /// A header of the client's.
    Asked(&'static str),
    Pool,
    Sizes,
    Ends,
}

/// When a variable has its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Known {
    /// From the moment a replica has been chosen.
    Asked,
    /// Once there is the head of an answer.
    Answered,
    /// When all is over.
    Ended,
}

/// One variable.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) keep: Keep,
    pub(super) known: Known,
    /// `None` where there is no value.
    pub(super) read: for<'a> fn(&Facts<'a>) -> Value<'a>,
}

/// A value, if there is one.
pub(super) type Value<'a> = Option<Datum<'a>>;

const fn row(name: &'static str, keep: Keep, read: for<'a> fn(&Facts<'a>) -> Value<'a>) -> Row {
    Row { name, keep, known: Known::Asked, read }
}

impl Row {
    const fn with_head(mut self) -> Self {
        self.known = Known::Answered;
        self
    }

    const fn at_end(mut self) -> Self {
        self.known = Known::Ended;
        self
    }
}

pub(super) static ROWS: &[Row] = &[
    row("remote_addr", Keep::Nothing, |f| text(f.client)),
    row("remote_port", Keep::Ends, |f| number(f.request.wire.ends?.0.port())),
    row("remote_user", Keep::Asked("authorization"), |f| {
        bytes(target::basic_user(f.kept?.asked.get(header::AUTHORIZATION)?.as_bytes())?)
    }),
    row("time_local", Keep::Nothing, |f| {
        bytes(time::common(f.spent.time_of_day, zone::ahead_seconds(f.spent.time_of_day)))
    }),
    row("time_iso8601", Keep::Nothing, |f| {
        bytes(time::iso8601(f.spent.time_of_day, zone::ahead_seconds(f.spent.time_of_day)))
    }),
    row("time_utc", Keep::Nothing, |f| bytes(time::rfc3339(f.spent.time_of_day))),
    row("msec", Keep::Nothing, |f| Some(Datum::Time(f.spent.time_of_day))),
    row("request", Keep::Nothing, |f| {
        bytes(format!("{} {} {}", f.request.method, f.request.uri, protocol(f.request.version)))
    }),
    row("request_uri", Keep::Nothing, |f| text(f.request.uri.path_and_query().map_or("", |target| target.as_str()))),
    row("request_method", Keep::Nothing, |f| text(f.request.method.as_str())),
    row("request_time", Keep::Nothing, |f| Some(Datum::Time(f.spent.ended.since(f.spent.arrived)))),
    row("request_id", Keep::Nothing, |f| text(f.id)),
    row("request_length", Keep::Sizes, |f| number(f.kept?.request_bytes)),
    row("request_completion", Keep::Nothing, |f| text(if f.outcome == "completed" { "OK" } else { "" })).at_end(),
    row("status", Keep::Nothing, |f| number(f.sent.status)).with_head(),
    row("body_bytes_sent", Keep::Nothing, |f| number(f.sent.body_bytes)).at_end(),
    row("bytes_sent", Keep::Sizes, |f| number(f.sent.body_bytes + f.kept?.head_bytes)).at_end(),
    row("upstream_addr", Keep::Nothing, |f| list(f, |out, t| out.push_str(&t.replica.origin().place()))),
    row("upstream_status", Keep::Nothing, |f| {
        list(f, |out, t| match t.status {
            Some(status) => write!(out, "{status}").unwrap_or_default(),
            None => out.push('-'),
        })
    })
    .with_head(),
    row("upstream_connect_time", Keep::Nothing, |f| list(f, |out, t| put(out, t, t.timing.connected))).with_head(),
    row("upstream_header_time", Keep::Nothing, |f| list(f, |out, t| put(out, t, t.timing.head))).with_head(),
    row("upstream_response_time", Keep::Nothing, |f| list(f, |out, t| put(out, t, t.timing.ended))).with_head(),
    row("scheme", Keep::Nothing, |f| text(if f.request.wire.tls.is_some() { "https" } else { "http" })),
    row("https", Keep::Nothing, |f| text(if f.request.wire.tls.is_some() { "on" } else { "" })),
    row("host", Keep::Asked("host"), |f| {
        let named = f.request.uri.authority().map(|authority| authority.as_str().as_bytes());
        let host = named.or_else(|| Some(f.kept?.asked.get(header::HOST)?.as_bytes()))?;
        bytes(target::host(host))
    }),
    row("uri", Keep::Nothing, |f| bytes(target::normal(f.request.uri.path()))),
    row("document_uri", Keep::Nothing, |f| bytes(target::normal(f.request.uri.path()))),
    row("args", Keep::Nothing, |f| text(f.request.uri.query().filter(|args| !args.is_empty())?)),
    row("query_string", Keep::Nothing, |f| text(f.request.uri.query().filter(|args| !args.is_empty())?)),
    row("is_args", Keep::Nothing, |f| text(f.request.uri.query().filter(|a| !a.is_empty()).map_or("", |_| "?"))),
    row("content_type", Keep::Asked("content-type"), |f| joined(&f.kept?.asked, &header::CONTENT_TYPE)),
    row("content_length", Keep::Asked("content-length"), |f| joined(&f.kept?.asked, &header::CONTENT_LENGTH)),
    row("server_name", Keep::Pool, |f| bytes(f.kept?.pool.as_ref()?.host()?.to_owned())),
    row("server_port", Keep::Ends, |f| number(f.request.wire.ends?.1.port())),
    row("server_addr", Keep::Ends, |f| bytes(f.request.wire.ends?.1.ip().to_canonical().to_string())),
    row("server_protocol", Keep::Nothing, |f| text(protocol(f.request.version))),
    row("connection", Keep::Nothing, |f| number(f.request.wire.number)),
    row("connection_requests", Keep::Nothing, |f| number(f.request.nth)),
    row("proxy_add_x_forwarded_for", Keep::Asked("x-forwarded-for"), |f| {
        let chain = f.kept.and_then(|kept| gathered(&kept.asked, &HeaderName::from_static("x-forwarded-for")));
        Some(Datum::Text(match chain {
            Some(chain) => [&chain, &b", "[..], f.client.as_bytes()].concat().into(),
            None => f.client.as_bytes().to_vec().into(),
        }))
    }),
    // Whether a request came before the last one was answered is not known here.
    row("pipe", Keep::Nothing, |_| text(".")),
    row("ssl_protocol", Keep::Nothing, |f| text(f.request.wire.tls?.protocol)),
    row("ssl_cipher", Keep::Nothing, |f| text(f.request.wire.tls?.cipher)),
    row("gzip_ratio", Keep::Nothing, |_| None).at_end(),
    row("upstream_cache_status", Keep::Nothing, |_| None),
    row("path", Keep::Nothing, |f| text(f.request.uri.path())),
    row("replica", Keep::Nothing, |f| bytes(f.tries.last()?.replica.name().as_bytes().to_vec())),
    row("tenant", Keep::Nothing, |f| text(f.tenant?)),
    row("model", Keep::Nothing, |f| text(f.generated.model?)),
    row("prompt_tokens", Keep::Nothing, |f| number(f.generated.usage?.prompt.0)).at_end(),
    row("cached_tokens", Keep::Nothing, |f| number(f.generated.usage?.cached?.0)).at_end(),
    row("completion_tokens", Keep::Nothing, |f| number(f.generated.usage?.completion.0)).at_end(),
    row("ttft", Keep::Nothing, |f| Some(Datum::Time(f.generated.first?.since(f.spent.arrived)))).at_end(),
    row("tpot", Keep::Nothing, |f| {
        let gaps = u32::try_from(f.generated.usage?.completion.0.checked_sub(1)?).ok()?;
        let last = f.tries.last()?.timing.ended?;
        let gap = last.since(f.generated.first?).checked_div(gaps)?;
        bytes(format!("{}.{:06}", gap.as_secs(), gap.subsec_micros()))
    })
    .at_end(),
    row("policy", Keep::Pool, |f| text(f.kept?.pool.as_ref()?.policy())),
    row("attempts", Keep::Nothing, |f| number(f.tries.iter().count() as u64)),
    row("outcome", Keep::Nothing, |f| text(f.outcome)).at_end(),
    row("overhead_us", Keep::Nothing, |f| number(u64::try_from(f.spent.overhead?.as_micros()).unwrap_or(u64::MAX))),
];

/// A header's value as nginx gives it: several are joined, cookies by semicolons.
pub(super) fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Value<'a> {
    gathered(headers, name).map(Datum::Text)
}

/// A cookie of the client's.
pub(super) fn cookie<'a>(kept: &'a Kept, name: &str) -> Value<'a> {
    let lines = kept.asked.get_all(header::COOKIE);
    lines.iter().find_map(|line| target::cookie(line.as_bytes(), name)).map(|value| Datum::Text(value.into()))
}

fn gathered<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    let between = if *name == header::COOKIE { &b"; "[..] } else { b", " };
    Some(values.fold(Cow::Borrowed(first), |all, value| [&*all, between, value.as_bytes()].concat().into()))
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

/// One value per try, as nginx lists them.
fn list<'a>(facts: &Facts<'a>, mut put: impl FnMut(&mut String, &Try)) -> Value<'a> {
    let mut out = String::new();
    for (i, attempt) in facts.tries.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        put(&mut out, attempt);
    }
    if out.is_empty() { None } else { bytes(out) }
}

fn put(out: &mut String, attempt: &Try, until: Option<Moment>) {
    match until.map(|until| until.since(attempt.timing.begun)) {
        // Writing to a String cannot fail.
        Some(time) => write!(out, "{}.{:03}", time.as_secs(), time.subsec_millis()).unwrap_or_default(),
        None => out.push('-'),
    }
}

fn number<'a>(value: impl Into<u64>) -> Value<'a> {
    Some(Datum::Number(value.into()))
}

fn text(value: &str) -> Value<'_> {
    Some(Datum::Text(value.as_bytes().into()))
}

fn bytes<'a>(value: impl Into<Vec<u8>>) -> Value<'a> {
    Some(Datum::Text(Cow::Owned(value.into())))
}
