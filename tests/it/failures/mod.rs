//! Replicas that fail: retries, ejection, recovery.

mod ejection;
mod failures;
mod fault_storms;
mod hung_replica;
mod response_faults;
mod retry;
