//! Comparison of nginx with the router over the same replicas: every pick must be the same.
//!
//! `.ci/nginx` installs nginx if needed and runs these tests. Random choices print their seed.

mod origin;
mod pair;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use crate::harness::client::{TestClient, build_request};
use origin::{HeldRequests, PortOrigin};
use pair::{PairSetup, PairedNginx, ProxyPair, ProxySide, assert_same_picks};
use tokenweir::balance::{PolicyRequest, SeededRng};
use tokenweir::clock::Clock;
use tokenweir::config;
use tokenweir::fleet::{AcquireRequest, ChoiceObservers, Fleet, LeaseObserver, LeaseReport, Outcome};
use tokenweir::units::{Moment, Tokens};

const SEED: u64 = 20_261_122;

fn random_weights(dice: &mut SeededRng, n: usize, max: u64) -> Vec<u32> {
    (0..n).map(|_| dice.next_below(max) as u32 + 1).collect()
}

/// Returns a random set of replicas to mark, never all of them.
fn random_subset(dice: &mut SeededRng, n: usize) -> Vec<usize> {
    let spared = dice.next_below(n as u64) as usize;
    (0..n).filter(|at| *at != spared && dice.next_below(3) == 0).collect()
}

/// Sends the same requests through both, one after the other.
fn replay_through_both(what: &str, pair: &ProxyPair, requests: impl Iterator<Item = (String, String)>) {
    let (mut nginx, mut ours) = (ProxySide::connect(pair.nginx.addr), ProxySide::connect(pair.router.addr));
    let (mut theirs, mut mine) = (Vec::new(), Vec::new());
    for (path, headers) in requests {
        theirs.push(nginx.pick_port(&path, &headers));
        mine.push(ours.pick_port(&path, &headers));
    }
    assert_same_picks(what, &theirs, &mine);
}

fn random_requests(dice: &mut SeededRng, n: usize) -> Vec<(String, String)> {
    let uri = |_| format!("/v1/{:x}?q={}", dice.next_u64(), dice.next_below(1_000));
    (0..n).map(uri).map(|uri| (uri, String::new())).collect()
}

fn same_requests(n: usize) -> impl Iterator<Item = (String, String)> {
    (0..n).map(|_| ("/".to_owned(), String::new()))
}

#[test]
#[ignore = "needs nginx: .ci/nginx"]
fn round_robin_picks_are_nginx_picks() {
    let mut dice = SeededRng::from_seed(SEED);
    let mut sets = vec![vec![5, 1, 1], vec![3, 2], vec![1]];
    sets.extend((0..10).map(|at| random_weights(&mut dice, 2 + at % 6, 20)));
    for set in sets {
        let out = random_subset(&mut dice, set.len());
        for down in [vec![], out] {
            let pair = PairSetup::new("round_robin", &set).with_options(&down, "down").start();
            replay_through_both(&format!("round_robin {set:?} down {down:?}"), &pair, same_requests(500));
        }
    }
}

const POLICIES: [&str; 4] = ["round_robin", "least_conn", "hash $request_uri", "hash $request_uri consistent"];

/// The picks so far: nginx's and the router's.
type PicksPerSide = [Vec<u32>; 2];

fn send_to_both(sides: &mut [ProxySide; 2], n: usize, dice: &mut SeededRng, picks: &mut PicksPerSide) {
    for (path, headers) in random_requests(dice, n) {
        for (side, picks) in sides.iter_mut().zip(picks.iter_mut()) {
            picks.push(side.pick_port(&path, &headers));
        }
    }
}

/// Closes and opens the first `flapping` ports in random order, with 8 requests after each step.
fn flap_ports(setup: &PairSetup, flapping: u64, dice: &mut SeededRng, picks: &mut PicksPerSide) {
    let mut pair = setup.start();
    let mut sides = [ProxySide::connect(pair.nginx.addr), ProxySide::connect(pair.router.addr)];
    for _ in 0..12 {
        let at = dice.next_below(flapping) as usize;
        let origin = &mut pair.origins[at];
        if origin.is_open() {
            origin.close();
        } else {
            origin.reopen();
        }
        send_to_both(&mut sides, 8, dice, picks);
    }
}

#[test]
#[ignore = "needs nginx: .ci/nginx"]
fn failing_replicas_are_ejected_as_in_nginx() {
    let mut dice = SeededRng::from_seed(SEED + 1);
    for policy in POLICIES {
        for max_fails in [0, 1, 2, 3] {
            let mut picks = PicksPerSide::default();
            for _ in 0..8 {
                let mut setup = PairSetup::new(policy, &random_weights(&mut dice, 7, 6));
                setup = setup.with_options(&[0, 1, 2, 3, 4, 5, 6], &format!("max_fails={max_fails} fail_timeout=600s"));
                // With kept connections nginx would count each one to a closed port as a failure.
                setup.keepalive = false;
                flap_ports(&setup, 5, &mut dice, &mut picks);
            }
            assert_same_picks(&format!("{policy}, max_fails={max_fails}, ports close and open"), &picks[0], &picks[1]);
        }
    }
}

/// A retry from a closed port after many misses ends in the round-robin fallback.
#[test]
#[ignore = "needs nginx: .ci/nginx"]
fn retries_after_many_misses_are_nginx_retries() {
    let mut dice = SeededRng::from_seed(SEED + 8);
    for policy in ["hash $request_uri", "hash $request_uri consistent"] {
        for max_fails in [0, 5, 20] {
            let mut picks = PicksPerSide::default();
            for _ in 0..20 {
                let mut setup = PairSetup::new(policy, &random_weights(&mut dice, 12, 20))
                    .with_options(&[2, 3, 4, 5, 6, 7, 8, 9], "down");
                let all: Vec<usize> = (0..12).collect();
                setup = setup.with_options(&all, &format!("max_fails={max_fails} fail_timeout=600s"));
                setup.keepalive = false;
                flap_ports(&setup, 2, &mut dice, &mut picks);
            }
            assert_same_picks(&format!("{policy}, max_fails={max_fails}, 8 of 12 down, 2 flap"), &picks[0], &picks[1]);
        }
    }
}

/// Returns `false` if the machine was too busy to stay clear of the boundary between two seconds.
fn run_leave_and_return(policy: &'static str) -> bool {
    let mut dice = SeededRng::from_seed(SEED + 7);
    let mut setup = PairSetup::new(policy, &[4, 2, 1, 3]).with_options(&[0, 1, 2, 3], "max_fails=2 fail_timeout=2s");
    setup.keepalive = false;
    let mut pair = setup.start();
    let mut sides = [ProxySide::connect(pair.nginx.addr), ProxySide::connect(pair.router.addr)];
    let mut picks = PicksPerSide::default();
    let clock = Clock::start();
    // nginx counts whole seconds, so the requests stay more than a second clear of the boundary.
    for round in 0..5 {
        match round {
            0 => pair.origins[0].close(),
            1 => pair.origins.iter_mut().for_each(PortOrigin::close),
            3 => pair.origins[..3].iter_mut().for_each(PortOrigin::reopen),
            _ => {}
        }
        let begun = clock.now();
        send_to_both(&mut sides, 60, &mut dice, &mut picks);
        if clock.now().since(begun) > Duration::from_millis(800) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(4_200));
    }
    let lost = picks[0].iter().filter(|port| **port == 0).count();
    assert_same_picks(&format!("{policy}, back after fail_timeout, {lost} unanswered"), &picks[0], &picks[1]);
    true
}

#[test]
#[ignore = "needs nginx: .ci/nginx"]
fn replicas_return_after_fail_timeout_as_in_nginx() {
    std::thread::scope(|scope| {
        for policy in POLICIES {
            scope.spawn(move || {
                assert!((0..5).any(|_| run_leave_and_return(policy)), "{policy}: the machine is too busy");
            });
        }
    });
}

#[test]
#[ignore = "needs nginx: .ci/nginx"]
fn hash_picks_are_nginx_picks() {
    let mut dice = SeededRng::from_seed(SEED + 2);
    for n in [2, 3, 10, 50] {
        for policy in ["hash $request_uri", "hash $request_uri consistent"] {
            let set = random_weights(&mut dice, n, 5);
            let uris = random_requests(&mut dice, 10_000);
            replay_through_both(
                &format!("{policy}, {n} replicas"),
                &PairSetup::new(policy, &set).start(),
                uris.into_iter(),
            );
        }
    }
}

#[test]
#[ignore = "needs nginx: .ci/nginx"]
fn hashes_skip_down_replicas_as_nginx() {
    let mut dice = SeededRng::from_seed(SEED + 3);
    for n in [2, 3, 10, 50] {
        for policy in ["hash $request_uri", "hash $request_uri consistent"] {
            let set = random_weights(&mut dice, n, 20);
            // With all but two marked, nearly every request ends in the round-robin fallback.
            let all_but_two: Vec<usize> = (2..n).collect();
            for down in [random_subset(&mut dice, n), all_but_two] {
                let pair = PairSetup::new(policy, &set).with_options(&down, "down").start();
                let uris = random_requests(&mut dice, 2_500);
                replay_through_both(&format!("{policy}, {} of {n} replicas down", down.len()), &pair, uris.into_iter());
            }
        }
    }
}

#[test]
#[ignore = "needs nginx: .ci/nginx"]
fn keys_are_nginx_keys() {
    let mut dice = SeededRng::from_seed(SEED + 4);
    let mut requests = Vec::new();
    for at in 0..1_000 {
        let team = ["", "x-team: a\r\n", "X-Team: \r\n", "x-team: b c\r\n"][dice.next_below(4) as usize];
        requests.push((format!("/a%20b/{}//c?{at}&x=%2F", dice.next_below(50)), team.to_owned()));
    }
    for policy in ["hash $http_x_team", "hash $http_x_team consistent", "hash a${http_x_team}-$request_uri"] {
        let pair = PairSetup::new(policy, &[3, 2, 4]).start();
        replay_through_both(policy, &pair, requests.clone().into_iter());
    }
}

/// A method, a target and header lines.
type RandomHead = (&'static str, String, String);

fn one_of(dice: &mut SeededRng, texts: &[&'static str]) -> &'static str {
    texts[dice.next_below(texts.len() as u64) as usize]
}

/// Returns heads that differ in everything that keys may name, with spellings that are rare.
fn random_head(dice: &mut SeededRng) -> RandomHead {
    let method = one_of(dice, &["GET", "POST", "PUT", "DELETE", "OPTIONS"]);
    let user = dice.next_below(200);
    let args = match dice.next_below(6) {
        0 => String::new(),
        1 => "?".to_owned(),
        2 => format!("?user={user}"),
        3 => format!("?a=b&USER=u{user}&user=2"),
        4 => format!("?user&xuser={user}&user=%2{user}"),
        _ => format!("?xuser={user}"),
    };
    let uri = one_of(dice, &["/v1/a%2Fb/../", "//v1//./", "/v1/x%20", "/V1/"]);
    let client: IpAddr = match dice.next_below(2) {
        0 => Ipv4Addr::from(dice.next_u64() as u32).into(),
        _ => Ipv6Addr::from(u128::from(dice.next_u64()) << 64 | u128::from(user)).into(),
    };
    let cookie = match dice.next_below(5) {
        0 => format!("cookie: sid={user}\r\n"),
        1 => format!("cookie: SID=a{user} ; sid=b\r\n"),
        2 => format!("cookie: xsid=1,sid={user},a;b=c\r\n"),
        3 => format!("cookie: a=b\r\ncookie: sid = {user}\r\n"),
        _ => String::new(),
    };
    let host = one_of(dice, &["a.example", "B.Example.:80", "[::1]:8080", "c_d"]);
    let team = one_of(dice, &["", "x-team: \r\n", "x-team: a b\r\n", "authorization: Basic YWxpY2U6c2VjcmV0\r\n"]);
    let headers = format!(
        "host: {host}{}\r\nx-forwarded-for: {client}\r\ncontent-type: a/{user}\r\n{cookie}{team}",
        if host == "c_d" { user.to_string() } else { String::new() }
    );
    (method, format!("{uri}{user}{args}"), headers)
}

#[test]
#[ignore = "needs nginx: .ci/nginx"]
fn keys_of_every_variable_are_nginx_keys() {
    let mut dice = SeededRng::from_seed(SEED + 9);
    let heads: Vec<RandomHead> = (0..2_000).map(|_| random_head(&mut dice)).collect();
    for policy in [
        "hash $arg_user",
        "hash $arg_user consistent",
        "hash $cookie_sid",
        "hash $cookie_sid consistent",
        "hash $http_cookie",
        "hash $uri",
        "hash $document_uri consistent",
        "hash $host",
        "hash $host consistent",
        "hash $http_host",
        "hash $args",
        "hash $query_string$is_args consistent",
        "hash $request_method",
        "hash $request_method$request",
        "hash $binary_remote_addr",
        "hash $binary_remote_addr consistent",
        "hash $remote_addr$remote_port",
        "hash $proxy_add_x_forwarded_for",
        "hash $scheme$https$host$request_uri",
        "hash $remote_user$http_x_team",
        "hash $Content_Type-$content_length$server_protocol",
        "hash a${arg_user}b$realip_remote_addr",
    ] {
        let pair = PairSetup::new(policy, &[3, 2, 4, 1]).start();
        let mut sides = [ProxySide::connect(pair.nginx.addr), ProxySide::connect(pair.router.addr)];
        let mut picks = PicksPerSide::default();
        for (method, path, headers) in &heads {
            for (side, picks) in sides.iter_mut().zip(picks.iter_mut()) {
                picks.push(side.pick_port_by(method, path, headers));
            }
        }
        assert_same_picks(policy, &picks[0], &picks[1]);
    }
}

#[test]
#[ignore = "needs nginx: .ci/nginx"]
fn least_conn_picks_are_nginx_picks() {
    let mut dice = SeededRng::from_seed(SEED + 5);
    for set in [vec![1, 1, 1], vec![5, 1, 1], vec![3, 2], vec![2, 7, 1, 4]] {
        let setup = PairSetup::new("least_conn", &set).with_options(&[0], "max_conns=9");
        let pair = setup.start();
        let (mut theirs, mut mine) = (Vec::new(), Vec::new());
        let mut running: Vec<[(String, TestClient<_>); 2]> = Vec::new();
        for at in 0..300 {
            if running.len() < 25 && dice.next_below(5) < 3 {
                let open = |side: &str, addr, picks: &mut Vec<u32>| {
                    let name = format!("{side}-{at}");
                    let mut client = TestClient::connect(addr);
                    client.send(build_request("GET", &format!("/hold/{name}"), "", ""));
                    picks.push(u32::from(pair.held_requests.wait_for_arrival(&name)));
                    (name, client)
                };
                let nginx = open("nginx", pair.nginx.addr, &mut theirs);
                running.push([nginx, open("ours", pair.router.addr, &mut mine)]);
            } else if !running.is_empty() {
                for (name, mut client) in running.swap_remove(dice.next_below(running.len() as u64) as usize) {
                    pair.held_requests.release_request(&name);
                    assert_eq!(client.read_response().status, 200);
                }
            }
        }
        for (name, _) in running.into_iter().flatten() {
            pair.held_requests.release_request(&name);
        }
        assert_same_picks(&format!("least_conn {:?} with requests held", setup.server_options), &theirs, &mine);
    }
}

struct DiscardingObserver;

impl LeaseObserver for DiscardingObserver {
    fn on_settled(&self, _: &LeaseReport<'_>) {}
}

/// Returns the router's picks for client addresses that no local socket can use.
fn pick_for_clients(setup: &PairSetup, origins: &[PortOrigin], clients: &[IpAddr]) -> Vec<u32> {
    let settings = config::load(&setup.router_config(origins), "router.toml", []).unwrap().settings;
    let observer: Arc<dyn LeaseObserver> = Arc::new(DiscardingObserver);
    let fleet = Fleet::new(settings.pools, &observer, 1).unwrap();
    let pool = fleet.pools()[0].clone();
    let pick = |client: &IpAddr| {
        let job =
            PolicyRequest { prompt: Tokens(1), output: Tokens(0), key: b"", client_addr: *client, tried_slots: &[] };
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
        let port = u32::from(lease.replica().origin().port());
        lease.settle(Outcome::Completed, Moment::ZERO);
        port
    };
    clients.iter().map(pick).collect()
}

#[test]
#[ignore = "needs nginx: .ci/nginx"]
fn ip_hash_picks_are_nginx_picks() {
    let mut dice = SeededRng::from_seed(SEED + 6);
    let v4 = |dice: &mut SeededRng| IpAddr::V4(Ipv4Addr::from(dice.next_u64() as u32));
    let v6 = |dice: &mut SeededRng| {
        IpAddr::V6(Ipv6Addr::from(u128::from(dice.next_u64()) << 64 | u128::from(dice.next_u64())))
    };
    for n in [2, 3, 10, 50] {
        let set = random_weights(&mut dice, n, 5);
        for down in [vec![], random_subset(&mut dice, n), (2..n).collect()] {
            let count = if down.is_empty() { 5_000 } else { 1_000 };
            let clients: Vec<IpAddr> =
                (0..2 * count).map(|at| if at % 2 == 0 { v4(&mut dice) } else { v6(&mut dice) }).collect();
            let setup = PairSetup::new("ip_hash", &set).with_options(&down, "down");
            let held = Arc::<HeldRequests>::default();
            let origins: Vec<PortOrigin> = set.iter().map(|_| PortOrigin::start(&held)).collect();
            let nginx = PairedNginx::start(&setup, &origins);
            let mut side = ProxySide::connect(nginx.addr);
            let theirs: Vec<u32> =
                clients.iter().map(|client| side.pick_port("/", &format!("x-forwarded-for: {client}\r\n"))).collect();
            let what = format!("ip_hash, {} of {n} replicas down", down.len());
            assert_same_picks(&what, &theirs, &pick_for_clients(&setup, &origins, &clients));
        }
    }
}
