//! One eligible replica and its load, as plain data.

use std::ops::Add;
use std::time::Duration;

use crate::units::{Slot, Tokens, Weight};

/// One eligible replica.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its slot in the pool.
    pub slot: Slot,
    /// Its share of the load now; comparable with the weights of the other candidates only.
    pub weight: Weight,
    /// Requests assigned to it and not settled, from all pools that contain it.
    pub in_flight: u32,
    /// The tokens on it: of those requests, and of requests from elsewhere that its engine reports.
    pub load: TokenLoad,
    /// Estimated tokens of the request's prompt in its prefix cache; fewer than the prompt has.
    pub cached: Tokens,
    /// Its slowdown relative to the pool's other replicas.
    pub slowdown: SlowdownFactors,
    /// The average time from the choice to the first byte of a response body; zero if unknown.
    pub first_byte: Duration,
    /// The average time from the choice to the end of a response; zero if unknown.
    pub last_byte: Duration,
}

impl Candidate {
    /// Returns whether it has fewer requests in flight per weight than `other`.
    ///
    /// Compares by cross-multiplying, so no division and no rounding.
    pub(super) fn is_less_loaded(&self, other: &Self) -> bool {
        u64::from(self.in_flight) * u64::from(other.weight.get())
            < u64::from(other.in_flight) * u64::from(self.weight.get())
    }

    /// Returns what any policy may compare, by name; the terms of policies that explain none themselves.
    pub(super) fn default_terms(&self) -> Vec<(&'static str, f64)> {
        let tokens = |tokens: Tokens| tokens.0 as f64;
        vec![
            ("in_flight", f64::from(self.in_flight)),
            ("prefill", tokens(self.load.prefill)),
            ("decoding", f64::from(self.load.decoding_streams)),
            ("resident", tokens(self.load.resident)),
            ("cached", tokens(self.cached)),
            ("first_byte_seconds", self.first_byte.as_secs_f64()),
            ("last_byte_seconds", self.last_byte.as_secs_f64()),
        ]
    }
}

/// The time a replica takes for the same work relative to the others of its pool, in units of [`SlowdownFactors::ONE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowdownFactors {
    /// For prefilling a prompt.
    pub prefill: u32,
    /// For generating a token.
    pub decode: u32,
}

impl SlowdownFactors {
    /// As fast as the others.
    pub const ONE: u32 = 1_024;
}

impl Default for SlowdownFactors {
    fn default() -> Self {
        Self { prefill: Self::ONE, decode: Self::ONE }
    }
}

/// The load of a replica in tokens and streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenLoad {
    /// Estimated uncached prompt tokens of requests without a first token yet.
    pub prefill: Tokens,
    /// Requests without a first token yet.
    pub waiting_requests: u32,
    /// Streams past their first token.
    pub decoding_streams: u32,
    /// Prompt tokens and generated tokens of all requests.
    pub resident: Tokens,
}

impl Add for TokenLoad {
    type Output = Self;

    /// Saturates.
    fn add(self, other: Self) -> Self {
        Self {
            prefill: self.prefill + other.prefill,
            waiting_requests: self.waiting_requests.saturating_add(other.waiting_requests),
            decoding_streams: self.decoding_streams.saturating_add(other.decoding_streams),
            resident: self.resident + other.resident,
        }
    }
}
