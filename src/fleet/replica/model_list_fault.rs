//! Why a replica's list of models is not known.

use thiserror::Error;

/// The fault of a replica's last answer to `/v1/models`. Its text names no address, so that clients may see it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ModelListFault {
    /// No connection, or no complete response in time.
    #[error("/v1/models cannot be reached")]
    Unreachable,
    /// 5xx or 429: the engine is loading, or overloaded.
    #[error("/v1/models returned {0}: it is still loading, or broken")]
    Unavailable(u16),
    /// 401.
    #[error("/v1/models returned 401: set the pool's `api_key` to the engine's key")]
    Unauthorized,
    /// 403.
    #[error(
        "/v1/models returned 403: the pool's `api_key` may not list the models; give it that right, or set `model`"
    )]
    Forbidden,
    /// 3xx.
    #[error("/v1/models returned {0}, a redirect: put the address that it leads to in the replica's URL")]
    Redirect(u16),
    /// Another status: the server has no such path.
    #[error(
        "/v1/models returned {0}: set the pool's `model`, or `paths = \"any\"` if it is no OpenAI-compatible server"
    )]
    NoSuchPath(u16),
    /// A success that is HTML or other text.
    #[error("/v1/models returned no JSON: another server answers at this address, or a login page")]
    NotJson,
    /// JSON that ends early or has a syntax error.
    #[error("/v1/models returned malformed JSON")]
    Malformed,
    /// JSON of another shape.
    #[error("/v1/models returned JSON without a list of models: set the pool's `model`")]
    NoList,
    /// A list without a model.
    #[error("/v1/models lists no model: load one, or set the pool's `model`")]
    Empty,
    /// A body over the limit.
    #[error("/v1/models is larger than {0} MiB")]
    TooLarge(usize),
}

impl ModelListFault {
    /// Returns whether the replica has answered for good: it serves, though without a list.
    ///
    /// A pool whose `model` is set can use it then. Otherwise it may be loading.
    pub const fn is_answer(self) -> bool {
        !matches!(self, Self::Unreachable | Self::Unavailable(_) | Self::TooLarge(_))
    }

    /// Returns whether it says more than that the replica is not there.
    pub const fn is_specific(self) -> bool {
        !matches!(self, Self::Unreachable)
    }

    /// Returns whether the replica may well serve models that it does not list.
    pub const fn may_hide_models(self) -> bool {
        !matches!(self, Self::NoSuchPath(_) | Self::NoList | Self::Empty)
    }

    /// Returns whether a list that the replica gave before is no longer valid. A page of a proxy in between proves
    /// nothing.
    pub const fn revokes_list(self) -> bool {
        matches!(self, Self::Unauthorized | Self::Forbidden | Self::NoSuchPath(_) | Self::Empty)
    }
}
