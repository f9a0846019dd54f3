//! The options of a replica: the parameters of nginx's `server` line.

use crate::config::parse::units;
use crate::fleet::MemberSpec;
use crate::units::Weight;

/// One option of a replica, written after its URL or as a key of its table.
pub(in crate::config) struct ReplicaOption {
    pub(in crate::config) name: &'static str,
    /// The accepted values, as the end of "`option` takes ..."; empty for a flag.
    pub(in crate::config) expected: &'static str,
    /// Its default; empty if there is none. A test compares it with the code's.
    pub(in crate::config) default: &'static str,
    /// Its meaning in one sentence.
    pub(in crate::config) doc: &'static str,
    /// Reads its value; `None` if malformed.
    pub(super) set: fn(&mut MemberSpec, &str) -> Option<()>,
}

pub(in crate::config) static REPLICA_OPTIONS: &[ReplicaOption] = &[
    ReplicaOption {
        name: "weight",
        expected: "a whole number from 1 to 65535 (`down` takes a replica out)",
        default: "1",
        doc: "The replica's share of the load.",
        set: |m, v| v.parse().ok().filter(|n| *n <= 65_535).and_then(Weight::new).map(|weight| m.weight = weight),
    },
    ReplicaOption {
        name: "max_fails",
        expected: "a whole number, or 0 to never eject",
        default: "1",
        doc: "Failures within `fail_timeout` that eject the replica.",
        set: |m, v| v.parse().ok().map(|n| (m.eject_limits.max_fails, m.eject_limits.backoff) = (n, false)),
    },
    ReplicaOption {
        name: "fail_timeout",
        expected: "a time such as 30s, 500ms or 1m, up to 365d",
        default: "10s",
        doc: "The time in which failures count, and the length of an ejection.",
        set: |m, v| {
            units::parse_duration(v).map(|t| (m.eject_limits.fail_timeout, m.eject_limits.backoff) = (t, false))
        },
    },
    ReplicaOption {
        name: "max_conns",
        expected: "a whole number, or 0 for no limit",
        default: "0",
        doc: "Requests at once.",
        set: |m, v| v.parse().ok().map(|n: u32| m.max_conns = (n > 0).then_some(n)),
    },
    ReplicaOption {
        name: "backup",
        expected: "",
        default: "",
        doc: "Chosen only if no other replica can be.",
        set: |m, _| {
            m.backup = true;
            Some(())
        },
    },
    ReplicaOption {
        name: "down",
        expected: "",
        default: "",
        doc: "Never chosen.",
        set: |m, _| {
            m.down = true;
            Some(())
        },
    },
    ReplicaOption {
        name: "drain",
        expected: "",
        default: "",
        doc: "Chosen only for requests bound to it by `sticky`.",
        set: |m, _| {
            m.drain = true;
            Some(())
        },
    },
    ReplicaOption {
        name: "slow_start",
        expected: "a time such as 30s, 500ms or 1m, up to 365d; 0 for at once",
        default: "0",
        doc: "The time in which the weight grows from 0 after the replica returns; not with `hash`, `ip_hash`, `random`.",
        set: |m, v| units::parse_duration(v).map(|t| m.slow_start = t),
    },
    ReplicaOption {
        name: "resolve",
        expected: "",
        default: "",
        doc: "Resolves the host again when its TTL ends; each of its addresses is a replica.",
        set: |m, _| {
            m.dns_lookup.get_or_insert_default();
            Some(())
        },
    },
    ReplicaOption {
        name: "service",
        expected: "the name of a service, such as http or _http._tcp",
        default: "",
        doc: "With `resolve` and without a port: resolves SRV records, for `http` those of `_http._tcp`.",
        set: |m, v| {
            let is_service = !v.is_empty() && v.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            is_service.then(|| m.dns_lookup.get_or_insert_default().service = Some(v.into()))
        },
    },
    ReplicaOption {
        name: "name",
        expected: "a name of visible ASCII characters",
        default: "",
        doc: "The name in logs, metrics and `X-Upstream`; without it, the URL's host and port.",
        set: |m, v| (!v.is_empty() && v.bytes().all(|b| b.is_ascii_graphic())).then(|| m.name = v.into()),
    },
];

/// Options of nginx that are not supported.
pub(super) const UNSUPPORTED_OPTIONS: [&str; 1] = ["route"];

/// Returns the row of the option `name`.
pub(super) fn find_option(name: &str) -> Option<&'static ReplicaOption> {
    REPLICA_OPTIONS.iter().find(|row| row.name == name)
}

/// Returns whether a replica may have the option `name`.
pub(crate) fn is_replica_option(name: &str) -> bool {
    find_option(name).is_some()
}
