//! The names that are resolved.

use std::sync::Arc;

use crate::fleet::{MemberSpec, PoolSpec};

/// A host name, or a service at one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DnsQuestion {
    pub(super) host: String,
    pub(super) service: Option<Arc<str>>,
}

impl DnsQuestion {
    /// Returns the question for a member that has a name to resolve; `None` for any other.
    pub(super) fn from_member(member: &MemberSpec) -> Option<Self> {
        let lookup = member.dns_lookup.as_ref()?;
        let is_name = member.origin.address().is_none();
        is_name.then(|| Self { host: member.origin.host().to_owned(), service: lookup.service.clone() })
    }

    /// Returns the questions of all members, each once.
    pub(super) fn from_specs(specs: &[PoolSpec]) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for question in specs.iter().flat_map(|spec| &spec.members).filter_map(Self::from_member) {
            if !all.contains(&question) {
                all.push(question);
            }
        }
        all
    }
}
