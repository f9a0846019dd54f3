//! The shared state of an emulated replica.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use super::dialects::responses::ResponseStore;
use super::faults::FaultInjector;
use super::response_body::EmulatorCounters;
use super::runner::EngineRunner;
use super::settings::EmulatorSettings;
use crate::clock::{self, Clock};

/// The state that all requests of a replica share.
#[derive(Debug)]
pub(super) struct ReplicaState {
    pub(super) settings: EmulatorSettings,
    pub(super) clock: Clock,
    pub(super) runner: Arc<EngineRunner>,
    pub(super) counters: Arc<EmulatorCounters>,
    /// Guards the injected fault.
    pub(super) fault_injector: Mutex<FaultInjector>,
    /// Guards the streams in lock-step: permits for events by request id.
    pub(super) lockstep_streams: Mutex<BTreeMap<String, Arc<Semaphore>>>,
    /// Guards the stored responses.
    pub(super) responses: Mutex<ResponseStore>,
    id_counter: AtomicU64,
}

impl ReplicaState {
    pub(super) fn new(settings: EmulatorSettings, clock: Clock) -> Self {
        Self {
            runner: Arc::new(EngineRunner::new(settings.engine_model, clock)),
            settings,
            clock,
            counters: Arc::default(),
            fault_injector: Mutex::default(),
            lockstep_streams: Mutex::default(),
            responses: Mutex::default(),
            id_counter: AtomicU64::new(clock::random_seed()),
        }
    }

    /// Returns a unique id of 16 hexadecimal digits.
    pub(super) fn new_id(&self) -> String {
        let number = self.id_counter.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// Locks `mutex`, also after a panic of another holder.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
