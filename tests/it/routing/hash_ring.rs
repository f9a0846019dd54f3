//! The ring of `hash KEY consistent` compared with Pingora's port of nginx's ring.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use pingora_ketama::{Bucket, Continuum};
use tokenweir::balance::{PolicyRequest, SeededRng};
use tokenweir::config;
use tokenweir::fleet::{AcquireRequest, ChoiceObservers, Fleet, LeaseObserver, LeaseReport};
use tokenweir::units::{Moment, Tokens};

struct SilentObserver;

impl LeaseObserver for SilentObserver {
    fn on_settled(&self, _: &LeaseReport<'_>) {}
}

#[test]
fn ring_picks_equal_pingora_ketama() {
    let mut dice = SeededRng::from_seed(20_261_122);
    for n in [2, 3, 10, 50] {
        let nodes: Vec<(u32, u16)> = (0..n).map(|at| (1 + dice.next_below(9) as u32, 8_000 + at)).collect();
        let urls: Vec<String> = nodes.iter().map(|(w, port)| format!("http://10.0.0.7:{port} weight={w}")).collect();
        let text = format!("paths = \"any\"\npolicy = \"hash $user consistent\"\nreplicas = {urls:?}");
        let observer: Arc<dyn LeaseObserver> = Arc::new(SilentObserver);
        let settings = config::load(&text, "router.toml", []).unwrap().settings;
        let pool = Fleet::new(settings.pools, &observer, 1).unwrap().pools()[0].clone();
        let bucket = |(weight, port): &(u32, u16)| Bucket::new(([10, 0, 0, 7], *port).into(), *weight);
        let theirs = Continuum::new(&nodes.iter().map(bucket).collect::<Vec<_>>());
        let mut differing = 0;
        for _ in 0..10_000 {
            let key = format!("{:x}", dice.next_u64());
            let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
            let job = PolicyRequest {
                prompt: Tokens(1),
                output: Tokens(0),
                key: key.as_bytes(),
                client_addr: client,
                tried_slots: &[],
            };
            let attempt = AcquireRequest {
                policy_request: job,
                model: None,
                estimate: None,
                prefix: None,
                pin: None,
                tried: Vec::new(),
                observers: ChoiceObservers::default(),
            };
            let lease = pool.acquire(&attempt, Moment::ZERO).unwrap();
            let port = theirs.node(key.as_bytes()).unwrap().port();
            differing += u32::from(lease.replica().origin().port() != port);
        }
        assert_eq!(differing, 0, "of 10,000 keys at {n} replicas");
    }
}
