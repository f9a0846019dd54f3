//! The keys at the top of the file that belong to no pool.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;

use super::key_spec::{EXPECTED_BOOLEAN, EXPECTED_POSITIVE_DURATION, KeySpec};
use super::secret::{self, EXPECTED_ENV, EXPECTED_FILE, EXPECTED_HASH};
use super::settings_draft::SettingsDraft;
use crate::config::parse::value::{ReadResult, TomlValue};
use crate::routes::{ListenAddr, ListenError};

/// Decisions that `explain` may keep.
const MAX_EXPLAIN: usize = 100_000;
const MAX_WORKERS: usize = 1_024;
const DNS_PORT: u16 = 53;

pub(super) static TOP_SCHEMA: &[KeySpec<SettingsDraft>] = &[
    KeySpec {
        name: "listen",
        expected: "addresses such as \"127.0.0.1:8080\", \"*:80\", 80, \"443 ssl\" or \"unix:/path\"",
        default: "\"127.0.0.1:8080\"",
        doc: "The addresses that accept clients; `ssl` after one turns TLS on (see `[tls]`), and a number alone is a \
              port on all IPv4 interfaces.",
        set: |d, v| parse_listen_addrs(v).map(|addrs| d.settings.listen = addrs),
    },
    KeySpec {
        name: "admin",
        expected: "an address such as \"127.0.0.1:9464\", or \"off\"",
        default: "\"127.0.0.1:9464\"",
        doc: "The address of the admin listener, with metrics, status and administration; clients must not reach it.",
        set: |d, v| parse_admin_addr(v).map(|admin| d.settings.admin = admin),
    },
    KeySpec {
        name: "admin_token",
        expected: EXPECTED_HASH,
        default: "",
        doc: "The hash of the token that the admin listener needs as `Authorization: Bearer`; set it, or one of the \
              next two, if other hosts can connect.",
        set: |d, v| secret::parse_hash(v).map(|hash| d.admin_token.hash = Some(hash)),
    },
    KeySpec {
        name: "admin_token_env",
        expected: EXPECTED_ENV,
        default: "",
        doc: "The environment variable that holds the admin listener's token.",
        set: |d, v| secret::parse_env_name(v).map(|env| d.admin_token.env = Some(env)),
    },
    KeySpec {
        name: "admin_token_file",
        expected: EXPECTED_FILE,
        default: "",
        doc: "The file that holds the admin listener's token.",
        set: |d, v| secret::parse_secret_path(v).map(|file| d.admin_token.file = Some(file)),
    },
    KeySpec {
        name: "metrics_need_token",
        expected: EXPECTED_BOOLEAN,
        default: "true",
        doc: "Whether `/metrics` needs the token too; `/livez`, `/readyz` and `/health` never do.",
        set: |d, v| v.boolean().map(|needed| d.settings.admin_access.metrics_need_token = needed),
    },
    KeySpec {
        name: "admin_hosts",
        expected: "host names such as \"router.example.com\"",
        default: "[]",
        doc: "Names under which browsers and tools reach the admin listener; addresses and `localhost` always work.",
        set: |d, v| v.map_list(parse_host).map(|hosts| d.settings.admin_access.hosts = hosts),
    },
    KeySpec {
        name: "workers",
        expected: "a whole number up to 1024, or 0 for one per core",
        default: "0",
        doc: "The number of worker threads.",
        set: |d, v| parse_workers(v).map(|workers| d.settings.workers = workers),
    },
    KeySpec {
        name: "x_upstream",
        expected: EXPECTED_BOOLEAN,
        default: "true",
        doc: "Whether responses name their replica in `X-Upstream`.",
        set: |d, v| v.boolean().map(|on| d.settings.x_upstream = on),
    },
    KeySpec {
        name: "half_close",
        expected: EXPECTED_BOOLEAN,
        default: "false",
        doc: "Whether an HTTP/1 client that closes its sending side (FIN) is still served; otherwise it counts as \
              disconnected and its replica is released at once.",
        set: |d, v| v.boolean().map(|on| d.settings.half_close = on),
    },
    KeySpec {
        name: "preserve_header_case",
        expected: EXPECTED_BOOLEAN,
        default: "false",
        doc: "Whether the names of headers keep their spelling over HTTP/1.1, on the way to the replica and to the \
              client, and the router's own are written `Like-This`; otherwise all are sent in lower case, which is \
              cheaper. For scripts and servers that compare the spelling.",
        set: |d, v| v.boolean().map(|on| d.settings.preserve_header_case = on),
    },
    KeySpec {
        name: "explain",
        expected: "a whole number up to 100000, or 0 for none",
        default: "1_000",
        doc: "The number of decisions kept for `tokenweir explain`.",
        set: |d, v| parse_explain_capacity(v).map(|count| d.settings.explain = count),
    },
    KeySpec {
        name: "explain_header",
        expected: EXPECTED_BOOLEAN,
        default: "false",
        doc: "Whether responses describe the choice of their replica in `X-Decision`, which names pool and replica.",
        set: |d, v| v.boolean().map(|on| d.settings.explain_header = on),
    },
    KeySpec {
        name: "resolver",
        expected: "addresses of DNS servers such as \"10.0.0.2\" or \"[fd00::2]:5353\"",
        default: "[]",
        doc: "The DNS servers for replicas with `resolve`; empty for the system's.",
        set: |d, v| v.map_list(parse_dns_server).map(|servers| d.settings.dns.servers = servers),
    },
    KeySpec {
        name: "resolver_timeout",
        expected: EXPECTED_POSITIVE_DURATION,
        default: "\"30s\"",
        doc: "The time after which a DNS question counts as failed.",
        set: |d, v| v.positive_duration().map(|time| d.settings.dns.timeout = time),
    },
];

fn parse_listen_addrs(value: &TomlValue<'_>) -> ReadResult<Vec<ListenAddr>> {
    let mut addrs = Vec::new();
    for (span, addr) in value.map_list(|item| Ok((item.span.clone(), parse_listen_addr(item)?)))? {
        // With port 0 the system chooses another port each time.
        let is_same = |other: &ListenAddr| match (other.socket_addr(), addr.socket_addr()) {
            (Some(other), Some(address)) => other == address && address.port() != 0,
            _ => *other == addr,
        };
        if addrs.iter().any(is_same) {
            return Err(span.diagnostic(format!("`{addr}` is given twice")).with_help("keep one").into());
        }
        addrs.push(addr);
    }
    if addrs.is_empty() { Err(value.invalid()) } else { Ok(addrs) }
}

/// Reads one address; a number alone is a port on all interfaces, as in nginx.
fn parse_listen_addr(value: &TomlValue<'_>) -> ReadResult<ListenAddr> {
    let text = match value.raw.as_integer() {
        Some(_) => value.integer(0)?.to_string().into(),
        None => value.string()?,
    };
    text.parse().map_err(|error: ListenError| {
        value.diagnostic(format!("cannot listen on `{text}`")).with_help(error.to_string()).into()
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

fn parse_workers(value: &TomlValue<'_>) -> ReadResult<Option<NonZeroUsize>> {
    let workers = value.integer(0)?;
    if workers <= MAX_WORKERS { Ok(NonZeroUsize::new(workers)) } else { Err(value.invalid()) }
}

fn parse_explain_capacity(value: &TomlValue<'_>) -> ReadResult<usize> {
    let count = value.integer(0)?;
    if count <= MAX_EXPLAIN { Ok(count) } else { Err(value.invalid()) }
}

/// Reads the address of a DNS server, which may have a port.
fn parse_dns_server(value: &TomlValue<'_>) -> ReadResult<SocketAddr> {
    let text = value.string()?;
    let without_port = text.trim_start_matches('[').trim_end_matches(']').parse();
    let with_default_port = without_port.map(|ip: IpAddr| SocketAddr::new(ip, DNS_PORT));
    text.parse().or(with_default_port).map_err(|_| value.invalid())
}

fn parse_host(value: &TomlValue<'_>) -> ReadResult<String> {
    let text = value.string()?;
    let is_host = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if is_host { Ok(text.to_ascii_lowercase()) } else { Err(value.invalid()) }
}
