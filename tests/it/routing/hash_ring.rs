//! The ring of `hash KEY consistent` beside another port of nginx's, the one Pingora uses.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use pingora_ketama::{Bucket, Continuum};
use tokenweir::balance::{Dice, Job};
use tokenweir::config;
use tokenweir::fleet::{Attempt, Beside, Fleet, Observer, Report};
use tokenweir::units::{Moment, Tokens};

struct Nobody;

impl Observer for Nobody {
    fn settled(&self, _: &Report<'_>) {}
}

#[test]
fn keys_fall_on_the_same_replica_as_in_another_port_of_nginx() {
    let mut dice = Dice::seeded(20_261_122);
    for n in [2, 3, 10, 50] {
        let nodes: Vec<(u32, u16)> = (0..n).map(|at| (1 + dice.below(9) as u32, 8_000 + at)).collect();
        let urls: Vec<String> = nodes.iter().map(|(w, port)| format!("http://10.0.0.7:{port} weight={w}")).collect();
        let text = format!("paths = \"any\"\npolicy = \"hash $user consistent\"\nreplicas = {urls:?}");
        let observer: Arc<dyn Observer> = Arc::new(Nobody);
        let settings = config::load(&text, "router.toml", []).unwrap().settings;
        let pool = Fleet::new(settings.pools, &observer, 1).unwrap().pools()[0].clone();
        let bucket = |(weight, port): &(u32, u16)| Bucket::new(([10, 0, 0, 7], *port).into(), *weight);
        let theirs = Continuum::new(&nodes.iter().map(bucket).collect::<Vec<_>>());
        let mut differing = 0;
        for _ in 0..10_000 {
            let key = format!("{:x}", dice.bits());
            let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
            let job = Job { prompt: Tokens(1), output: Tokens(0), key: key.as_bytes(), client, tried: &[] };
            let attempt = Attempt {
                job,
                model: None,
                measured: None,
                prefix: None,
                pinned: None,
                tried: Vec::new(),
                beside: Beside::default(),
            };
            let lease = pool.acquire(&attempt, Moment::ZERO).unwrap();
            let port = theirs.node(key.as_bytes()).unwrap().port();
            differing += u32::from(lease.replica().origin().port() != port);
        }
        assert_eq!(differing, 0, "of 10,000 keys at {n} replicas");
    }
}
