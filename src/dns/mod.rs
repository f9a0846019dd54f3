//! Layer 3: host names of replicas, as nginx's `resolve`.
//!
//! Each address of a name is a member of the pool. When the addresses change, so do the members, and members that stay
//! keep their state.

mod answer;
mod client;
mod members;
mod names;
mod question;

pub use names::{DnsContext, DnsNames};
