//! Replica failures: retries, ejection and recovery.

mod ejection;
mod fault_storms;
mod hung_replica;
mod replica_failures;
mod response_faults;
mod retry;
