//! Floor 1: which replica a request goes to. Pure choice: candidates and a job in, a slot out.
//!
//! A policy never owns membership, health or retries, and is never offered a replica that may not be chosen.

mod crc32;
mod hash_key;
mod hash_probe;
mod hash_ring;
mod hot_key;
mod key_movement;
#[cfg(test)]
mod laws;
mod policies;
mod seeded_rng;
mod select;
mod smooth_round_robin;
mod table;

use std::net::IpAddr;
use std::ops::Add;
use std::time::Duration;

pub use hash_key::{HashKey, KeyPart};
pub use key_movement::moved_share;
pub use seeded_rng::SeededRng;
pub use table::{BuildPolicy, PolicyBasis, PolicyEntry, PolicyError, PolicySpec, policy_table};

use crate::units::{Slot, Tokens, Weight};

/// What a policy may know of a request. Plain data.
#[derive(Clone, Copy, Debug)]
pub struct PolicyRequest<'a> {
    /// The size of the prompt.
    pub prompt: Tokens,
    /// The size of the answer, as far as one can tell.
    pub output: Tokens,
    /// What the request is known by, as the policy's [`HashKey`] says; empty if the policy has none.
    pub key: &'a [u8],
    /// The client's address.
    pub client_addr: IpAddr,
    /// Members that have failed this request already; none of them is a candidate.
    pub tried_slots: &'a [Slot],
}

/// One replica that may be chosen now.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its place in the pool.
    pub slot: Slot,
    /// Its share of the load now, in units of its own: only what it is of the other candidates' counts.
    pub weight: Weight,
    /// Requests on it that are chosen and not settled, from every pool that has it.
    pub in_flight: u32,
    /// The tokens on it: of those requests, and of requests from elsewhere as far as its engine tells of them.
    pub load: TokenLoad,
    /// Tokens of the job's prompt that are taken to be cached on it; fewer than the prompt has.
    pub cached: Tokens,
    /// How fast it is beside the pool's others.
    pub slowdown: SlowdownFactors,
    /// The average time from the choice to the first byte of an answer's body; zero if nothing is known.
    pub first_byte: Duration,
    /// The average time from the choice to the end of an answer; zero if nothing is known.
    pub last_byte: Duration,
}

/// How long a replica takes beside the others of its pool, for the same work, in parts of [`SlowdownFactors::ONE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowdownFactors {
    /// For computing a prompt.
    pub prefill: u32,
    /// For generating a token.
    pub decode: u32,
}

impl SlowdownFactors {
    /// As long as the others.
    pub const ONE: u32 = 1_024;
}

impl Default for SlowdownFactors {
    fn default() -> Self {
        Self { prefill: Self::ONE, decode: Self::ONE }
    }
}

/// What the requests on a replica weigh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenLoad {
    /// Prompt tokens of requests without a first token yet that are not taken to be cached there.
    pub prefill: Tokens,
    /// Those requests.
    pub waiting_requests: u32,
    /// Streams that have had their first token.
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

/// Compares requests per weight by cross-multiplying, so no division and no rounding.
fn is_less_loaded(a: &Candidate, b: &Candidate) -> bool {
    u64::from(a.in_flight) * u64::from(b.weight.get()) < u64::from(b.in_flight) * u64::from(a.weight.get())
}

/// What any policy may go by.
fn default_terms(of: &Candidate) -> Vec<(&'static str, f64)> {
    let tokens = |tokens: Tokens| tokens.0 as f64;
    vec![
        ("in_flight", f64::from(of.in_flight)),
        ("prefill", tokens(of.load.prefill)),
        ("decoding", f64::from(of.load.decoding_streams)),
        ("resident", tokens(of.load.resident)),
        ("cached", tokens(of.cached)),
        ("first_byte_seconds", of.first_byte.as_secs_f64()),
        ("last_byte_seconds", of.last_byte.as_secs_f64()),
    ]
}

/// One member of a pool as a policy is told of it when it is built: chosen or not, up or down.
#[derive(Clone, Debug)]
pub struct PolicyMember {
    /// Its place in the pool.
    pub slot: Slot,
    /// Its name as configured, by default `host:port`.
    pub name: String,
    /// Its share of the load.
    pub weight: Weight,
    /// nginx's `max_fails`; 0 means that failures are not counted.
    pub max_fails: u32,
    /// Only offered when no other member can be.
    pub backup: bool,
}

/// A way to choose among replicas.
///
/// No clock, no I/O, no global randomness: the same calls with the same dice give the same choices.
pub trait Policy: Send {
    /// Returns the slot of one of `candidates`, which are sorted by slot; `None` only if there are none.
    fn choose(&mut self, job: &PolicyRequest<'_>, candidates: &[Candidate], dice: &mut SeededRng) -> Option<Slot>;

    /// Is told that a request to the replica at `at` failed by that replica's fault.
    ///
    /// Only nginx's effective weight listens.
    fn on_failure(&mut self, _at: Slot) {}

    /// What it wants to know requests by; asked once, when the configuration is read.
    fn key(&self) -> Option<&HashKey> {
        None
    }

    /// Tells whether it wants to know where a prompt is cached; asked once, as the key.
    fn needs_prefix(&self) -> bool {
        false
    }

    /// Tells whether it knows requests by their client's address; asked once, as the key.
    fn needs_client_addr(&self) -> bool {
        false
    }

    /// What it goes by, in its own words, of one of the candidates that it was offered; for people, and asked off the path.
    ///
    /// *Shape*: in the order of reading, the weight aside, by which a load is divided. *Units*: tokens, requests or
    /// seconds, as the word says.
    fn explain(&self, _job: &PolicyRequest<'_>, of: &Candidate, _among: &[Candidate]) -> Vec<(&'static str, f64)> {
        default_terms(of)
    }

    /// Tells whether so many of the requests had the same key that it spreads hardly any load.
    fn has_hot_key(&self) -> bool {
        false
    }
}
