//! Every integration test, in one binary: the harness and the library are linked once.
//!
//! `cargo test --test it NAME` runs the tests whose path contains NAME, such as `failures::` or `promises::`.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue fails here")]
#![allow(unreachable_pub, reason = "the modules of one binary")]

mod compatibility;
mod config;
mod failures;
mod harness;
mod http;
mod live;
mod nginx;
mod nginx_scopes;
mod promises;
mod routing;
mod tokens;
