//! The trait of policies and its input.

use std::net::IpAddr;

use super::{Candidate, HashKey, SeededRng};
use crate::units::{Slot, Tokens, Weight};

/// The request that a policy chooses a replica for. Plain data.
#[derive(Clone, Copy, Debug)]
pub struct PolicyRequest<'a> {
    /// The size of the prompt.
    pub prompt: Tokens,
    /// The estimated size of the output.
    pub output: Tokens,
    /// The request's hash key, rendered from the policy's [`HashKey`]; empty if the policy has none.
    pub key: &'a [u8],
    /// The client's address.
    pub client_addr: IpAddr,
    /// Members that have failed this request already; none of them is a candidate.
    pub tried_slots: &'a [Slot],
}

/// One member of a pool, up or down, as a policy is built from it.
#[derive(Clone, Debug)]
pub struct PolicyMember {
    /// Its slot in the pool.
    pub slot: Slot,
    /// Its name as configured, by default `host:port`.
    pub name: String,
    /// Its share of the load.
    pub weight: Weight,
    /// nginx's `max_fails`; 0 means that failures are not counted.
    pub max_fails: u32,
    /// Whether it is offered only when no other member is eligible.
    pub backup: bool,
}

/// A load-balancing policy.
///
/// No clock, no I/O, no global randomness: the same calls with the same `rng` give the same choices.
pub trait Policy: Send {
    /// Returns the slot of one of `candidates`, which are sorted by slot; `None` only if there are none.
    fn choose(&mut self, request: &PolicyRequest<'_>, candidates: &[Candidate], rng: &mut SeededRng) -> Option<Slot>;

    /// Records a failed request that the replica at `slot` is to blame for.
    ///
    /// Only nginx's effective weight uses it.
    fn on_failure(&mut self, _slot: Slot) {}

    /// Returns the template of the hash key, if the policy needs one. Called once, when the configuration is read.
    fn key(&self) -> Option<&HashKey> {
        None
    }

    /// Returns whether it needs [`Candidate::cached`]. Called once, when the configuration is read.
    fn needs_prefix(&self) -> bool {
        false
    }

    /// Returns whether it needs the client's address. Called once, when the configuration is read.
    fn needs_client_addr(&self) -> bool {
        false
    }

    /// Returns the terms that the policy compares for `candidate`, one of `candidates`, by name. Not on the request
    /// path.
    ///
    /// *Shape*: in reading order, without the weight, by which a load is divided. *Units*: tokens, requests or seconds,
    /// as the name says.
    fn explain(
        &self,
        _request: &PolicyRequest<'_>,
        candidate: &Candidate,
        _candidates: &[Candidate],
    ) -> Vec<(&'static str, f64)> {
        candidate.default_terms()
    }

    /// Returns whether one key has made up most requests, so that hashing spreads little load.
    fn has_hot_key(&self) -> bool {
        false
    }
}
