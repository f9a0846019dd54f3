//! Who may ask: addresses and API keys.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use crate::routes::IpNetwork;

/// An `allow` or a `deny`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRule {
    /// Whether clients at these addresses may ask.
    pub is_allowed: bool,
    /// The addresses.
    pub addresses: AddressSet,
}

/// The addresses of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressSet {
    /// All clients.
    All,
    /// Clients at a Unix socket.
    Unix,
    /// The addresses of a network.
    Network(IpNetwork),
}

/// The API keys that may ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeyAccess {
    /// Every key; without keys in the configuration none is needed.
    #[default]
    Any,
    /// No key is needed.
    Open,
    /// The keys of these names.
    Named(BTreeSet<Arc<str>>),
}

/// A text that is no rule of addresses.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a rule is `allow` or `deny`, followed by an address, a network, `unix:` or `all`")]
pub struct AddressRuleError;

impl AddressRule {
    /// Returns whether the rule is for a client at `address`; `None` is a Unix socket.
    fn matches(&self, address: Option<IpAddr>) -> bool {
        match (self.addresses, address) {
            (AddressSet::All, _) | (AddressSet::Unix, None) => true,
            (AddressSet::Network(network), Some(address)) => network.contains(address),
            (AddressSet::Unix, Some(_)) | (AddressSet::Network(_), None) => false,
        }
    }

    /// Returns whether `rules` let in a client at `address`; `None` is a Unix socket.
    pub fn admits(rules: &[Self], address: Option<IpAddr>) -> bool {
        rules.iter().find(|rule| rule.matches(address)).is_none_or(|rule| rule.is_allowed)
    }
}

impl FromStr for AddressRule {
    type Err = AddressRuleError;

    /// Parses `allow 10.0.0.0/8`, `deny all`.
    ///
    /// *Errors*: another word, or an address that is none.
    fn from_str(text: &str) -> Result<Self, AddressRuleError> {
        let (verb, addresses) = text.split_once(char::is_whitespace).ok_or(AddressRuleError)?;
        let is_allowed = match verb {
            "allow" => true,
            "deny" => false,
            _ => return Err(AddressRuleError),
        };
        let addresses = match addresses.trim() {
            "all" => AddressSet::All,
            "unix:" => AddressSet::Unix,
            network => AddressSet::Network(network.parse().map_err(|()| AddressRuleError)?),
        };
        Ok(Self { is_allowed, addresses })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_matching_rule_decides() {
        let rules = ["deny 10.0.0.9", "allow 10.0.0.0/8", "allow unix:", "deny all"].map(|r| r.parse().unwrap());
        let admits = |address: &str| AddressRule::admits(&rules, address.parse().ok());
        assert!(admits("10.1.1.1") && admits("unix") && !admits("10.0.0.9") && !admits("11.0.0.1") && !admits("::1"));
        assert!(AddressRule::admits(&rules[..2], "11.0.0.1".parse().ok()), "without a match a client may ask");
    }

    #[test]
    fn bad_rule_is_refused() {
        for text in ["", "allow", "permit all", "deny gpu1", "allow 10.0.0.0/33", "deny  "] {
            assert!(text.parse::<AddressRule>().is_err(), "{text}");
        }
    }
}
