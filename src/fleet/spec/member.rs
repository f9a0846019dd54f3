//! The description of a replica as a member of one pool.

use std::sync::Arc;
use std::time::Duration;

use crate::balance::PolicyMember;
use crate::eject::EjectLimits;
use crate::fleet::Origin;
use crate::units::{Slot, Weight};

/// One replica as a member of one pool: nginx's `server` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSpec {
    /// The name in logs, metrics and `X-Upstream`; by default `host:port`.
    pub name: Arc<str>,
    /// The replica's address. Two members with one origin and one name are one replica with one load.
    pub origin: Origin,
    /// Its share of the load.
    pub weight: Weight,
    /// `max_fails` and `fail_timeout`.
    pub eject_limits: EjectLimits,
    /// Maximum of concurrent requests; `None` for no limit (nginx writes 0).
    pub max_conns: Option<u32>,
    /// Chosen only when no other member can be.
    pub backup: bool,
    /// Never chosen.
    pub down: bool,
    /// Chosen only for requests pinned to it.
    pub drain: bool,
    /// Resolves the host repeatedly, each address being a member: nginx's `resolve`.
    pub dns_lookup: Option<DnsLookup>,
    /// Time over which the weight ramps up after a return; zero for none.
    pub slow_start: Duration,
}

/// How a host's addresses are resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsLookup {
    /// nginx's `service`: SRV records give the addresses' ports; `None` for A and AAAA records.
    pub service: Option<Arc<str>>,
}

impl MemberSpec {
    /// Creates a member with nginx's defaults.
    pub fn new(origin: Origin) -> Self {
        Self {
            name: origin.default_name().into(),
            origin,
            weight: Weight::ONE,
            eject_limits: EjectLimits::default(),
            max_conns: None,
            backup: false,
            down: false,
            drain: false,
            dns_lookup: None,
            slow_start: Duration::ZERO,
        }
    }
}

/// Returns the members as a policy sees them when it is built.
pub(in crate::fleet) fn policy_members(members: &[MemberSpec]) -> Vec<PolicyMember> {
    let policy_member = |(index, spec): (usize, &MemberSpec)| PolicyMember {
        slot: Slot(u32::try_from(index).unwrap_or(u32::MAX)),
        name: spec.name.to_string(),
        weight: spec.weight,
        max_fails: spec.eject_limits.max_fails,
        backup: spec.backup,
    };
    members.iter().enumerate().map(policy_member).collect()
}
