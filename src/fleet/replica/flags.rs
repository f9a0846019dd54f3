//! Switches of a replica that outlive reloads.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Whether a replica is drained, set through the admin listener and kept until unset there.
#[derive(Debug, Default)]
pub(super) struct DrainSwitch {
    drained: AtomicBool,
    /// Number of drains so far, so that slow start also sees those that were undone between two requests.
    count: AtomicU32,
}

/// Whether a replica accepts requests for the usage of a stream.
#[derive(Debug, Default)]
pub(super) struct UsageSupport {
    confirmed: AtomicBool,
    unsupported: AtomicBool,
}

impl DrainSwitch {
    pub(super) fn set(&self, drained: bool) {
        if drained && !self.drained.swap(drained, Ordering::Relaxed) {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        self.drained.store(drained, Ordering::Relaxed);
    }

    pub(super) fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }
}

impl UsageSupport {
    pub(super) fn set(&self, supported: bool) {
        if supported { &self.confirmed } else { &self.unsupported }.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_confirmed(&self) -> bool {
        self.confirmed.load(Ordering::Relaxed)
    }

    pub(super) fn is_unsupported(&self) -> bool {
        self.unsupported.load(Ordering::Relaxed)
    }
}
