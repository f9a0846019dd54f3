//! Request bodies that cannot be routed.

use serde_json::value::RawValue;
use thiserror::Error;

use super::json;

/// A body that the router cannot use. The client is at fault, and no other replica would accept it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct BodyError {
    /// The message for the client; in OpenAI's words where they exist.
    pub message: String,
    /// The member that is wrong; `None` if the body as a whole is.
    pub param: Option<&'static str>,
}

impl BodyError {
    /// Returns the error of a body that is wrong as a whole.
    pub(super) fn invalid_body(message: impl Into<String>) -> Self {
        Self { message: message.into(), param: None }
    }

    /// Returns the error of a body whose member `param` is wrong.
    pub(super) fn invalid_member(param: &'static str, message: impl Into<String>) -> Self {
        Self { message: message.into(), param: Some(param) }
    }

    /// Returns the error of a member whose value has the wrong type.
    pub(super) fn wrong_type(param: &'static str, expected: &str, value: &RawValue) -> Self {
        let got = json::describe_type(value.get());
        Self::invalid_member(param, format!("Invalid type for '{param}': expected {expected}, but got {got} instead."))
    }

    /// Returns the error of a body that is not JSON, with the reason and the place.
    pub(super) fn invalid_json(reason: impl std::fmt::Display, byte: usize) -> Self {
        Self::invalid_body(format!("could not parse the JSON body of your request: {reason} (byte {byte})"))
    }
}
