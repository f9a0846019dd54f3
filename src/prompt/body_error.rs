//! Why a request's body cannot be routed.

use thiserror::Error;

/// A body that the router cannot use. The client is to blame, and no other replica would take it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct BodyError {
    /// What is wrong, for the client to read; in OpenAI's words where they have some.
    pub message: String,
    /// The member that is wrong; `None` if the body as a whole is.
    pub param: Option<&'static str>,
}

impl BodyError {
    /// A body that is wrong as a whole.
    pub(super) fn invalid_body(message: impl Into<String>) -> Self {
        Self { message: message.into(), param: None }
    }

    /// A body whose member `param` is wrong.
    pub(super) fn invalid_member(param: &'static str, message: impl Into<String>) -> Self {
        Self { message: message.into(), param: Some(param) }
    }
}
