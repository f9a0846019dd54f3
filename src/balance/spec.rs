//! A policy as configured.

use std::fmt;

use super::{HashKey, Policy, PolicyBasis, PolicyEntry, PolicyError, PolicyMember, policy_table};

/// A policy as configured: a row of the table and its arguments.
#[derive(Clone)]
pub struct PolicySpec {
    entry: &'static PolicyEntry,
    args: Vec<String>,
    /// What the policy asks for once, when the configuration is read.
    needs: PolicyNeeds,
}

/// What a policy needs of each request.
#[derive(Clone, Default)]
struct PolicyNeeds {
    key: Option<HashKey>,
    client_addr: bool,
    prefix: bool,
}

impl PolicyNeeds {
    fn of_policy(policy: &dyn Policy) -> Self {
        Self { key: policy.key().cloned(), client_addr: policy.needs_client_addr(), prefix: policy.needs_prefix() }
    }
}

impl PolicySpec {
    /// Parses `name arg ...`.
    ///
    /// *Errors*: the table has no such name, or the policy does not take these arguments.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let mut words = text.split_ascii_whitespace();
        let name = words.next().unwrap_or_default();
        let entry = policy_table()
            .iter()
            .find(|e| e.name == name)
            .ok_or_else(|| PolicyError::UnknownPolicy(name.to_owned()))?;
        let spec = Self { entry, args: words.map(str::to_owned).collect(), needs: PolicyNeeds::default() };
        let policy = spec.build(&[])?;
        Ok(Self { needs: PolicyNeeds::of_policy(policy.as_ref()), ..spec })
    }

    /// Returns the policy's name in the table.
    pub fn name(&self) -> &'static str {
        self.entry.name
    }

    /// Returns whether members that recover can grow into their share: nginx's `slow_start`.
    pub fn supports_slow_start(&self) -> bool {
        self.entry.basis == PolicyBasis::Load
    }

    pub(super) fn is_key_based(&self) -> bool {
        self.entry.basis == PolicyBasis::Key
    }

    /// Returns the template of the hash key, if the policy needs one.
    pub const fn key(&self) -> Option<&HashKey> {
        self.needs.key.as_ref()
    }

    /// Returns whether the policy needs the client's address.
    pub const fn needs_client_addr(&self) -> bool {
        self.needs.client_addr
    }

    /// Returns whether the policy needs each replica's cached share of the prompt.
    pub const fn needs_prefix(&self) -> bool {
        self.needs.prefix
    }

    /// Builds the policy for these members.
    ///
    /// *Errors*: the policy does not take the arguments.
    pub(crate) fn build(&self, members: &[PolicyMember]) -> Result<Box<dyn Policy>, PolicyError> {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        (self.entry.build)(members, &args)
    }
}

impl From<&'static PolicyEntry> for PolicySpec {
    /// A custom policy, without arguments.
    fn from(entry: &'static PolicyEntry) -> Self {
        let policy = (entry.build)(&[], &[]).ok();
        let needs = policy.map(|policy| PolicyNeeds::of_policy(policy.as_ref())).unwrap_or_default();
        Self { entry, args: Vec::new(), needs }
    }
}

impl Default for PolicySpec {
    fn default() -> Self {
        Self::from(&policy_table()[0])
    }
}

impl fmt::Display for PolicySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.entry.name)?;
        self.args.iter().try_for_each(|arg| write!(f, " {arg}"))
    }
}

impl fmt::Debug for PolicySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Eq for PolicySpec {}

impl PartialEq for PolicySpec {
    fn eq(&self, other: &Self) -> bool {
        self.entry.name == other.entry.name && self.args == other.args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_is_found_by_its_name() {
        for entry in policy_table() {
            for sample in entry.samples {
                let spec = PolicySpec::parse(&format!("{} {sample}", entry.name)).unwrap();
                assert_eq!(spec.name(), entry.name);
                assert_eq!(PolicySpec::parse(&spec.to_string()).unwrap(), spec);
            }
        }
    }

    #[test]
    fn unknown_name_and_unknown_argument_are_different_errors() {
        assert_eq!(PolicySpec::parse("least_con").unwrap_err(), PolicyError::UnknownPolicy("least_con".to_owned()));
        assert_eq!(PolicySpec::parse("least_conn now").unwrap_err(), PolicyError::InvalidArgument("now".to_owned()));
    }

    #[test]
    fn policy_has_the_key_of_its_argument() {
        let key = |text: &str| PolicySpec::parse(text).unwrap().key().map(ToString::to_string);
        assert_eq!(key("hash $user consistent").as_deref(), Some("${user}"));
        assert_eq!((key("least_conn"), key("ip_hash")), (None, None));
    }

    #[test]
    fn documented_policies_are_the_rows_of_the_table() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let page = std::fs::read_to_string(root.join("docs/policies.md")).expect("the documentation is readable");
        let (_, rest) = page.split_once("| policy | what it does |\n|---|---|\n").expect("the page has the table");
        let rows: Vec<&str> = rest.lines().take_while(|line| line.starts_with('|')).collect();
        let expected =
            policy_table().iter().map(|row| format!("| `{}` | {} |", row.usage().replace('|', "\\|"), row.help));
        assert_eq!(rows, expected.collect::<Vec<_>>());
    }

    #[test]
    fn default_is_token_cost() {
        assert_eq!(PolicySpec::default().name(), "token_cost");
    }
}
