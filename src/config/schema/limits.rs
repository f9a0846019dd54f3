//! The keys of `[limits]`.

use super::key_spec::{EXPECTED_COUNT, EXPECTED_SIZE, KeySpec};
use super::settings_draft::SettingsDraft;

pub(super) static LIMITS_SCHEMA: &[KeySpec<SettingsDraft>] = &[
    KeySpec {
        name: "body_bytes",
        expected: EXPECTED_SIZE,
        default: "\"32MiB\"",
        doc: "The largest request body; larger ones are answered 413.",
        set: |d, v| v.byte_size(1).map(|bytes| d.scope().body_bytes = bytes),
    },
    KeySpec {
        name: "in_flight_bytes",
        expected: EXPECTED_SIZE,
        default: "\"1GiB\"",
        doc: "The memory for request bodies, all requests together.",
        set: |d, v| v.byte_size(1).map(|bytes| d.settings.limits.in_flight_bytes = bytes),
    },
    KeySpec {
        name: "header_bytes",
        expected: "a size from 8 KiB such as \"64KiB\", \"64k\" or a number of bytes",
        default: "\"64KiB\"",
        doc: "The largest request head.",
        set: |d, v| v.byte_size(8 << 10).map(|bytes| d.settings.limits.header_bytes = bytes),
    },
    KeySpec {
        name: "headers",
        expected: EXPECTED_COUNT,
        default: "100",
        doc: "The number of header lines of a request.",
        set: |d, v| v.integer(1).map(|count| d.settings.limits.headers = count),
    },
    KeySpec {
        name: "uri_bytes",
        expected: EXPECTED_SIZE,
        default: "\"8KiB\"",
        doc: "The longest request target.",
        set: |d, v| v.byte_size(1).map(|bytes| d.settings.limits.uri_bytes = bytes),
    },
    KeySpec {
        name: "connections",
        expected: EXPECTED_COUNT,
        default: "20_000",
        doc: "Client connections at once.",
        set: |d, v| v.integer(1).map(|count| d.settings.limits.connections = count),
    },
    KeySpec {
        name: "in_flight_requests",
        expected: EXPECTED_COUNT,
        default: "20_000",
        doc: "Requests for replicas at once, all pools together; further ones are answered 503.",
        set: |d, v| v.integer(1).map(|count| d.settings.limits.in_flight_requests = count),
    },
    KeySpec {
        name: "streams_per_connection",
        expected: EXPECTED_COUNT,
        default: "128",
        doc: "Requests at once on one HTTP/2 connection.",
        set: |d, v| {
            v.integer(1).map(|count| {
                d.settings.limits.streams_per_connection = u32::try_from(count).unwrap_or(u32::MAX);
            })
        },
    },
];
