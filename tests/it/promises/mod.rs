//! What the router promises under bad input, hostile clients, failing replicas, overload and operations, from outside:
//! over HTTP, by `/metrics`, signals and the process's own words. A module per section, a test per promise, each with the
//! promise in its own words. `.ci/promises-nginx` counts them, and asks the same of an nginx.

mod clients;
mod control;
mod ejection;
mod framing;
mod input;
mod operations;
mod overload;
mod process;
mod replica_death;
mod replicas;
mod secrets;
mod setup;
mod slow_readers;
