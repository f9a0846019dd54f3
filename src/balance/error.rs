//! Why a policy as configured cannot be built.

use thiserror::Error;

/// Why a policy as configured cannot be built.
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
    /// The key has an unknown variable.
    #[error("unknown variable `{0}`")]
    UnknownVariable(String),
}

impl PolicyError {
    /// Returns the invalid part of the policy's text; `None` if an argument is missing.
    pub fn bad_text(&self) -> Option<&str> {
        match self {
            Self::UnknownPolicy(text) | Self::InvalidArgument(text) | Self::UnknownVariable(text) => Some(text),
            Self::MissingArgument(_) => None,
        }
    }

    /// Checks the arguments of a policy that takes none.
    ///
    /// *Errors*: there is an argument.
    pub(super) fn reject_arguments(args: &[&str]) -> Result<(), Self> {
        args.first().map_or(Ok(()), |arg| Err(Self::InvalidArgument((*arg).to_owned())))
    }
}
