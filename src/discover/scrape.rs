//! Asking engines for their metrics.

use std::sync::Arc;
use std::time::Duration;

use super::exposition::Exposition;
use crate::clock::Clock;
use crate::fleet::{ApiKey, Fleet, Replica, Vitals};

/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most bytes of an exposition that are read; vLLM's has about 55 KB.
const MOST_BYTES: usize = 4 << 20;
/// How often a replica without an engine's metrics is asked whether it has any by now.
const RARELY: Duration = Duration::from_secs(60);
/// What was said is believed for so many times the time to the next look.
const GOOD_FOR: u32 = 3;

/// A replica to ask, and how.
pub(super) struct Scrape {
    pub(super) replica: Arc<Replica>,
    pub(super) key: Option<ApiKey>,
    pub(super) every: Duration,
}

/// Why nothing was learned.
enum Nothing {
    /// It is down, slow, or not ready.
    ForNow,
    /// It serves, and this is not what it serves.
    AtAll,
}

impl Scrape {
    /// Every replica that some pool wants to know about, as often as the pool that wants it most often.
    pub(super) fn all(fleet: &Fleet) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for pool in fleet.pools() {
            let Some(every) = pool.spec().metering.engine_metrics else { continue };
            for replica in pool.replicas() {
                match all.iter_mut().find(|known| known.replica.id() == replica.id()) {
                    Some(known) => known.every = known.every.min(every),
                    None => all.push(Self { replica: replica.clone(), key: pool.api_key().cloned(), every }),
                }
            }
        }
        all
    }

    /// Asks for ever.
    pub(super) async fn follow(self, client: reqwest::Client, clock: Clock) {
        loop {
            let wait = match self.look(&client, clock).await {
                Ok(()) | Err(Nothing::ForNow) => self.every,
                Err(Nothing::AtAll) => self.every.max(RARELY),
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn look(&self, client: &reqwest::Client, clock: Clock) -> Result<(), Nothing> {
        let before = self.replica.in_flight();
        let vitals = self.ask(client, clock).await?;
        // The engine counted somewhere between: with the larger number, what has just come or gone is not foreign.
        let in_flight = before.max(self.replica.in_flight());
        self.replica.learn_vitals(vitals, in_flight, clock.now(), self.every * GOOD_FOR);
        Ok(())
    }

    async fn ask(&self, client: &reqwest::Client, clock: Clock) -> Result<Vitals, Nothing> {
        let request = super::get(client, self.replica.origin(), "/metrics", self.key.as_ref()).timeout(PATIENCE);
        let answer = request.send().await;
        super::knock(&self.replica, &answer, clock);
        let mut answer = answer.map_err(|_| Nothing::ForNow)?;
        let status = answer.status();
        if status.is_server_error() || status.as_u16() == 429 {
            return Err(Nothing::ForNow);
        }
        if !status.is_success() {
            return Err(Nothing::AtAll);
        }
        let (mut exposition, mut size) = (Exposition::default(), 0);
        while let Some(chunk) = answer.chunk().await.map_err(|_| Nothing::ForNow)? {
            size += chunk.len();
            if size > MOST_BYTES {
                return Err(Nothing::AtAll);
            }
            exposition.push(&chunk);
        }
        exposition.finish().ok_or(Nothing::AtAll)
    }
}
