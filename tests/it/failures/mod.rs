//! Replicas that fail: retries, ejection, recovery.

mod ejection;
mod fault_storms;
mod hung_replica;
mod replica_failures;
mod response_faults;
mod retry;
