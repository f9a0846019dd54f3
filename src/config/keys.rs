//! The table of keys outside pools: one row each. It feeds the reader, the suggestions and the tests that keep
//! `config/router.toml` complete and its values equal to the code's.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::access::{self, ENV, FILE, HASH};
use super::headers;
use super::log::{self, LEVELS};
use super::nearest::nearest;
use super::network::Network;
use super::settings::{BadListen, Cors, Listen, Settings, Sink};
use super::value::{Read, Value};
use crate::telemetry::Known;

/// One key.
pub(super) struct Key<T: 'static> {
    /// Its name, with its table and a dot in front unless it is at the top.
    pub(super) path: &'static str,
    /// What it takes, as the end of "`key` takes ...".
    pub(super) wants: &'static str,
    /// Its default as TOML; empty where leaving it out is the only way to say so.
    #[cfg_attr(not(test), expect(dead_code, reason = "the tests compare it with the code and config/router.toml"))]
    pub(super) default: &'static str,
    /// Reads it.
    pub(super) set: fn(&mut T, &Value<'_>) -> Read<()>,
}

/// The tables that hold keys of `SETTINGS`.
pub(super) const TABLES: [&str; 6] = ["tls", "limits", "timeouts", "log", "record", "cors"];

pub(super) const HEADERS: &str = "a table of headers such as { X-Real-IP = \"$remote_addr\" }";
const COUNT: &str = "a whole number from 1";
const SIZE: &str = "a size from 1 such as \"32MiB\", \"64k\" or a number of bytes";
const TIME: &str = "a time such as \"30s\", \"500ms\", \"1h30m\" or a number of seconds, up to 365 days";
const SOME_TIME: &str = "a time above 0 such as \"30s\", \"500ms\", \"1h30m\" or a number of seconds, up to 365 days";
const SINK: &str = "\"stdout\", \"stderr\", \"off\" or a path with a `/`";

pub(super) static SETTINGS: &[Key<Settings>] = &[
    Key {
        path: "listen",
        wants: "addresses such as \"127.0.0.1:8080\", \"*:80\", 80, \"443 ssl\" or \"unix:/path\"",
        default: "\"127.0.0.1:8080\"",
        set: |s, v| listen(v).map(|all| s.listen = all),
    },
    Key {
        path: "admin",
        wants: "an address such as \"127.0.0.1:9464\", or \"off\"",
        default: "\"127.0.0.1:9464\"",
        set: |s, v| admin(v).map(|admin| s.admin = admin),
    },
    Key {
        path: "admin_token",
        wants: HASH,
        default: "",
        // One of three forms, of which the hash is made once all are known; so with the next two.
        set: |_, v| access::hash(v).map(drop),
    },
    Key { path: "admin_token_env", wants: ENV, default: "", set: |_, v| access::variable(v).map(drop) },
    Key { path: "admin_token_file", wants: FILE, default: "", set: |_, v| access::path(v).map(drop) },
    Key {
        path: "metrics_need_token",
        wants: "true or false",
        default: "true",
        set: |s, v| v.flag().map(|need| s.admin_access.metrics_need_token = need),
    },
    Key {
        path: "workers",
        wants: "a whole number up to 1024, or 0 for one per core",
        default: "0",
        set: |s, v| workers(v).map(|workers| s.workers = workers),
    },
    Key {
        path: "x_upstream",
        wants: "true or false",
        default: "true",
        set: |s, v| v.flag().map(|on| s.x_upstream = on),
    },
    Key {
        path: "explain",
        wants: "a whole number up to 100000, or 0 for none",
        default: "1_000",
        set: |s, v| explain(v).map(|most| s.explain = most),
    },
    Key {
        path: "explain_header",
        wants: "true or false",
        default: "false",
        set: |s, v| v.flag().map(|on| s.explain_header = on),
    },
    Key {
        path: "trusted_proxies",
        wants: "addresses and networks such as \"10.0.0.0/8\" or \"fd00::1\"",
        default: "[]",
        set: |s, v| v.each(network).map(|all| s.trusted_proxies = all),
    },
    Key {
        path: "gzip",
        wants: "\"off\", or the size from which JSON answers are compressed, such as \"1KiB\"",
        default: "\"off\"",
        set: |s, v| gzip(v).map(|gzip| s.gzip = gzip),
    },
    Key {
        path: "request_headers",
        wants: HEADERS,
        default: "{}",
        set: |s, v| headers::table(v, Known::Asked).map(|lines| s.headers.every.request = lines),
    },
    Key {
        path: "response_headers",
        wants: HEADERS,
        default: "{}",
        set: |s, v| headers::table(v, Known::Answered).map(|lines| s.headers.every.response = lines),
    },
    Key {
        path: "resolver",
        wants: "addresses of DNS servers such as \"10.0.0.2\" or \"[fd00::2]:5353\"",
        default: "[]",
        set: |s, v| v.each(server).map(|all| s.dns.servers = all),
    },
    Key {
        path: "resolver_timeout",
        wants: SOME_TIME,
        default: "\"30s\"",
        set: |s, v| v.some_time().map(|t| s.dns.timeout = t),
    },
    Key {
        path: "tls.certificate",
        wants: "a PEM file, or a list of them",
        default: "[]",
        set: |s, v| v.each(file).map(|files| s.tls.chains = files),
    },
    Key {
        path: "tls.key",
        wants: "a PEM file, or a list of them, one for each `certificate`",
        default: "[]",
        set: |s, v| v.each(file).map(|files| s.tls.keys = files),
    },
    Key {
        path: "limits.body_bytes",
        wants: SIZE,
        default: "\"32MiB\"",
        set: |s, v| v.size(1).map(|n| s.limits.body_bytes = n),
    },
    Key {
        path: "limits.in_flight_bytes",
        wants: SIZE,
        default: "\"1GiB\"",
        set: |s, v| v.size(1).map(|n| s.limits.in_flight_bytes = n),
    },
    Key {
        path: "limits.header_bytes",
        wants: "a size from 8 KiB such as \"64KiB\", \"64k\" or a number of bytes",
        default: "\"64KiB\"",
        set: |s, v| v.size(8 << 10).map(|n| s.limits.header_bytes = n),
    },
    Key { path: "limits.headers", wants: COUNT, default: "100", set: |s, v| v.count(1).map(|n| s.limits.headers = n) },
    Key {
        path: "limits.uri_bytes",
        wants: SIZE,
        default: "\"8KiB\"",
        set: |s, v| v.size(1).map(|n| s.limits.uri_bytes = n),
    },
    Key {
        path: "limits.connections",
        wants: COUNT,
        default: "20_000",
        set: |s, v| v.count(1).map(|n| s.limits.connections = n),
    },
    Key {
        path: "limits.in_flight_requests",
        wants: COUNT,
        default: "20_000",
        set: |s, v| v.count(1).map(|n| s.limits.in_flight_requests = n),
    },
    Key {
        path: "limits.streams_per_connection",
        wants: COUNT,
        default: "128",
        set: |s, v| v.count(1).map(|n| s.limits.streams_per_connection = u32::try_from(n).unwrap_or(u32::MAX)),
    },
    Key {
        path: "timeouts.connect",
        wants: SOME_TIME,
        default: "\"3.5s\"",
        set: |s, v| v.some_time().map(|t| s.timeouts.connect = t),
    },
    Key {
        path: "timeouts.first_byte",
        wants: SOME_TIME,
        default: "\"300s\"",
        set: |s, v| v.some_time().map(|t| s.timeouts.first_byte = t),
    },
    Key {
        path: "timeouts.idle",
        wants: SOME_TIME,
        default: "\"120s\"",
        set: |s, v| v.some_time().map(|t| s.timeouts.idle = t),
    },
    Key { path: "timeouts.total", wants: TIME, default: "0", set: |s, v| v.time().map(|t| s.timeouts.total = t) },
    Key {
        path: "timeouts.header",
        wants: SOME_TIME,
        default: "\"10s\"",
        set: |s, v| v.some_time().map(|t| s.timeouts.header = t),
    },
    Key {
        path: "timeouts.body",
        wants: SOME_TIME,
        default: "\"10s\"",
        set: |s, v| v.some_time().map(|t| s.timeouts.body = t),
    },
    Key {
        path: "timeouts.send",
        wants: SOME_TIME,
        default: "\"60s\"",
        set: |s, v| v.some_time().map(|t| s.timeouts.send = t),
    },
    Key { path: "timeouts.hold", wants: TIME, default: "\"10s\"", set: |s, v| v.time().map(|t| s.timeouts.hold = t) },
    Key {
        path: "timeouts.waiting",
        wants: TIME,
        default: "\"15s\"",
        set: |s, v| v.time().map(|t| s.timeouts.waiting = t),
    },
    Key {
        path: "timeouts.keepalive",
        wants: TIME,
        default: "\"75s\"",
        set: |s, v| v.time().map(|t| s.timeouts.keepalive = t),
    },
    Key {
        path: "timeouts.upstream_keepalive",
        wants: TIME,
        default: "\"4s\"",
        set: |s, v| v.time().map(|t| s.timeouts.upstream_keepalive = t),
    },
    Key {
        path: "timeouts.drain",
        wants: TIME,
        default: "\"300s\"",
        set: |s, v| v.time().map(|t| s.timeouts.drain = t),
    },
    Key { path: "log.access", wants: SINK, default: "\"stdout\"", set: |s, v| sink(v).map(|to| s.log.access = to) },
    Key {
        path: "log.format",
        wants: "\"text\", \"json\", \"combined\", a name from `formats`, or a format such as '$remote_addr $status'",
        default: "\"text\"",
        set: |s, v| log::direct(v).map(|format| s.log.format = format.unwrap_or_default()),
    },
    Key {
        path: "log.formats",
        wants: "formats by name, such as { main = '$remote_addr $status' }",
        default: "{}",
        set: |s, v| log::named(v, &mut s.log.formats),
    },
    Key { path: "log.error", wants: SINK, default: "\"stderr\"", set: |s, v| sink(v).map(|to| s.log.error = to) },
    Key {
        path: "log.level",
        wants: "\"error\", \"warn\" or \"info\"",
        default: "\"info\"",
        set: |s, v| v.one_of("levels", &LEVELS).map(|level| s.log.level = level),
    },
    Key {
        path: "record.path",
        wants: "\"off\" or a path",
        default: "\"off\"",
        set: |s, v| recorded(v).map(|path| s.record.path = path),
    },
    Key {
        path: "record.max_bytes",
        wants: SIZE,
        default: "\"100MiB\"",
        set: |s, v| v.size(1).map(|n| s.record.max_bytes = n as u64),
    },
    Key {
        path: "record.keep",
        wants: "a whole number",
        default: "3",
        set: |s, v| v.count(0).map(|n| s.record.keep = n),
    },
    Key {
        path: "cors.origins",
        wants: "origins such as \"https://chat.example.com\", or \"*\"",
        default: "[]",
        set: |s, v| v.each(origin).map(|origins| s.cors = (!origins.is_empty()).then_some(Cors { origins })),
    },
];

fn listen(value: &Value<'_>) -> Read<Vec<Listen>> {
    let mut all = Vec::new();
    for (item, listen) in value.each(|item| Ok((item.at.clone(), address(item)?)))? {
        // The system chooses another port each time where it is 0.
        let same = |other: &Listen| match (other.address(), listen.address()) {
            (Some(other), Some(address)) => other == address && address.port() != 0,
            _ => *other == listen,
        };
        if all.iter().any(same) {
            return Err(item.issue(format!("`{listen}` is listened at twice")).into());
        }
        all.push(listen);
    }
    if all.is_empty() { Err(value.wrong()) } else { Ok(all) }
}

/// One address; a bare number is a port on all interfaces, as in nginx.
fn address(value: &Value<'_>) -> Read<Listen> {
    let text = match value.given.as_integer() {
        Some(_) => value.count(0)?.to_string().into(),
        None => value.text()?,
    };
    text.parse()
        .map_err(|bad: BadListen| value.issue(format!("cannot listen at `{text}`")).help(bad.to_string()).into())
}

fn admin(value: &Value<'_>) -> Read<Option<SocketAddr>> {
    if value.given.as_str() == Some("off") {
        return Ok(None);
    }
    match address(value) {
        Ok(Listen::Tcp(address)) => Ok(Some(address)),
        _ => Err(value.wrong()),
    }
}

fn gzip(value: &Value<'_>) -> Read<Option<usize>> {
    if value.given.as_str() == Some("off") { Ok(None) } else { value.size(1).map(Some) }
}

/// A file's path.
pub(super) fn file(value: &Value<'_>) -> Read<PathBuf> {
    let text = value.text()?;
    if is_file(&text) { Ok(text.as_ref().into()) } else { Err(value.wrong()) }
}

/// Tells whether a text can be the path of a file.
pub(crate) fn is_file(text: &str) -> bool {
    !text.is_empty() && !text.ends_with('/') && !text.contains(char::is_control)
}

fn workers(value: &Value<'_>) -> Read<Option<NonZeroUsize>> {
    match value.count(0)? {
        0..=1024 => value.count(0).map(NonZeroUsize::new),
        _ => Err(value.wrong()),
    }
}

fn recorded(value: &Value<'_>) -> Read<Option<PathBuf>> {
    if value.given.as_str() == Some("off") { Ok(None) } else { file(value).map(Some) }
}

fn explain(value: &Value<'_>) -> Read<usize> {
    value.count(0).and_then(|most| if most <= 100_000 { Ok(most) } else { Err(value.wrong()) })
}

/// A path must have a slash, so that `stdot` is no file.
fn sink(value: &Value<'_>) -> Read<Sink> {
    let text = value.text()?;
    match &*text {
        "off" => Ok(Sink::Off),
        "stdout" => Ok(Sink::Stdout),
        "stderr" => Ok(Sink::Stderr),
        path if path.contains('/') && !path.ends_with('/') => Ok(Sink::File(path.into())),
        word => {
            let Some(near) = nearest(word, ["stdout", "stderr", "off"]) else { return Err(value.wrong()) };
            let issue = value.issue(format!("`{}` cannot be `{word}`", value.key));
            Err(issue.help(format!("did you mean `{near}`? `{}` takes {}", value.key, value.wants)).into())
        }
    }
}

/// A DNS server; port 53 if it has none.
fn server(value: &Value<'_>) -> Read<SocketAddr> {
    let text = value.text()?;
    let bare = text.trim_start_matches('[').trim_end_matches(']').parse().map(|ip: IpAddr| SocketAddr::new(ip, 53));
    text.parse().or(bare).map_err(|_| value.wrong())
}

fn network(value: &Value<'_>) -> Read<Network> {
    value.text()?.parse().map_err(|()| value.wrong())
}

fn origin(value: &Value<'_>) -> Read<String> {
    let text = value.text()?;
    if is_origin(&text) { Ok(text.to_ascii_lowercase()) } else { Err(value.wrong()) }
}

/// What browsers send as `Origin`: scheme, host and port, nothing behind; or `*` for all.
pub(crate) fn is_origin(text: &str) -> bool {
    let host = text.split_once("://").map_or("", |(_, host)| host);
    let plain = !host.is_empty() && !host.contains('/') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'*');
    plain || text == "*"
}
