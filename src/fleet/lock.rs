//! Locking of the fleet's mutexes.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Returns the guard of `mutex`, poisoned or not.
///
/// No critical section of this module can leave its data half-changed, so a panic elsewhere must not make a pool
/// unusable.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
