//! Tests of the router's promises, over HTTP, metrics, signals and logs, under bad input, failures and overload.
//! There is a module per section and a test per promise, which quotes the promise.
//! `.ci/promises-nginx` counts them and runs them against nginx.

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
