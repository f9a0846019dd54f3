//! What the router promises under bad input, hostile clients, failing replicas, overload and operations, from outside:
//! over HTTP, by `/metrics`, signals and the process's own words. A module per section, a test per promise, each with the
//! promise in its own words. A promise that is not kept yet is ignored and says why:
//! `cargo test --test promises -- --ignored` lists them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here")]
#![allow(unreachable_pub, reason = "the modules of one binary")]

#[path = "../harness/mod.rs"]
mod harness;

mod clients;
mod dying;
mod ejecting;
mod frames;
mod input;
mod operations;
mod overload;
mod process;
mod readers;
mod replicas;
mod secrets;
mod stage;
