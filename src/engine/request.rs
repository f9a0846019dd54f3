//! A request to a simulated replica.

use thiserror::Error;

use crate::units::Tokens;

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineRequest {
    /// The caller's id, unique among the requests in the engine.
    pub id: u64,
    /// Hashes of the prompt's full blocks, in order; equal prefixes have equal hashes. May be shorter than the prompt:
    /// blocks without a hash are never cached.
    pub block_hashes: Vec<u64>,
    /// Length of the prompt; counted as at least 1.
    pub prompt: Tokens,
    /// Tokens to generate. 0 is a pooling request: it finishes when its prompt is computed.
    pub output: Tokens,
}

/// Why a request was not accepted. The engine is unchanged.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SubmitError {
    /// Prompt and output need more KV memory than the replica has.
    #[error("the request needs {needed} tokens of KV memory of {kv_capacity}")]
    TooLarge {
        /// Tokens needed.
        needed: Tokens,
        /// Tokens available.
        kv_capacity: Tokens,
    },
    /// The id belongs to a request that is still in the engine.
    #[error("a request with this id is running or waiting")]
    DuplicateId,
}
