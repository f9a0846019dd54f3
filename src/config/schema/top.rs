//! The table of keys outside pools: one row each. It feeds the reader, the suggestions and the tests that keep
//! `config/router.toml` complete and its values equal to the code's.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::client_key;
use super::client_key::{EXPECTED_ENV, EXPECTED_FILE, EXPECTED_HASH};
use super::headers;
use super::log::{self, LEVELS};
use crate::config::parse::suggest::closest_match;
use crate::config::parse::value::{ReadResult, TomlValue};
use crate::config::settings::network::IpNetwork;
use crate::config::settings::{CorsSettings, ListenAddr, ListenError, LogSink, Settings};
use crate::log_format::ValueAvailability;

/// One key.
pub(in crate::config) struct KeySpec<T: 'static> {
    /// Its name, with its table and a dot in front unless it is at the top.
    pub(in crate::config) path: &'static str,
    /// What it takes, as the end of "`key` takes ...".
    pub(in crate::config) expected: &'static str,
    /// Its default as TOML; empty where leaving it out is the only way to say so.
    #[cfg_attr(not(test), expect(dead_code, reason = "the tests compare it with the code and config/router.toml"))]
    pub(in crate::config) default: &'static str,
    /// Reads it.
    pub(in crate::config) set: fn(&mut T, &TomlValue<'_>) -> ReadResult<()>,
}

/// The tables that hold keys of `SETTINGS_SCHEMA`.
pub(in crate::config) const TABLE_NAMES: [&str; 6] = ["tls", "limits", "timeouts", "log", "record", "cors"];

pub(in crate::config) const EXPECTED_HEADERS: &str = "a table of headers such as { X-Real-IP = \"$remote_addr\" }";
const EXPECTED_COUNT: &str = "a whole number from 1";
const EXPECTED_SIZE: &str = "a size from 1 such as \"32MiB\", \"64k\" or a number of bytes";
const EXPECTED_DURATION: &str = "a time such as \"30s\", \"500ms\", \"1h30m\" or a number of seconds, up to 365 days";
const EXPECTED_POSITIVE_DURATION: &str =
    "a time above 0 such as \"30s\", \"500ms\", \"1h30m\" or a number of seconds, up to 365 days";
const EXPECTED_SINK: &str = "\"stdout\", \"stderr\", \"off\" or a path with a `/`";

pub(in crate::config) static SETTINGS_SCHEMA: &[KeySpec<Settings>] = &[
    KeySpec {
        path: "listen",
        expected: "addresses such as \"127.0.0.1:8080\", \"*:80\", 80, \"443 ssl\" or \"unix:/path\"",
        default: "\"127.0.0.1:8080\"",
        set: |s, v| parse_listen_addrs(v).map(|all| s.listen = all),
    },
    KeySpec {
        path: "admin",
        expected: "an address such as \"127.0.0.1:9464\", or \"off\"",
        default: "\"127.0.0.1:9464\"",
        set: |s, v| parse_admin_addr(v).map(|admin| s.admin = admin),
    },
    KeySpec {
        path: "admin_token",
        expected: EXPECTED_HASH,
        default: "",
        // One of three forms, of which the hash is made once all are known; so with the next two.
        set: |_, v| client_key::parse_hash(v).map(drop),
    },
    KeySpec {
        path: "admin_token_env",
        expected: EXPECTED_ENV,
        default: "",
        set: |_, v| client_key::parse_env_name(v).map(drop),
    },
    KeySpec {
        path: "admin_token_file",
        expected: EXPECTED_FILE,
        default: "",
        set: |_, v| client_key::parse_secret_path(v).map(drop),
    },
    KeySpec {
        path: "metrics_need_token",
        expected: "true or false",
        default: "true",
        set: |s, v| v.boolean().map(|need| s.admin_access.metrics_need_token = need),
    },
    KeySpec {
        path: "workers",
        expected: "a whole number up to 1024, or 0 for one per core",
        default: "0",
        set: |s, v| parse_workers(v).map(|workers| s.workers = workers),
    },
    KeySpec {
        path: "x_upstream",
        expected: "true or false",
        default: "true",
        set: |s, v| v.boolean().map(|on| s.x_upstream = on),
    },
    KeySpec {
        path: "half_close",
        expected: "true or false",
        default: "false",
        set: |s, v| v.boolean().map(|on| s.half_close = on),
    },
    KeySpec {
        path: "explain",
        expected: "a whole number up to 100000, or 0 for none",
        default: "1_000",
        set: |s, v| parse_explain_capacity(v).map(|most| s.explain = most),
    },
    KeySpec {
        path: "explain_header",
        expected: "true or false",
        default: "false",
        set: |s, v| v.boolean().map(|on| s.explain_header = on),
    },
    KeySpec {
        path: "trusted_proxies",
        expected: "addresses and networks such as \"10.0.0.0/8\" or \"fd00::1\"",
        default: "[]",
        set: |s, v| v.map_list(parse_network).map(|all| s.trusted_proxies = all),
    },
    KeySpec {
        path: "gzip",
        expected: "\"off\", or the size from which JSON answers are compressed, such as \"1KiB\"",
        default: "\"off\"",
        set: |s, v| parse_gzip_min_size(v).map(|gzip| s.gzip = gzip),
    },
    KeySpec {
        path: "request_headers",
        expected: EXPECTED_HEADERS,
        default: "{}",
        set: |s, v| {
            headers::parse_header_rules(v, ValueAvailability::AtRequest).map(|lines| s.headers.defaults.request = lines)
        },
    },
    KeySpec {
        path: "response_headers",
        expected: EXPECTED_HEADERS,
        default: "{}",
        set: |s, v| {
            headers::parse_header_rules(v, ValueAvailability::AtResponse)
                .map(|lines| s.headers.defaults.response = lines)
        },
    },
    KeySpec {
        path: "resolver",
        expected: "addresses of DNS servers such as \"10.0.0.2\" or \"[fd00::2]:5353\"",
        default: "[]",
        set: |s, v| v.map_list(parse_dns_server).map(|all| s.dns.servers = all),
    },
    KeySpec {
        path: "resolver_timeout",
        expected: EXPECTED_POSITIVE_DURATION,
        default: "\"30s\"",
        set: |s, v| v.positive_duration().map(|t| s.dns.timeout = t),
    },
    KeySpec {
        path: "tls.certificate",
        expected: "a PEM file, or a list of them",
        default: "[]",
        set: |s, v| v.map_list(parse_file_path).map(|files| s.tls.chains = files),
    },
    KeySpec {
        path: "tls.key",
        expected: "a PEM file, or a list of them, one for each `certificate`",
        default: "[]",
        set: |s, v| v.map_list(parse_file_path).map(|files| s.tls.keys = files),
    },
    KeySpec {
        path: "limits.body_bytes",
        expected: EXPECTED_SIZE,
        default: "\"32MiB\"",
        set: |s, v| v.byte_size(1).map(|n| s.limits.body_bytes = n),
    },
    KeySpec {
        path: "limits.in_flight_bytes",
        expected: EXPECTED_SIZE,
        default: "\"1GiB\"",
        set: |s, v| v.byte_size(1).map(|n| s.limits.in_flight_bytes = n),
    },
    KeySpec {
        path: "limits.header_bytes",
        expected: "a size from 8 KiB such as \"64KiB\", \"64k\" or a number of bytes",
        default: "\"64KiB\"",
        set: |s, v| v.byte_size(8 << 10).map(|n| s.limits.header_bytes = n),
    },
    KeySpec {
        path: "limits.headers",
        expected: EXPECTED_COUNT,
        default: "100",
        set: |s, v| v.integer(1).map(|n| s.limits.headers = n),
    },
    KeySpec {
        path: "limits.uri_bytes",
        expected: EXPECTED_SIZE,
        default: "\"8KiB\"",
        set: |s, v| v.byte_size(1).map(|n| s.limits.uri_bytes = n),
    },
    KeySpec {
        path: "limits.connections",
        expected: EXPECTED_COUNT,
        default: "20_000",
        set: |s, v| v.integer(1).map(|n| s.limits.connections = n),
    },
    KeySpec {
        path: "limits.in_flight_requests",
        expected: EXPECTED_COUNT,
        default: "20_000",
        set: |s, v| v.integer(1).map(|n| s.limits.in_flight_requests = n),
    },
    KeySpec {
        path: "limits.streams_per_connection",
        expected: EXPECTED_COUNT,
        default: "128",
        set: |s, v| v.integer(1).map(|n| s.limits.streams_per_connection = u32::try_from(n).unwrap_or(u32::MAX)),
    },
    KeySpec {
        path: "timeouts.connect",
        expected: EXPECTED_POSITIVE_DURATION,
        default: "\"3.5s\"",
        set: |s, v| v.positive_duration().map(|t| s.timeouts.connect = t),
    },
    KeySpec {
        path: "timeouts.first_byte",
        expected: EXPECTED_POSITIVE_DURATION,
        default: "\"300s\"",
        set: |s, v| v.positive_duration().map(|t| s.timeouts.first_byte = t),
    },
    KeySpec {
        path: "timeouts.idle",
        expected: EXPECTED_POSITIVE_DURATION,
        default: "\"120s\"",
        set: |s, v| v.positive_duration().map(|t| s.timeouts.idle = t),
    },
    KeySpec {
        path: "timeouts.total",
        expected: EXPECTED_DURATION,
        default: "0",
        set: |s, v| v.duration().map(|t| s.timeouts.total = t),
    },
    KeySpec {
        path: "timeouts.client_header",
        expected: EXPECTED_POSITIVE_DURATION,
        default: "\"10s\"",
        set: |s, v| v.positive_duration().map(|t| s.timeouts.client_header = t),
    },
    KeySpec {
        path: "timeouts.client_body",
        expected: EXPECTED_POSITIVE_DURATION,
        default: "\"10s\"",
        set: |s, v| v.positive_duration().map(|t| s.timeouts.client_body = t),
    },
    KeySpec {
        path: "timeouts.client_send",
        expected: EXPECTED_POSITIVE_DURATION,
        default: "\"60s\"",
        set: |s, v| v.positive_duration().map(|t| s.timeouts.client_send = t),
    },
    KeySpec {
        path: "timeouts.first_event_hold",
        expected: EXPECTED_DURATION,
        default: "\"10s\"",
        set: |s, v| v.duration().map(|t| s.timeouts.first_event_hold = t),
    },
    KeySpec {
        path: "timeouts.waiting_comment",
        expected: EXPECTED_DURATION,
        default: "\"15s\"",
        set: |s, v| v.duration().map(|t| s.timeouts.waiting_comment = t),
    },
    KeySpec {
        path: "timeouts.keepalive",
        expected: EXPECTED_DURATION,
        default: "\"75s\"",
        set: |s, v| v.duration().map(|t| s.timeouts.keepalive = t),
    },
    KeySpec {
        path: "timeouts.upstream_keepalive",
        expected: EXPECTED_DURATION,
        default: "\"4s\"",
        set: |s, v| v.duration().map(|t| s.timeouts.upstream_keepalive = t),
    },
    KeySpec {
        path: "timeouts.drain",
        expected: EXPECTED_DURATION,
        default: "\"300s\"",
        set: |s, v| v.duration().map(|t| s.timeouts.drain = t),
    },
    KeySpec {
        path: "log.access",
        expected: EXPECTED_SINK,
        default: "\"stdout\"",
        set: |s, v| parse_log_sink(v).map(|to| s.log.access = to),
    },
    KeySpec {
        path: "log.format",
        expected: "\"text\", \"json\", \"combined\", a name from `formats`, or a format such as '$remote_addr $status'",
        default: "\"text\"",
        set: |s, v| log::parse_inline_format(v).map(|format| s.log.format = format.unwrap_or_default()),
    },
    KeySpec {
        path: "log.formats",
        expected: "formats by name, such as { main = '$remote_addr $status' }",
        default: "{}",
        set: |s, v| log::parse_named_formats(v, &mut s.log.formats),
    },
    KeySpec {
        path: "log.error",
        expected: EXPECTED_SINK,
        default: "\"stderr\"",
        set: |s, v| parse_log_sink(v).map(|to| s.log.error = to),
    },
    KeySpec {
        path: "log.level",
        expected: "\"error\", \"warn\" or \"info\"",
        default: "\"info\"",
        set: |s, v| v.one_of("levels", &LEVELS).map(|level| s.log.level = level),
    },
    KeySpec {
        path: "record.path",
        expected: "\"off\" or a path",
        default: "\"off\"",
        set: |s, v| parse_record_path(v).map(|path| s.record.path = path),
    },
    KeySpec {
        path: "record.max_bytes",
        expected: EXPECTED_SIZE,
        default: "\"100MiB\"",
        set: |s, v| v.byte_size(1).map(|n| s.record.max_bytes = n as u64),
    },
    KeySpec {
        path: "record.max_files",
        expected: "a whole number",
        default: "3",
        set: |s, v| v.integer(0).map(|n| s.record.max_files = n),
    },
    KeySpec {
        path: "cors.origins",
        expected: "origins such as \"https://chat.example.com\", or \"*\"",
        default: "[]",
        set: |s, v| {
            v.map_list(parse_cors_origin)
                .map(|origins| s.cors = (!origins.is_empty()).then_some(CorsSettings { origins }))
        },
    },
];

fn parse_listen_addrs(value: &TomlValue<'_>) -> ReadResult<Vec<ListenAddr>> {
    let mut all = Vec::new();
    for (item, listen) in value.map_list(|item| Ok((item.span.clone(), parse_listen_addr(item)?)))? {
        // The system chooses another port each time where it is 0.
        let same = |other: &ListenAddr| match (other.socket_addr(), listen.socket_addr()) {
            (Some(other), Some(address)) => other == address && address.port() != 0,
            _ => *other == listen,
        };
        if all.iter().any(same) {
            return Err(item.diagnostic(format!("`{listen}` is listened at twice")).into());
        }
        all.push(listen);
    }
    if all.is_empty() { Err(value.invalid()) } else { Ok(all) }
}

/// One address; a bare number is a port on all interfaces, as in nginx.
fn parse_listen_addr(value: &TomlValue<'_>) -> ReadResult<ListenAddr> {
    let text = match value.raw.as_integer() {
        Some(_) => value.integer(0)?.to_string().into(),
        None => value.string()?,
    };
    text.parse().map_err(|bad: ListenError| {
        value.diagnostic(format!("cannot listen at `{text}`")).with_help(bad.to_string()).into()
    })
}

fn parse_admin_addr(value: &TomlValue<'_>) -> ReadResult<Option<SocketAddr>> {
    if value.raw.as_str() == Some("off") {
        return Ok(None);
    }
    match parse_listen_addr(value) {
        Ok(ListenAddr::Tcp(address)) => Ok(Some(address)),
        _ => Err(value.invalid()),
    }
}

fn parse_gzip_min_size(value: &TomlValue<'_>) -> ReadResult<Option<usize>> {
    if value.raw.as_str() == Some("off") { Ok(None) } else { value.byte_size(1).map(Some) }
}

/// A file's path.
pub(in crate::config) fn parse_file_path(value: &TomlValue<'_>) -> ReadResult<PathBuf> {
    let text = value.string()?;
    if is_file_path(&text) { Ok(text.as_ref().into()) } else { Err(value.invalid()) }
}

/// Tells whether a text can be the path of a file.
pub(crate) fn is_file_path(text: &str) -> bool {
    !text.is_empty() && !text.ends_with('/') && !text.contains(char::is_control)
}

fn parse_workers(value: &TomlValue<'_>) -> ReadResult<Option<NonZeroUsize>> {
    match value.integer(0)? {
        0..=1024 => value.integer(0).map(NonZeroUsize::new),
        _ => Err(value.invalid()),
    }
}

fn parse_record_path(value: &TomlValue<'_>) -> ReadResult<Option<PathBuf>> {
    if value.raw.as_str() == Some("off") { Ok(None) } else { parse_file_path(value).map(Some) }
}

fn parse_explain_capacity(value: &TomlValue<'_>) -> ReadResult<usize> {
    value.integer(0).and_then(|most| if most <= 100_000 { Ok(most) } else { Err(value.invalid()) })
}

/// A path must have a slash, so that `stdot` is no file.
fn parse_log_sink(value: &TomlValue<'_>) -> ReadResult<LogSink> {
    let text = value.string()?;
    match &*text {
        "off" => Ok(LogSink::Off),
        "stdout" => Ok(LogSink::Stdout),
        "stderr" => Ok(LogSink::Stderr),
        path if path.contains('/') && !path.ends_with('/') => Ok(LogSink::File(path.into())),
        word => {
            let Some(near) = closest_match(word, ["stdout", "stderr", "off"]) else { return Err(value.invalid()) };
            let issue = value.diagnostic(format!("`{}` cannot be `{word}`", value.key));
            Err(issue.with_help(format!("did you mean `{near}`? `{}` takes {}", value.key, value.expected)).into())
        }
    }
}

/// A DNS server; port 53 if it has none.
fn parse_dns_server(value: &TomlValue<'_>) -> ReadResult<SocketAddr> {
    let text = value.string()?;
    let bare = text.trim_start_matches('[').trim_end_matches(']').parse().map(|ip: IpAddr| SocketAddr::new(ip, 53));
    text.parse().or(bare).map_err(|_| value.invalid())
}

fn parse_network(value: &TomlValue<'_>) -> ReadResult<IpNetwork> {
    value.string()?.parse().map_err(|()| value.invalid())
}

fn parse_cors_origin(value: &TomlValue<'_>) -> ReadResult<String> {
    let text = value.string()?;
    if is_cors_origin(&text) { Ok(text.to_ascii_lowercase()) } else { Err(value.invalid()) }
}

/// What browsers send as `Origin`: scheme, host and port, nothing behind; or `*` for all.
pub(crate) fn is_cors_origin(text: &str) -> bool {
    let host = text.split_once("://").map_or("", |(_, host)| host);
    let plain = !host.is_empty() && !host.contains('/') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'*');
    plain || text == "*"
}
