//! The routers of a replay: real fleets, whose replicas are engines' indices.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use crate::balance::{Dice, Job, Key, Part};
use crate::config;
use crate::fleet::{
    Attempt, Beside, Fleet, Lease, Models, NoReplica, Observer, Paths, PolicySpec, Pool, Report, Vitals,
};
use crate::prompt::{Census, Prefix};
use crate::units::{Moment, Tokens};

use super::scenario::{Problem, Scenario};
use super::trace::Request;

/// Fleets that share nothing.
pub(super) struct Routers {
    pools: Vec<Arc<Pool>>,
    policy: PolicySpec,
    replicas: usize,
    kv: Tokens,
    dice: Dice,
}

/// What a replay has to say of a lease it follows itself.
struct Unheard;

impl Observer for Unheard {
    fn settled(&self, _: &Report<'_>) {}
}

impl Routers {
    pub(super) fn new(policy: &PolicySpec, scenario: &Scenario, dice: Dice) -> Result<Self, Problem> {
        let pools = Vec::with_capacity(scenario.routers);
        let mut routers =
            Self { pools, policy: policy.clone(), replicas: scenario.replicas, kv: scenario.constants.kv, dice };
        for _ in 0..scenario.routers.max(1) {
            let pool = routers.pool()?;
            routers.pools.push(pool);
        }
        Ok(routers)
    }

    /// Begins all routers anew; leases of the old ones stay theirs.
    pub(super) fn restart(&mut self) -> Result<(), Problem> {
        for at in 0..self.pools.len() {
            let pool = self.pool()?;
            if let Some(place) = self.pools.get_mut(at) {
                *place = pool;
            }
        }
        Ok(())
    }

    /// Lets one of the routers choose for a request; returns the engine's index too.
    pub(super) fn acquire(&mut self, request: &Request, now: Moment) -> Result<(Lease, usize), NoReplica> {
        let count = self.pools.len() as u64;
        let at = if count > 1 { self.dice.below(count) as usize } else { 0 };
        let pool = self.pools.get(at).ok_or(NoReplica::AllDown)?;
        let prefix = pool.asks_prefix().then(|| request.prefix());
        let key = key(pool, request, prefix.as_deref());
        // The answer's length is learned as in live traffic; the prompt's is known.
        let census = Census { counted: u32::try_from(request.prompt.0).ok(), ..Census::default() };
        let mut measured = pool.meter(None).measure(&census, &key, None);
        measured.prompt = request.prompt;
        let job = Job { prompt: request.prompt, output: Tokens(0), key: &key, client: client(request), tried: &[] };
        let attempt = Attempt {
            job,
            model: None,
            measured: Some(measured),
            prefix,
            pinned: None,
            tried: Vec::new(),
            beside: Beside::default(),
        };
        let lease = pool.acquire(&attempt, now)?;
        let id = lease.replica().id();
        let engine = pool.replicas().position(|replica| replica.id() == id).unwrap_or_default();
        Ok((lease, engine))
    }

    fn pool(&mut self) -> Result<Arc<Pool>, Problem> {
        let address = |at: usize| format!("http://10.{}.{}.{}:8000", at >> 16 & 255, at >> 8 & 255, at & 255);
        let urls: Vec<String> = (1..=self.replicas.max(1)).map(address).collect();
        let loaded = config::from_urls(&urls, []).map_err(|report| Problem::Fleet(report.to_string()))?;
        let mut specs = loaded.settings.pools;
        for spec in &mut specs {
            spec.policy = self.policy.clone();
            spec.paths = Paths::Any;
        }
        let observer: Arc<dyn Observer> = Arc::new(Unheard);
        let fleet = Fleet::new(specs, &observer, self.dice.bits())?;
        for replica in fleet.replicas() {
            replica.learn(Models::Unlisted);
            // Of its engine's metrics a router is told this alone.
            let vitals = Vitals { kv_capacity: Some(self.kv), ..Vitals::default() };
            replica.learn_vitals(vitals, 0, Moment::ZERO, Duration::ZERO);
        }
        fleet.pools().pop().ok_or_else(|| Problem::Fleet("there is no pool".to_owned()))
    }
}

/// What a policy knows the request by. A trace's sessions are taken to be named by their clients; without one `$cache_key`
/// is how the prompt begins.
fn key(pool: &Pool, request: &Request, prefix: Option<&Prefix>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in pool.key().map_or(&[][..], Key::parts) {
        match part {
            Part::Text(text) => bytes.extend_from_slice(text.as_bytes()),
            Part::RemoteAddr => bytes.extend_from_slice(client(request).to_string().as_bytes()),
            Part::CacheKey if request.session.is_some() => {
                bytes.extend_from_slice(request.session.unwrap_or_default().to_string().as_bytes());
            }
            Part::Session | Part::User => {
                if let Some(session) = request.session {
                    bytes.extend_from_slice(session.to_string().as_bytes());
                }
            }
            Part::Prefix | Part::CacheKey => {
                let beginning = prefix.map_or(0, |prefix| beginning(pool.spec().metering.prefix, request, prefix));
                bytes.extend_from_slice(format!("{beginning:016x}").as_bytes());
            }
            Part::RequestUri => bytes.extend_from_slice(b"/v1/chat/completions"),
            Part::Header(_) | Part::Model => {}
        }
    }
    bytes
}

/// How the prompt begins, up to `tokens`. What is behind the blocks of a shorter one is like no other's.
fn beginning(tokens: Tokens, request: &Request, prefix: &Prefix) -> u64 {
    let covered = request.block_tokens();
    if covered > 0 && (request.prompt > tokens || covered == request.prompt.0) {
        return prefix.key(tokens.0);
    }
    let at = u64::try_from(request.at.as_nanos()).unwrap_or_default();
    Dice::seeded(prefix.key(u64::MAX) ^ Dice::seeded(at ^ request.prompt.0 << 48).bits()).bits()
}

/// A session's own address; a request without one has its time's.
fn client(request: &Request) -> IpAddr {
    let whose = request.session.unwrap_or_else(|| u64::try_from(request.at.as_nanos()).unwrap_or_default());
    let bits = Dice::seeded(whose).bits();
    IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits >> 32).unwrap_or_default()))
}
