//! The table of policies. The same rows feed the configuration, `--help`, the documentation and the laws in the tests.

use std::fmt;

use thiserror::Error;

use super::{Member, Policy};

/// One policy: how it is called, what it is for, how it is made.
#[derive(Debug)]
pub struct Entry {
    /// The name in the configuration and in metric labels.
    pub name: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// Makes the policy. Runs off the path, again whenever membership changes.
    pub build: Build,
}

/// Makes a policy for all members of a pool, in configuration order, from the words behind its name.
pub type Build = fn(&[Member], &[&str]) -> Result<Box<dyn Policy>, BadPolicy>;

/// Why a policy as written cannot be made.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadPolicy {
    /// No policy has this name.
    #[error("unknown policy `{0}`")]
    Unknown(String),
    /// The policy exists and takes no such argument.
    #[error("this policy takes no argument `{0}`")]
    Argument(String),
}

impl BadPolicy {
    /// For policies that take no arguments.
    pub(super) fn unless_empty(args: &[&str]) -> Result<(), Self> {
        args.first().map_or(Ok(()), |arg| Err(Self::Argument((*arg).to_owned())))
    }
}

/// A row per policy: a new one is a file here and a word in this list.
macro_rules! policies {
    ($($name:ident: $help:literal,)+) => {
        static TABLE: &[Entry] = &[$(Entry { name: stringify!($name), help: $help, build: super::$name::build }),+];
    };
}

policies! {
    round_robin: "every replica in its turn, by weight (nginx's smooth weighted round robin)",
    least_conn: "the fewest requests in flight per weight, ties by round robin",
    random: "at random, by weight",
}

/// Every policy there is, in the order they are documented.
pub fn table() -> &'static [Entry] {
    TABLE
}

/// A policy as configured: a row of the table and its arguments.
#[derive(Clone)]
pub struct Spec {
    entry: &'static Entry,
    args: Vec<String>,
}

impl Spec {
    /// Reads `name arg ...`.
    ///
    /// *Errors*: the name is not in the table, or the policy does not take these arguments.
    pub fn parse(text: &str) -> Result<Self, BadPolicy> {
        let mut words = text.split_ascii_whitespace();
        let name = words.next().unwrap_or_default();
        let entry = TABLE.iter().find(|e| e.name == name).ok_or_else(|| BadPolicy::Unknown(name.to_owned()))?;
        let spec = Self { entry, args: words.map(str::to_owned).collect() };
        spec.build(&[])?;
        Ok(spec)
    }

    /// The policy's name in the table.
    pub fn name(&self) -> &'static str {
        self.entry.name
    }

    /// Makes the policy for these members.
    pub(crate) fn build(&self, members: &[Member]) -> Result<Box<dyn Policy>, BadPolicy> {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        (self.entry.build)(members, &args)
    }
}

impl From<&'static Entry> for Spec {
    /// A policy of your own, without arguments.
    fn from(entry: &'static Entry) -> Self {
        Self { entry, args: Vec::new() }
    }
}

impl Default for Spec {
    fn default() -> Self {
        Self::from(&TABLE[1])
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.entry.name)?;
        self.args.iter().try_for_each(|arg| write!(f, " {arg}"))
    }
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl PartialEq for Spec {
    fn eq(&self, other: &Self) -> bool {
        self.entry.name == other.entry.name && self.args == other.args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_its_name() {
        for entry in table() {
            assert_eq!(Spec::parse(entry.name).unwrap().name(), entry.name);
        }
    }

    #[test]
    fn unknown_names_and_arguments_are_told_apart() {
        assert_eq!(Spec::parse("least_con").unwrap_err(), BadPolicy::Unknown("least_con".to_owned()));
        assert_eq!(Spec::parse("least_conn now").unwrap_err(), BadPolicy::Argument("now".to_owned()));
    }

    #[test]
    fn the_default_is_least_conn() {
        assert_eq!(Spec::default().name(), "least_conn");
    }
}
