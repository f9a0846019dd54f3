//! The feed that the sampler writes and viewers read.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::history::History;

/// The messages of one second.
#[derive(Default)]
pub(in crate::server) struct LiveFrame {
    /// What seldom changes, as JSON; the same allocation until it does.
    pub(in crate::server) meta: Arc<str>,
    /// The figures of the second, as JSON.
    pub(in crate::server) second: Arc<str>,
}

/// The feed of one router. A viewer that reads slowly skips seconds, so that no memory is held for it.
pub(in crate::server) struct LiveFeed {
    pub(super) frames: watch::Sender<Arc<LiveFrame>>,
    /// Guards the past. Taken by the control thread only, which samples and serves viewers.
    pub(super) history: Mutex<History>,
}

impl Default for LiveFeed {
    fn default() -> Self {
        Self { frames: watch::Sender::new(Arc::default()), history: Mutex::default() }
    }
}

impl LiveFeed {
    /// Returns the number of viewers.
    pub(in crate::server) fn viewers(&self) -> usize {
        self.frames.receiver_count()
    }
}
