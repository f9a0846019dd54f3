//! One row of the policy table.

use super::{Policy, PolicyError, PolicyMember};

/// One policy: its name, arguments, help and constructor.
#[derive(Debug)]
pub struct PolicyEntry {
    /// The name in the configuration and in metric labels.
    pub name: &'static str,
    /// The syntax of its arguments; empty if it takes none.
    pub args: &'static str,
    /// Valid arguments, for tests; the first is also the example in error messages.
    pub samples: &'static [&'static str],
    /// What the choice depends on.
    pub basis: PolicyBasis,
    /// One line of help.
    pub help: &'static str,
    /// The constructor. Runs off the request path, again whenever membership changes.
    pub build: BuildPolicy,
}

/// What a policy's choice depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyBasis {
    /// Rotation, load or latency: a weight is a share of the load.
    Load,
    /// The request's key: a weight is a share of the keys, so a weight that changes moves keys.
    Key,
    /// Chance.
    Random,
}

/// Builds a policy for all members of a pool, in configuration order, from its arguments.
pub type BuildPolicy = fn(&[PolicyMember], &[&str]) -> Result<Box<dyn Policy>, PolicyError>;

impl PolicyEntry {
    /// Returns a custom policy that takes no arguments; set other fields with `..`.
    pub const fn new(name: &'static str, help: &'static str, build: BuildPolicy) -> Self {
        Self { name, args: "", samples: &[""], basis: PolicyBasis::Load, help, build }
    }

    /// Returns name and argument syntax, as written in a configuration.
    pub fn usage(&self) -> String {
        if self.args.is_empty() { self.name.to_owned() } else { format!("{} {}", self.name, self.args) }
    }
}
