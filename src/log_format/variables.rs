//! The table of variables: nginx's first, then those for tokens and replicas.

use std::fmt::Write as _;
use std::net::IpAddr;

use http::{HeaderName, Version, header};

use super::record::{AttemptRecord, RequestLine, RequestRecord};
use super::value::{OptionalValue, ValueAvailability, VariableValue, bytes, header_value, join_header, number, text};
use super::{request_target, time};
use crate::http::{normalize_path, request_host};
use crate::units::Moment;

/// A row of the table.
pub(super) struct LogVariable {
    pub(super) name: &'static str,
    pub(super) requires: RequiredField,
    pub(super) availability: ValueAvailability,
    /// Returns the value; `None` if there is none.
    pub(super) read: for<'a> fn(&RequestRecord<'a>) -> OptionalValue<'a>,
}

/// The field that must be captured while a request runs so that the variable has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequiredField {
    None,
    /// A header of the client.
    RequestHeader(&'static str),
    Pool,
    Sizes,
    SocketAddrs,
    UpstreamAddr,
}

const fn new_variable(
    name: &'static str,
    requires: RequiredField,
    read: for<'a> fn(&RequestRecord<'a>) -> OptionalValue<'a>,
) -> LogVariable {
    LogVariable { name, requires, availability: ValueAvailability::AtChoice, read }
}

impl LogVariable {
    const fn at_request(mut self) -> Self {
        self.availability = ValueAvailability::AtRequest;
        self
    }

    const fn at_response(mut self) -> Self {
        self.availability = ValueAvailability::AtResponse;
        self
    }

    const fn at_end(mut self) -> Self {
        self.availability = ValueAvailability::AtEnd;
        self
    }
}

pub(super) static VARIABLES: &[LogVariable] = &[
    new_variable("remote_addr", RequiredField::None, |record| text(record.client_addr)),
    new_variable("binary_remote_addr", RequiredField::None, |record| {
        bytes(match record.client_addr.parse() {
            Ok(IpAddr::V4(address)) => address.octets().to_vec(),
            Ok(IpAddr::V6(address)) => address.octets().to_vec(),
            // That of a Unix socket.
            Err(_) => record.client_addr.as_bytes().to_vec(),
        })
    }),
    new_variable("remote_port", RequiredField::SocketAddrs, |record| number(record.client_port?)),
    new_variable("realip_remote_addr", RequiredField::None, |record| {
        bytes(record.peer_addr.map_or_else(|| "unix:".to_owned(), |address| address.to_string()))
    }),
    new_variable("realip_remote_port", RequiredField::SocketAddrs, |record| {
        number(record.request_line.connection.socket_addrs?.0.port())
    }),
    new_variable("remote_user", RequiredField::RequestHeader("authorization"), |record| {
        bytes(request_target::basic_auth_user(record.captured?.request_headers.get(header::AUTHORIZATION)?.as_bytes())?)
    }),
    new_variable("time_local", RequiredField::None, |record| {
        bytes(time::format_common_log(record.times.time_of_day, (record.utc_offset)(record.times.time_of_day)))
    })
    .at_request(),
    new_variable("time_iso8601", RequiredField::None, |record| {
        bytes(time::format_iso8601(record.times.time_of_day, (record.utc_offset)(record.times.time_of_day)))
    })
    .at_request(),
    new_variable("time_utc", RequiredField::None, |record| bytes(time::format_rfc3339(record.times.time_of_day)))
        .at_request(),
    new_variable("msec", RequiredField::None, |record| Some(VariableValue::Time(record.times.time_of_day)))
        .at_request(),
    new_variable("request", RequiredField::None, |record| {
        bytes(format!(
            "{} {} {}",
            record.request_line.method,
            record.request_line.uri,
            protocol_name(record.request_line.version)
        ))
    }),
    new_variable("request_uri", RequiredField::None, |record| {
        text(record.request_line.uri.path_and_query().map_or("", |target| target.as_str()))
    }),
    new_variable("request_method", RequiredField::None, |record| text(record.request_line.method.as_str())),
    new_variable("request_time", RequiredField::None, |record| {
        Some(VariableValue::Time(record.times.ended.since(record.times.arrived)))
    })
    .at_request(),
    new_variable("request_id", RequiredField::None, |record| text(record.id)),
    new_variable("request_length", RequiredField::Sizes, |record| number(record.captured?.request_bytes)).at_request(),
    new_variable("request_completion", RequiredField::None, |record| {
        text(if record.outcome == "completed" { "OK" } else { "" })
    })
    .at_end(),
    new_variable("status", RequiredField::None, |record| number(record.response.status)).at_response(),
    new_variable("body_bytes_sent", RequiredField::None, |record| number(record.response.body_bytes)).at_end(),
    new_variable("bytes_sent", RequiredField::Sizes, |record| {
        number(record.response.body_bytes + record.captured?.response_head_bytes)
    })
    .at_end(),
    new_variable("upstream_addr", RequiredField::UpstreamAddr, |record| match record.attempts.exhausted_pool() {
        Some(pool) => text(pool),
        None => join_attempts(record, |out, attempt| out.push_str(attempt.upstream_addr.as_deref().unwrap_or("-"))),
    })
    .at_request(),
    new_variable("upstream_status", RequiredField::None, |record| match record.attempts.exhausted_pool() {
        Some(_) => text("502"),
        None => join_attempts(record, |out, attempt| match attempt.status {
            Some(status) => write!(out, "{status}").unwrap_or_default(),
            None => out.push('-'),
        }),
    })
    .at_response(),
    new_variable("upstream_connect_time", RequiredField::None, |record| {
        join_attempts(record, |out, attempt| write_duration(out, attempt, attempt.timing.connected_at))
    })
    .at_response(),
    new_variable("upstream_header_time", RequiredField::None, |record| {
        join_attempts(record, |out, attempt| write_duration(out, attempt, attempt.timing.head_received_at))
    })
    .at_response(),
    new_variable("upstream_response_time", RequiredField::None, |record| match record.attempts.exhausted_pool() {
        Some(_) => text("0.000"),
        None => join_attempts(record, |out, attempt| write_duration(out, attempt, attempt.timing.ended_at)),
    })
    .at_response(),
    new_variable("scheme", RequiredField::None, |record| {
        text(if record.request_line.connection.tls.is_some() { "https" } else { "http" })
    }),
    new_variable("https", RequiredField::None, |record| {
        text(if record.request_line.connection.tls.is_some() { "on" } else { "" })
    }),
    new_variable("host", RequiredField::RequestHeader("host"), |record| {
        let host_header = record.captured.and_then(|captured| captured.request_headers.get(header::HOST));
        let RequestLine { uri, version, .. } = record.request_line;
        match request_host(uri, *version, host_header) {
            Ok(Some(host)) => bytes(host),
            _ => text(record.server_name?),
        }
    }),
    new_variable("uri", RequiredField::None, |record| bytes(normalize_path(record.request_line.uri.path()))),
    new_variable("document_uri", RequiredField::None, |record| bytes(normalize_path(record.request_line.uri.path()))),
    new_variable("args", RequiredField::None, |record| {
        text(record.request_line.uri.query().filter(|args| !args.is_empty())?)
    }),
    new_variable("query_string", RequiredField::None, |record| {
        text(record.request_line.uri.query().filter(|args| !args.is_empty())?)
    }),
    new_variable("is_args", RequiredField::None, |record| {
        text(record.request_line.uri.query().filter(|a| !a.is_empty()).map_or("", |_| "?"))
    }),
    new_variable("content_type", RequiredField::RequestHeader("content-type"), |record| {
        header_value(&record.captured?.request_headers, &header::CONTENT_TYPE)
    }),
    new_variable("content_length", RequiredField::RequestHeader("content-length"), |record| {
        header_value(&record.captured?.request_headers, &header::CONTENT_LENGTH)
    }),
    new_variable("server_name", RequiredField::None, |record| text(record.server_name?)),
    new_variable("server_port", RequiredField::SocketAddrs, |record| {
        number(record.request_line.connection.socket_addrs?.1.port())
    }),
    new_variable("server_addr", RequiredField::SocketAddrs, |record| {
        bytes(record.request_line.connection.socket_addrs?.1.ip().to_canonical().to_string())
    }),
    new_variable("server_protocol", RequiredField::None, |record| text(protocol_name(record.request_line.version))),
    new_variable("connection", RequiredField::None, |record| number(record.request_line.connection.number)),
    new_variable("connection_requests", RequiredField::None, |record| number(record.request_line.request_number)),
    new_variable("proxy_add_x_forwarded_for", RequiredField::RequestHeader("x-forwarded-for"), |record| {
        let name = HeaderName::from_static("x-forwarded-for");
        let chain = record.captured.and_then(|captured| join_header(&captured.request_headers, &name));
        Some(VariableValue::Text(match chain {
            Some(chain) => [&chain, &b", "[..], record.client_addr.as_bytes()].concat().into(),
            None => record.client_addr.as_bytes().to_vec().into(),
        }))
    }),
    // Pipelining is not observed.
    new_variable("pipe", RequiredField::None, |_| text(".")),
    new_variable("ssl_protocol", RequiredField::None, |record| text(record.request_line.connection.tls?.protocol)),
    new_variable("ssl_cipher", RequiredField::None, |record| text(record.request_line.connection.tls?.cipher)),
    new_variable("gzip_ratio", RequiredField::None, |_| None).at_end(),
    new_variable("upstream_cache_status", RequiredField::None, |_| None).at_request(),
    new_variable("path", RequiredField::None, |record| text(record.request_line.uri.path())),
    new_variable("replica", RequiredField::None, |record| text(&record.attempts.last()?.replica)).at_request(),
    new_variable("tenant", RequiredField::None, |record| text(record.tenant?)),
    new_variable("model", RequiredField::None, |record| text(record.tokens.model?)).at_request(),
    new_variable("prompt_tokens", RequiredField::None, |record| number(record.tokens.usage?.prompt.0)).at_end(),
    new_variable("cached_tokens", RequiredField::None, |record| number(record.tokens.usage?.cached?.0)).at_end(),
    new_variable("completion_tokens", RequiredField::None, |record| number(record.tokens.usage?.completion.0)).at_end(),
    new_variable("ttft", RequiredField::None, |record| {
        Some(VariableValue::Time(record.tokens.first_token?.since(record.times.arrived)))
    })
    .at_end(),
    new_variable("tpot", RequiredField::None, |record| {
        let intervals = u32::try_from(record.tokens.usage?.completion.0.checked_sub(1)?).ok()?;
        let ended_at = record.attempts.last()?.timing.ended_at?;
        let tpot = ended_at.since(record.tokens.first_token?).checked_div(intervals)?;
        bytes(format!("{}.{:06}", tpot.as_secs(), tpot.subsec_micros()))
    })
    .at_end(),
    new_variable("policy", RequiredField::Pool, |record| text(record.captured?.pool.as_ref()?.policy)).at_request(),
    new_variable("attempts", RequiredField::None, |record| number(record.attempts.iter().count() as u64)).at_request(),
    new_variable("outcome", RequiredField::None, |record| text(record.outcome)).at_end(),
    new_variable("overhead_us", RequiredField::None, |record| {
        number(u64::try_from(record.times.overhead?.as_micros()).unwrap_or(u64::MAX))
    })
    .at_request(),
];

fn protocol_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

/// Returns one value per attempt, listed as by nginx.
fn join_attempts<'a>(
    record: &RequestRecord<'a>,
    mut write: impl FnMut(&mut String, &AttemptRecord),
) -> OptionalValue<'a> {
    let mut out = String::new();
    for (index, attempt) in record.attempts.iter().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        write(&mut out, attempt);
    }
    match record.attempts.exhausted_pool() {
        Some(_) => text("-"),
        None if out.is_empty() => None,
        None => bytes(out),
    }
}

fn write_duration(out: &mut String, attempt: &AttemptRecord, end: Option<Moment>) {
    match end.map(|end| end.since(attempt.timing.started_at)) {
        // Writing to a String cannot fail.
        Some(time) => write!(out, "{}.{:03}", time.as_secs(), time.subsec_millis()).unwrap_or_default(),
        None => out.push('-'),
    }
}
