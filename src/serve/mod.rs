//! Floor 4: the HTTP face: accept, the path of a request, what we answer ourselves, the admin listener.

mod acceptor;
mod admin;
mod body;
mod cors;
mod identify;
mod key;
mod measure;
mod own;
mod owners;
mod patience;
mod proxy;
mod refusal;
mod reply;
mod search;
mod start;
mod story;
mod target;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use body::Budget;
use owners::Owners;
use refusal::Refusal;
pub use start::{Server, StartError};

use crate::clock::Clock;
use crate::config::Settings;
use crate::fleet::Fleet;
use crate::telemetry::{AccessLog, ErrorLog, Metrics};

/// How far the process is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Serving.
    Running,
    /// Nothing new is accepted; what runs may finish.
    Draining,
    /// What still runs is cut.
    Ended,
}

/// What all workers share.
struct App {
    fleet: Arc<Fleet>,
    settings: Settings,
    metrics: Arc<Metrics>,
    access: Option<AccessLog>,
    errors: Arc<ErrorLog>,
    budget: Arc<Budget>,
    owners: Owners,
    clock: Clock,
    /// The time of day at the start.
    started: Duration,
    draining: AtomicBool,
}

impl App {
    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
