//! Floor 4: the HTTP face: accept, the path of a request, what we answer ourselves, the admin listener.

mod acceptor;
mod admin;
mod admission;
mod ahead;
mod bind;
mod body;
mod cors;
mod crowd;
mod doors;
mod explain;
mod farewell;
mod files;
mod framing;
mod gate;
mod growing;
mod gzip;
mod headers;
mod identify;
mod key;
mod manage;
mod measure;
mod own;
mod owners;
mod patience;
mod proxy;
mod refusal;
mod reload;
mod reply;
mod search;
mod secure;
mod sessions;
mod start;
mod stay;
mod story;
mod tally;
mod target;
mod tries;
mod trip;
mod visit;
mod worker;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use body::Budget;
use crowd::Crowd;
use doors::Doors;
use owners::Owners;
use refusal::Refusal;
pub use reload::Source;
use sessions::Sessions;
pub use start::Server;
use thiserror::Error;
use tokio::sync::{Notify, Semaphore};

use crate::balance::BadPolicy;
use crate::clock::Clock;
use crate::config::Settings;
use crate::fleet::{Decisions, Fleet};
use crate::resolve::Names;
use crate::telemetry::{AccessLog, ErrorLog, Metrics, Recorder};
use crate::tls::{BadFile, Keyring};
use crate::upstream::Upstream;

/// Why the router cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address cannot be listened at.
    #[error("cannot listen at {address} ({key}): {error}{hint}")]
    Listen {
        /// The address.
        address: String,
        /// The configuration key it comes from.
        key: &'static str,
        /// What the system said.
        error: io::Error,
        /// What may help.
        hint: &'static str,
    },
    /// A log cannot be opened.
    #[error("cannot open the log {0}: {1}")]
    Log(String, io::Error),
    /// The file that traffic is written to cannot be opened.
    #[error("cannot record to {0}: {1}")]
    Record(String, io::Error),
    /// A file of certificates or keys cannot be used.
    #[error("{0}; {help}", help = .0.help)]
    Tls(#[from] BadFile),
    /// A pool's policy cannot be made.
    #[error("{0}")]
    Policy(#[from] BadPolicy),
    /// The system gives no threads or no event queue.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

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
    settings: ArcSwap<Settings>,
    /// What connections from now on are secured with.
    keyring: Arc<ArcSwap<Keyring>>,
    metrics: Arc<Metrics>,
    /// Writes traffic down.
    recorder: Option<Arc<Recorder>>,
    /// The last choices, to be explained.
    decisions: Arc<Decisions>,
    /// A request goes on with the one it began with.
    access: ArcSwapOption<AccessLog>,
    /// Lines lost by logs that are no more.
    lines_lost: AtomicU64,
    /// Where clients are accepted; set once the acceptor runs.
    doors: OnceLock<Doors>,
    errors: Arc<ErrorLog>,
    budget: Arc<Budget>,
    crowd: Crowd,
    owners: Owners,
    /// Places for prompts that are given to a tokenizer.
    counting: Arc<Semaphore>,
    sessions: Sessions,
    clock: Clock,
    /// The time of day at the start.
    started: Duration,
    draining: AtomicBool,
    /// Connections so far.
    visits: AtomicU64,
    /// Told when there may be replicas that have not been asked for their models.
    changed: Notify,
    /// What names in the configuration stand for.
    names: Names,
    /// Told when there is another configuration.
    reloaded: Notify,
    /// Where the configuration is read from again.
    source: OnceLock<Source>,
}

/// What the requests of one worker share.
struct Worker {
    app: Arc<App>,
    upstream: Upstream,
}

impl App {
    /// What is configured now. A request keeps what it began with.
    fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
