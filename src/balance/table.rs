//! The table of policies. The same rows feed the configuration, `--help`, the documentation and the laws in the tests.

use std::fmt;

use thiserror::Error;

use super::{HashKey, Policy, PolicyMember};

/// One policy: how it is called, what it is for, how it is made.
#[derive(Debug)]
pub struct PolicyEntry {
    /// The name in the configuration and in metric labels.
    pub name: &'static str,
    /// The words behind the name, for people; empty if there are none.
    pub args: &'static str,
    /// Words that the policy takes: what tests try, and the first as an example for people.
    pub samples: &'static [&'static str],
    /// What it goes by.
    pub basis: PolicyBasis,
    /// One line for people.
    pub help: &'static str,
    /// Makes the policy. Runs off the path, again whenever membership changes.
    pub build: BuildPolicy,
}

/// What a policy goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyBasis {
    /// Turns, load or speed: a weight is a share of the load.
    Load,
    /// What a request is known by: a weight is a share of the keys, and as long as it changes keys would move.
    Key,
    /// Chance.
    Random,
}

impl PolicyEntry {
    /// A policy of your own that takes no words; they can be given with `..`.
    pub const fn new(name: &'static str, help: &'static str, build: BuildPolicy) -> Self {
        Self { name, args: "", samples: &[""], basis: PolicyBasis::Load, help, build }
    }

    /// Name and words, as they are written in a configuration.
    pub fn usage(&self) -> String {
        if self.args.is_empty() { self.name.to_owned() } else { format!("{} {}", self.name, self.args) }
    }
}

/// Makes a policy for all members of a pool, in configuration order, from the words behind its name.
pub type BuildPolicy = fn(&[PolicyMember], &[&str]) -> Result<Box<dyn Policy>, PolicyError>;

/// Why a policy as written cannot be made.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PolicyError {
    /// No policy has this name.
    #[error("unknown policy `{0}`")]
    UnknownPolicy(String),
    /// The policy exists and takes no such argument.
    #[error("this policy takes no argument `{0}`")]
    InvalidArgument(String),
    /// The policy needs an argument.
    #[error("this policy needs {0}")]
    MissingArgument(&'static str),
    /// A key has a variable that there is not.
    #[error("unknown variable `{0}`")]
    UnknownVariable(String),
}

impl PolicyError {
    /// The part of the policy's text that is wrong; `None` if something is missing.
    pub fn bad_text(&self) -> Option<&str> {
        match self {
            Self::UnknownPolicy(text) | Self::InvalidArgument(text) | Self::UnknownVariable(text) => Some(text),
            Self::MissingArgument(_) => None,
        }
    }

    /// For policies that take no arguments.
    pub(super) fn reject_arguments(args: &[&str]) -> Result<(), Self> {
        args.first().map_or(Ok(()), |arg| Err(Self::InvalidArgument((*arg).to_owned())))
    }
}

/// A row per policy: a new one is a file here and a word in this list, with its arguments and some that it takes.
macro_rules! policies {
    ($($name:ident $basis:ident $args:literal $samples:expr, $help:literal;)+) => {
        static POLICY_TABLE: &[PolicyEntry] = &[$(PolicyEntry {
            name: stringify!($name),
            args: $args,
            samples: &$samples,
            basis: PolicyBasis::$basis,
            help: $help,
            build: super::policies::$name::build,
        }),+];
    };
}

policies! {
    token_cost Load "[routers=N]" ["", "routers=2"],
        "the least cost in tokens per weight: those waiting there, this prompt's that are not cached there, memory; the default";
    round_robin Load "" [""],
        "every replica in its turn, by weight: nginx's smooth weighted round robin, pick for pick";
    least_conn Load "" [""],
        "the fewest requests in flight per weight, ties by round robin";
    least_time Load "first_byte|last_byte" ["first_byte", "last_byte"],
        "the least average time to the first or last byte, times requests in flight, per weight";
    least_tokens Load "" [""],
        "the fewest tokens per weight, those on the replica and those still to prefill; ties by round robin";
    least_prefill Load "" [""],
        "the fewest prompt tokens per weight that wait to be prefilled, then the fewest on the replica";
    prefix_hash Key "[KEY] [bound=1]" ["", "$prefix bound=1.5"],
        "by what the prompt begins with, on a ring, with a bound on the tokens at one replica";
    lmetric Load "" [""],
        "the least of prompt tokens to compute times requests, per weight";
    cache_aware Load "" [""],
        "the longest cached beginning, the fewest requests while those are out of balance: SGLang's rule";
    random Random "[two [least_conn|least_time=...]]" ["", "two", "two least_time=last_byte"],
        "at random, by weight; `two`: the better of two";
    ip_hash Key "" [""],
        "by the client's address, so that a client stays on its replica";
    hash Key "KEY [consistent]" ["$session consistent", "$request_uri"],
        "by a key such as `$session`; `consistent`: on a ketama ring, where few keys move with the replicas";
}

/// Every policy there is, in the order they are documented.
pub fn policy_table() -> &'static [PolicyEntry] {
    POLICY_TABLE
}

/// A policy as configured: a row of the table and its arguments.
#[derive(Clone)]
pub struct PolicySpec {
    entry: &'static PolicyEntry,
    args: Vec<String>,
    key: Option<HashKey>,
    needs_client_addr: bool,
    needs_prefix: bool,
}

impl PolicySpec {
    /// Reads `name arg ...`.
    ///
    /// *Errors*: the name is not in the table, or the policy does not take these arguments.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let mut words = text.split_ascii_whitespace();
        let name = words.next().unwrap_or_default();
        let entry =
            POLICY_TABLE.iter().find(|e| e.name == name).ok_or_else(|| PolicyError::UnknownPolicy(name.to_owned()))?;
        let spec = Self {
            entry,
            args: words.map(str::to_owned).collect(),
            key: None,
            needs_client_addr: false,
            needs_prefix: false,
        };
        let policy = spec.build(&[])?;
        let (asks_client, asks_prefix) = (policy.needs_client_addr(), policy.needs_prefix());
        Ok(Self { key: policy.key().cloned(), needs_client_addr: asks_client, needs_prefix: asks_prefix, ..spec })
    }

    /// The policy's name in the table.
    pub fn name(&self) -> &'static str {
        self.entry.name
    }

    /// Tells whether members that come back can grow into their share: nginx's `slow_start`.
    pub fn supports_slow_start(&self) -> bool {
        self.entry.basis == PolicyBasis::Load
    }

    pub(super) fn is_key_based(&self) -> bool {
        self.entry.basis == PolicyBasis::Key
    }

    /// What the policy wants to know requests by.
    pub const fn key(&self) -> Option<&HashKey> {
        self.key.as_ref()
    }

    /// Whether the policy knows requests by their client's address.
    pub const fn needs_client_addr(&self) -> bool {
        self.needs_client_addr
    }

    /// Whether the policy wants to know where prompts are cached.
    pub const fn needs_prefix(&self) -> bool {
        self.needs_prefix
    }

    /// Makes the policy for these members.
    pub(crate) fn build(&self, members: &[PolicyMember]) -> Result<Box<dyn Policy>, PolicyError> {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        (self.entry.build)(members, &args)
    }
}

impl From<&'static PolicyEntry> for PolicySpec {
    /// A policy of your own, without arguments.
    fn from(entry: &'static PolicyEntry) -> Self {
        let policy = (entry.build)(&[], &[]).ok();
        let asks_client = policy.as_ref().is_some_and(|policy| policy.needs_client_addr());
        let asks_prefix = policy.as_ref().is_some_and(|policy| policy.needs_prefix());
        Self {
            entry,
            args: Vec::new(),
            key: policy.and_then(|policy| policy.key().cloned()),
            needs_client_addr: asks_client,
            needs_prefix: asks_prefix,
        }
    }
}

impl Default for PolicySpec {
    fn default() -> Self {
        Self::from(&POLICY_TABLE[0])
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
    fn every_row_is_found_by_its_name() {
        for entry in policy_table() {
            for sample in entry.samples {
                let spec = PolicySpec::parse(&format!("{} {sample}", entry.name)).unwrap();
                assert_eq!(spec.name(), entry.name);
                assert_eq!(PolicySpec::parse(&spec.to_string()).unwrap(), spec);
            }
        }
    }

    #[test]
    fn unknown_names_and_arguments_are_told_apart() {
        assert_eq!(PolicySpec::parse("least_con").unwrap_err(), PolicyError::UnknownPolicy("least_con".to_owned()));
        assert_eq!(PolicySpec::parse("least_conn now").unwrap_err(), PolicyError::InvalidArgument("now".to_owned()));
    }

    #[test]
    fn a_policy_says_which_key_it_wants() {
        let key = |text: &str| PolicySpec::parse(text).unwrap().key().map(ToString::to_string);
        assert_eq!(key("hash $user consistent").as_deref(), Some("${user}"));
        assert_eq!((key("least_conn"), key("ip_hash")), (None, None));
    }

    #[test]
    fn the_readme_has_a_row_for_every_policy_and_no_other() {
        let readme = include_str!("../../README.md");
        let (_, rest) = readme.split_once("| policy | what it does |\n|---|---|\n").expect("README.md has the table");
        let rows: Vec<&str> = rest.lines().take_while(|line| line.starts_with('|')).collect();
        let wanted =
            policy_table().iter().map(|row| format!("| `{}` | {} |", row.usage().replace('|', "\\|"), row.help));
        assert_eq!(rows, wanted.collect::<Vec<_>>());
    }

    #[test]
    fn the_default_is_token_cost() {
        assert_eq!(PolicySpec::default().name(), "token_cost");
    }
}
