//! A request in the engine and its progress.

use super::request::EngineRequest;
use crate::units::Tokens;

/// A request in the engine.
#[derive(Debug)]
pub(super) struct EngineSequence {
    pub(super) request: EngineRequest,
    /// The blocks it holds, in the order of the text.
    pub(super) held_blocks: Vec<u32>,
    /// Tokens whose KV is in `held_blocks`.
    pub(super) computed_tokens: u64,
    /// Tokens that the current step computes.
    pub(super) scheduled_tokens: u64,
    pub(super) generated_tokens: u64,
    /// Prompt tokens found in the cache at the first admission; `None` before it.
    pub(super) cached_tokens: Option<u64>,
    /// Leading blocks of `held_blocks` that are in the cache, or need not be added.
    pub(super) cached_blocks: usize,
}

impl EngineSequence {
    /// Returns a request that has not run. `block_size` is in tokens, at least 1.
    pub(super) fn new(mut request: EngineRequest, block_size: u64) -> Self {
        request.prompt = Tokens(request.prompt.0.max(1));
        let full_blocks = usize::try_from(request.prompt.0 / block_size).unwrap_or(usize::MAX);
        request.block_hashes.truncate(full_blocks);
        Self {
            request,
            held_blocks: Vec::new(),
            computed_tokens: 0,
            scheduled_tokens: 0,
            generated_tokens: 0,
            cached_tokens: None,
            cached_blocks: 0,
        }
    }

    /// Returns the number of known tokens: all of them must be computed before the next one is generated.
    pub(super) fn known_tokens(&self) -> u64 {
        self.request.prompt.0 + self.generated_tokens
    }

    pub(super) fn uncomputed_tokens(&self) -> u64 {
        self.known_tokens() - self.computed_tokens
    }

    pub(super) fn is_done(&self) -> bool {
        let output = self.request.output.0;
        self.generated_tokens >= output && (output > 0 || self.uncomputed_tokens() == 0)
    }

    /// Returns whether only the newest generated token is not computed.
    pub(super) fn is_decoding(&self) -> bool {
        self.generated_tokens > 0 && self.uncomputed_tokens() == 1
    }
}
