//! The keys of `[timeouts]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::key_spec::{EXPECTED_DURATION, EXPECTED_POSITIVE_DURATION, KeySpec};
use super::settings_draft::SettingsDraft;
use crate::config::parse::value::{ReadResult, TomlValue};

/// The range that the kernel accepts, in whole seconds: 1 to 32,767.
const TCP_KEEPALIVE_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(9 * 3_600);

pub(super) static TIMEOUTS_SCHEMA: &[KeySpec<SettingsDraft>] = &[
    KeySpec {
        name: "connect",
        expected: EXPECTED_POSITIVE_DURATION,
        default: "\"3.5s\"",
        doc: "Connecting to a replica.",
        set: |d, v| v.positive_duration().map(|time| d.scope().timeouts.connect = time),
    },
    KeySpec {
        name: "first_byte",
        expected: EXPECTED_POSITIVE_DURATION,
        default: "\"300s\"",
        doc: "From a request that asks for a stream to the first event; 1 s is added for each 1,000 tokens of the \
              prompt.",
        set: |d, v| v.positive_duration().map(|time| d.scope().timeouts.first_byte = time),
    },
    KeySpec {
        name: "plain_answer",
        expected: EXPECTED_POSITIVE_DURATION,
        default: "\"600s\"",
        doc: "From a request that asks for no stream to the first byte of its response, generation included; at least \
              `first_byte`, 1 s is added for each 1,000 tokens of the prompt, and it is awaited longer while its \
              replica sends data on other requests.",
        set: |d, v| v.positive_duration().map(|time| d.scope().timeouts.plain_answer = time),
    },
    KeySpec {
        name: "plain_answer_max",
        expected: EXPECTED_DURATION,
        default: "0",
        doc: "The longest time to the first byte of such a response, whatever its replica does; 0 for no limit. Set \
              it if clients wait without a limit of their own.",
        set: |d, v| v.duration().map(|time| d.scope().timeouts.plain_answer_max = time),
    },
    KeySpec {
        name: "idle",
        expected: EXPECTED_POSITIVE_DURATION,
        default: "\"120s\"",
        doc: "Between two events of a stream, comments included, or two pieces of another response.",
        set: |d, v| v.positive_duration().map(|time| d.scope().timeouts.idle = time),
    },
    KeySpec {
        name: "total",
        expected: EXPECTED_DURATION,
        default: "0",
        doc: "From the request to the end of its response, retries included; 0 for no limit.",
        set: |d, v| v.duration().map(|time| d.scope().timeouts.total = time),
    },
    KeySpec {
        name: "client_header",
        expected: EXPECTED_POSITIVE_DURATION,
        default: "\"10s\"",
        doc: "Receiving a request's head.",
        set: |d, v| v.positive_duration().map(|time| d.scope().timeouts.client_header = time),
    },
    KeySpec {
        name: "client_body",
        expected: EXPECTED_POSITIVE_DURATION,
        default: "\"10s\"",
        doc: "Between two pieces of a request's body.",
        set: |d, v| v.positive_duration().map(|time| d.scope().timeouts.client_body = time),
    },
    KeySpec {
        name: "client_send",
        expected: EXPECTED_POSITIVE_DURATION,
        default: "\"60s\"",
        doc: "How long a client may accept none of the bytes it is sent; then its connection is closed.",
        set: |d, v| v.positive_duration().map(|time| d.scope().timeouts.client_send = time),
    },
    KeySpec {
        name: "first_event_hold",
        expected: EXPECTED_DURATION,
        default: "\"10s\"",
        doc: "How long a 200 is held for the first event of its stream, or for the JSON after white space that keeps a \
              plain answer alive, so that another replica can still be tried; 0 for not at all.",
        set: |d, v| v.duration().map(|time| d.scope().timeouts.first_event_hold = time),
    },
    KeySpec {
        name: "waiting_comment",
        expected: EXPECTED_DURATION,
        default: "\"15s\"",
        doc: "The longest silence of a client's stream; then a comment is sent, `: waiting` before the first event and \
              `: keep-alive` between two events; 0 for no comments.",
        set: |d, v| v.duration().map(|time| d.scope().timeouts.waiting_comment = time),
    },
    KeySpec {
        name: "keepalive",
        expected: EXPECTED_DURATION,
        default: "\"75s\"",
        doc: "How long a client's idle HTTP/1 connection is kept; 0 for not at all.",
        set: |d, v| v.duration().map(|time| d.scope().timeouts.keepalive = time),
    },
    KeySpec {
        name: "upstream_keepalive",
        expected: EXPECTED_DURATION,
        default: "\"4s\"",
        doc: "How long an idle connection to a replica is kept, less than the replica keeps it (vLLM: 5 s); \
              0 for not at all.",
        set: |d, v| v.duration().map(|time| d.scope().timeouts.upstream_keepalive = time),
    },
    KeySpec {
        name: "tcp_keepalive",
        expected: "a time from 1s to 9h, or 0 for no probes",
        default: "\"60s\"",
        doc: "How long a connection of a client or to a replica may carry no data before the kernel probes its peer; 0 \
              for no probes. Set it below the time after which a firewall or balancer forgets idle connections.",
        set: |d, v| parse_tcp_keepalive(v).map(|time| d.scope().timeouts.tcp_keepalive = time),
    },
    KeySpec {
        name: "drain",
        expected: EXPECTED_DURATION,
        default: "\"300s\"",
        doc: "How long a stopping process waits for requests in flight.",
        set: |d, v| v.duration().map(|time| d.scope().timeouts.drain = time),
    },
];

fn parse_tcp_keepalive(value: &TomlValue<'_>) -> ReadResult<Duration> {
    let time = value.duration()?;
    if time.is_zero() || TCP_KEEPALIVE_RANGE.contains(&time) { Ok(time) } else { Err(value.invalid()) }
}
