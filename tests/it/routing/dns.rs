//! Replicas found by DNS names: nginx's `resolve` and `service`, against a test DNS server.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::dns::TestDnsServer;
use crate::harness::{TestRouter, chat_body, fast_settings, wait_until};
use tokenweir::clock::Clock;
use tokenweir::emulate::EmulatedReplica;

const CHAT_PATH: &str = "/v1/chat/completions";

/// Starts replicas at these addresses, all on one port.
fn start_at_one_port<const N: usize>(addresses: [&str; N]) -> (u16, [EmulatedReplica; N]) {
    loop {
        let port = TcpListener::bind((addresses[0], 0)).unwrap().local_addr().unwrap().port();
        let listeners: Vec<_> = addresses.iter().filter_map(|ip| TcpListener::bind((*ip, port)).ok()).collect();
        // Another test may use the port at one of the addresses.
        if let Ok(listeners) = <[TcpListener; N]>::try_from(listeners) {
            return (
                port,
                listeners
                    .map(|listener| EmulatedReplica::start(listener, fast_settings(&["m"]), Clock::start()).unwrap()),
            );
        }
    }
}

/// Returns the names of the pool's admitted replicas.
fn admitted_replicas(router: &TestRouter) -> Vec<String> {
    let pools = crate::harness::send_request(router.admin_addr, "GET", "/pools", "", "").json();
    let replicas = pools[0]["replicas"].as_array().unwrap().clone();
    let is_in = |replica: &&serde_json::Value| replica["state"] == "admitted";
    replicas.iter().filter(is_in).map(|replica| replica["name"].as_str().unwrap().to_owned()).collect()
}

fn wait_for_members(router: &TestRouter, wanted: &[String]) {
    wait_until("the members match DNS", || admitted_replicas(router) == wanted);
}

/// Runs `change` while four clients send sequential requests; none may fail. Returns the number of requests.
fn run_under_load(router: &TestRouter, change: impl FnOnce()) -> u32 {
    let (done, failed, answered) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let status = router.post(CHAT_PATH, chat_body("m", 2, false)).status;
                    failed.fetch_add(u32::from(status != 200), Ordering::Relaxed);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        change();
        let before = answered.load(Ordering::Relaxed);
        wait_until("requests continue", || answered.load(Ordering::Relaxed) >= before + 50);
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {}", answered.load(Ordering::Relaxed));
    answered.load(Ordering::Relaxed)
}

#[test]
fn changing_addresses_lose_no_request() {
    let dns = TestDnsServer::start(0);
    let (port, mut replicas) = start_at_one_port(["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
    let name = |last: u8| format!("127.0.0.{last}:{port}");
    dns.set_addresses("gpu.test", &["127.0.0.2", "127.0.0.1"]);
    let words = "resolve max_fails=3 fail_timeout=60s";
    let router =
        TestRouter::start(&format!("{}replicas = [\"http://gpu.test:{port} {words}\"]", dns.resolver_config()));
    wait_for_members(&router, &[name(1), name(2)]);
    run_under_load(&router, || {
        dns.set_addresses("gpu.test", &["127.0.0.2", "127.0.0.3"]);
        wait_for_members(&router, &[name(2), name(3)]);
        wait_until("its requests have ended", || replicas[0].counters().open_requests() == 0);
        replicas[0].stop();
    });
    assert!(
        replicas.iter().all(|replica| replica.counters().request_count(CHAT_PATH) > 0),
        "each replica has received requests"
    );
    let kept = router.server.fleet().replicas()[0].times_chosen();
    assert!(kept > 0, "a replica that stays keeps its state");
    wait_until("no lease is left", || router.in_flight() == 0);

    // A failing DNS server changes nothing.
    dns.set_failing(true);
    let queries = dns.query_intervals("gpu.test").len();
    wait_until("DNS queries fail", || dns.query_intervals("gpu.test").len() >= queries + 3);
    assert_eq!(admitted_replicas(&router), [name(2), name(3)]);
    assert_eq!(router.post(CHAT_PATH, chat_body("m", 2, false)).status, 200);
}

#[test]
fn ipv6_address_becomes_a_member() {
    let dns = TestDnsServer::start(1);
    let (port, _replicas) = start_at_one_port(["127.0.0.1", "::1"]);
    dns.set_addresses("gpu.test", &["::1"]);
    let router =
        TestRouter::start(&format!("{}replicas = [\"http://gpu.test:{port} resolve\"]", dns.resolver_config()));
    let six = format!("[::1]:{port}");
    wait_for_members(&router, std::slice::from_ref(&six));
    assert_eq!(router.post(CHAT_PATH, chat_body("m", 2, false)).header("x-upstream"), Some(&*six));
    run_under_load(&router, || {
        dns.set_addresses("gpu.test", &["::1", "127.0.0.1"]);
        wait_for_members(&router, &[format!("127.0.0.1:{port}"), six]);
    });
}

#[test]
fn service_is_resolved_by_srv_records() {
    let dns = TestDnsServer::start(0);
    let replicas = [(); 3].map(|()| crate::harness::start_replica(&["m"]));
    let ports = replicas.each_ref().map(|replica| replica.addr().port());
    let name = |index: usize| format!("127.0.0.1:{}", ports[index]);
    dns.set_addresses("a.test", &["127.0.0.1"]);
    dns.set_services("_llm._tcp.gpu.test", &[(1, 3, ports[0], "a.test"), (1, 1, ports[1], "a.test")]);
    let policy = "policy = \"round_robin\"\n";
    let replica = "replicas = [\"http://gpu.test resolve service=llm\"]";
    let router = TestRouter::start(&format!("{}{policy}{replica}", dns.resolver_config()));
    let mut wanted = [name(0), name(1)];
    wanted.sort_by_key(|name| name.rsplit(':').next().unwrap().parse::<u16>().unwrap());
    wait_for_members(&router, &wanted);
    let picks =
        (0..40).map(|_| router.post(CHAT_PATH, chat_body("m", 1, false)).header("x-upstream").unwrap().to_owned());
    assert_eq!(picks.filter(|pick| *pick == name(0)).count(), 30, "the SRV weights apply");

    run_under_load(&router, || {
        // The second priority is a backup for the first. Of the remaining replicas the third has the best priority.
        dns.set_services("_llm._tcp.gpu.test", &[(1, 1, ports[2], "a.test"), (2, 1, ports[1], "a.test")]);
        wait_until("the members match DNS", || {
            let mut names = admitted_replicas(&router);
            names.sort();
            let mut wanted = [name(1), name(2)];
            wanted.sort();
            names == wanted
        });
    });
    let before = replicas[1].counters().request_count(CHAT_PATH);
    assert!((0..10).all(|_| router.post(CHAT_PATH, chat_body("m", 1, false)).header("x-upstream") == Some(&*name(2))));
    assert_eq!(replicas[1].counters().request_count(CHAT_PATH), before, "a lower priority is a backup");
}

#[test]
fn ttl_is_respected_and_at_least_a_second() {
    let dns = TestDnsServer::start(0);
    dns.set_addresses("gpu.test", &["127.0.0.1"]);
    let _router = TestRouter::start(&format!("{}replicas = [\"http://gpu.test:1 resolve\"]", dns.resolver_config()));
    let nearly = |seconds: u64| Duration::from_millis(seconds * 1_000 - 20);
    wait_until("three queries are sent", || dns.query_intervals("gpu.test").len() >= 2);
    assert!(
        dns.query_intervals("gpu.test").iter().all(|gap| *gap >= nearly(1)),
        "{:?}",
        dns.query_intervals("gpu.test")
    );
    dns.set_ttl(3);
    let before = dns.query_intervals("gpu.test").len();
    wait_until("two more queries are sent", || dns.query_intervals("gpu.test").len() >= before + 2);
    let last = *dns.query_intervals("gpu.test").last().unwrap();
    assert!(last >= nearly(3) && last < nearly(6), "{last:?}");
}
