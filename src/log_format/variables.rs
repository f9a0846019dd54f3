//! The variables of access-log formats: one row each, nginx's first, then ours.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use http::{HeaderMap, HeaderName, Version, header};

use super::record::{AttemptRecord, CapturedFields, RequestRecord};
use super::{request_target, time, time_zone};
use crate::http::{find_cookie, normalize_path, request_host};
use crate::units::Moment;

/// A variable's value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum VariableValue<'a> {
    Text(Cow<'a, [u8]>),
    Number(u64),
    /// Written in seconds with milliseconds, cut off as nginx cuts them.
    Time(Duration),
}

/// What must be kept while a request runs so that a variable has a value at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequiredField {
    None,
    /// A header of the client's.
    RequestHeader(&'static str),
    Pool,
    Sizes,
    SocketAddrs,
}

/// When a variable has its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ValueAvailability {
    /// From the moment a replica has been chosen.
    AtRequest,
    /// Once there is the head of an answer.
    AtResponse,
    /// When all is over.
    AtEnd,
}

/// One variable.
pub(crate) struct LogVariable {
    pub(crate) name: &'static str,
    pub(crate) requires: RequiredField,
    pub(crate) availability: ValueAvailability,
    /// `None` where there is no value.
    pub(crate) read: for<'a> fn(&RequestRecord<'a>) -> OptionalValue<'a>,
}

/// A value, if there is one.
pub(crate) type OptionalValue<'a> = Option<VariableValue<'a>>;

const fn new_variable(
    name: &'static str,
    keep: RequiredField,
    read: for<'a> fn(&RequestRecord<'a>) -> OptionalValue<'a>,
) -> LogVariable {
    LogVariable { name, requires: keep, availability: ValueAvailability::AtRequest, read }
}

impl LogVariable {
    const fn at_response(mut self) -> Self {
        self.availability = ValueAvailability::AtResponse;
        self
    }

    const fn at_end(mut self) -> Self {
        self.availability = ValueAvailability::AtEnd;
        self
    }
}

pub(crate) static VARIABLES: &[LogVariable] = &[
    new_variable("remote_addr", RequiredField::None, |f| text(f.client_addr)),
    new_variable("remote_port", RequiredField::SocketAddrs, |f| {
        number(f.request_line.connection.socket_addrs?.0.port())
    }),
    new_variable("remote_user", RequiredField::RequestHeader("authorization"), |f| {
        bytes(request_target::basic_auth_user(f.captured?.request_headers.get(header::AUTHORIZATION)?.as_bytes())?)
    }),
    new_variable("time_local", RequiredField::None, |f| {
        bytes(time::format_common_log(f.times.time_of_day, time_zone::utc_offset_seconds(f.times.time_of_day)))
    }),
    new_variable("time_iso8601", RequiredField::None, |f| {
        bytes(time::format_iso8601(f.times.time_of_day, time_zone::utc_offset_seconds(f.times.time_of_day)))
    }),
    new_variable("time_utc", RequiredField::None, |f| bytes(time::format_rfc3339(f.times.time_of_day))),
    new_variable("msec", RequiredField::None, |f| Some(VariableValue::Time(f.times.time_of_day))),
    new_variable("request", RequiredField::None, |f| {
        bytes(format!("{} {} {}", f.request_line.method, f.request_line.uri, protocol_name(f.request_line.version)))
    }),
    new_variable("request_uri", RequiredField::None, |f| {
        text(f.request_line.uri.path_and_query().map_or("", |target| target.as_str()))
    }),
    new_variable("request_method", RequiredField::None, |f| text(f.request_line.method.as_str())),
    new_variable("request_time", RequiredField::None, |f| {
        Some(VariableValue::Time(f.times.ended.since(f.times.arrived)))
    }),
    new_variable("request_id", RequiredField::None, |f| text(f.id)),
    new_variable("request_length", RequiredField::Sizes, |f| number(f.captured?.request_bytes)),
    new_variable("request_completion", RequiredField::None, |f| text(if f.outcome == "completed" { "OK" } else { "" }))
        .at_end(),
    new_variable("status", RequiredField::None, |f| number(f.response.status)).at_response(),
    new_variable("body_bytes_sent", RequiredField::None, |f| number(f.response.body_bytes)).at_end(),
    new_variable("bytes_sent", RequiredField::Sizes, |f| {
        number(f.response.body_bytes + f.captured?.response_head_bytes)
    })
    .at_end(),
    new_variable("upstream_addr", RequiredField::None, |f| {
        join_attempts(f, |out, t| out.push_str(&t.replica.origin().connect_addr()))
    }),
    new_variable("upstream_status", RequiredField::None, |f| {
        join_attempts(f, |out, t| match t.status {
            Some(status) => write!(out, "{status}").unwrap_or_default(),
            None => out.push('-'),
        })
    })
    .at_response(),
    new_variable("upstream_connect_time", RequiredField::None, |f| {
        join_attempts(f, |out, t| write_duration(out, t, t.timing.connected_at))
    })
    .at_response(),
    new_variable("upstream_header_time", RequiredField::None, |f| {
        join_attempts(f, |out, t| write_duration(out, t, t.timing.head_received_at))
    })
    .at_response(),
    new_variable("upstream_response_time", RequiredField::None, |f| {
        join_attempts(f, |out, t| write_duration(out, t, t.timing.ended_at))
    })
    .at_response(),
    new_variable("scheme", RequiredField::None, |f| {
        text(if f.request_line.connection.tls.is_some() { "https" } else { "http" })
    }),
    new_variable("https", RequiredField::None, |f| {
        text(if f.request_line.connection.tls.is_some() { "on" } else { "" })
    }),
    new_variable("host", RequiredField::RequestHeader("host"), |f| {
        let host_header = f.captured.and_then(|captured| captured.request_headers.get(header::HOST));
        bytes(request_host(&f.request_line.uri, host_header)?)
    }),
    new_variable("uri", RequiredField::None, |f| bytes(normalize_path(f.request_line.uri.path()))),
    new_variable("document_uri", RequiredField::None, |f| bytes(normalize_path(f.request_line.uri.path()))),
    new_variable("args", RequiredField::None, |f| text(f.request_line.uri.query().filter(|args| !args.is_empty())?)),
    new_variable("query_string", RequiredField::None, |f| {
        text(f.request_line.uri.query().filter(|args| !args.is_empty())?)
    }),
    new_variable("is_args", RequiredField::None, |f| {
        text(f.request_line.uri.query().filter(|a| !a.is_empty()).map_or("", |_| "?"))
    }),
    new_variable("content_type", RequiredField::RequestHeader("content-type"), |f| {
        header_value(&f.captured?.request_headers, &header::CONTENT_TYPE)
    }),
    new_variable("content_length", RequiredField::RequestHeader("content-length"), |f| {
        header_value(&f.captured?.request_headers, &header::CONTENT_LENGTH)
    }),
    new_variable("server_name", RequiredField::Pool, |f| bytes(f.captured?.pool.as_ref()?.host()?.to_owned())),
    new_variable("server_port", RequiredField::SocketAddrs, |f| {
        number(f.request_line.connection.socket_addrs?.1.port())
    }),
    new_variable("server_addr", RequiredField::SocketAddrs, |f| {
        bytes(f.request_line.connection.socket_addrs?.1.ip().to_canonical().to_string())
    }),
    new_variable("server_protocol", RequiredField::None, |f| text(protocol_name(f.request_line.version))),
    new_variable("connection", RequiredField::None, |f| number(f.request_line.connection.number)),
    new_variable("connection_requests", RequiredField::None, |f| number(f.request_line.request_number)),
    new_variable("proxy_add_x_forwarded_for", RequiredField::RequestHeader("x-forwarded-for"), |f| {
        let chain =
            f.captured.and_then(|kept| join_header(&kept.request_headers, &HeaderName::from_static("x-forwarded-for")));
        Some(VariableValue::Text(match chain {
            Some(chain) => [&chain, &b", "[..], f.client_addr.as_bytes()].concat().into(),
            None => f.client_addr.as_bytes().to_vec().into(),
        }))
    }),
    // Whether a request came before the last one was answered is not known here.
    new_variable("pipe", RequiredField::None, |_| text(".")),
    new_variable("ssl_protocol", RequiredField::None, |f| text(f.request_line.connection.tls?.protocol)),
    new_variable("ssl_cipher", RequiredField::None, |f| text(f.request_line.connection.tls?.cipher)),
    new_variable("gzip_ratio", RequiredField::None, |_| None).at_end(),
    new_variable("upstream_cache_status", RequiredField::None, |_| None),
    new_variable("path", RequiredField::None, |f| text(f.request_line.uri.path())),
    new_variable("replica", RequiredField::None, |f| bytes(f.attempts.last()?.replica.name().as_bytes().to_vec())),
    new_variable("tenant", RequiredField::None, |f| text(f.tenant?)),
    new_variable("model", RequiredField::None, |f| text(f.tokens.model?)),
    new_variable("prompt_tokens", RequiredField::None, |f| number(f.tokens.usage?.prompt.0)).at_end(),
    new_variable("cached_tokens", RequiredField::None, |f| number(f.tokens.usage?.cached?.0)).at_end(),
    new_variable("completion_tokens", RequiredField::None, |f| number(f.tokens.usage?.completion.0)).at_end(),
    new_variable("ttft", RequiredField::None, |f| {
        Some(VariableValue::Time(f.tokens.first_token?.since(f.times.arrived)))
    })
    .at_end(),
    new_variable("tpot", RequiredField::None, |f| {
        let gaps = u32::try_from(f.tokens.usage?.completion.0.checked_sub(1)?).ok()?;
        let last = f.attempts.last()?.timing.ended_at?;
        let gap = last.since(f.tokens.first_token?).checked_div(gaps)?;
        bytes(format!("{}.{:06}", gap.as_secs(), gap.subsec_micros()))
    })
    .at_end(),
    new_variable("policy", RequiredField::Pool, |f| text(f.captured?.pool.as_ref()?.policy_name())),
    new_variable("attempts", RequiredField::None, |f| number(f.attempts.iter().count() as u64)),
    new_variable("outcome", RequiredField::None, |f| text(f.outcome)).at_end(),
    new_variable("overhead_us", RequiredField::None, |f| {
        number(u64::try_from(f.times.overhead?.as_micros()).unwrap_or(u64::MAX))
    }),
];

/// A header's value as nginx gives it: several are joined, cookies by semicolons.
pub(crate) fn header_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> OptionalValue<'a> {
    join_header(headers, name).map(VariableValue::Text)
}

/// A cookie of the client's.
pub(crate) fn cookie_value<'a>(kept: &'a CapturedFields, name: &str) -> OptionalValue<'a> {
    find_cookie(&kept.request_headers, name).map(|value| VariableValue::Text(value.into()))
}

fn join_header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    let between = if *name == header::COOKIE { &b"; "[..] } else { b", " };
    Some(values.fold(Cow::Borrowed(first), |all, value| [&*all, between, value.as_bytes()].concat().into()))
}

fn protocol_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

/// One value per try, as nginx lists them.
fn join_attempts<'a>(facts: &RequestRecord<'a>, mut put: impl FnMut(&mut String, &AttemptRecord)) -> OptionalValue<'a> {
    let mut out = String::new();
    for (i, attempt) in facts.attempts.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        put(&mut out, attempt);
    }
    if out.is_empty() { None } else { bytes(out) }
}

fn write_duration(out: &mut String, attempt: &AttemptRecord, until: Option<Moment>) {
    match until.map(|until| until.since(attempt.timing.started_at)) {
        // Writing to a String cannot fail.
        Some(time) => write!(out, "{}.{:03}", time.as_secs(), time.subsec_millis()).unwrap_or_default(),
        None => out.push('-'),
    }
}

fn number<'a>(value: impl Into<u64>) -> OptionalValue<'a> {
    Some(VariableValue::Number(value.into()))
}

fn text(value: &str) -> OptionalValue<'_> {
    Some(VariableValue::Text(value.as_bytes().into()))
}

fn bytes<'a>(value: impl Into<Vec<u8>>) -> OptionalValue<'a> {
    Some(VariableValue::Text(Cow::Owned(value.into())))
}
