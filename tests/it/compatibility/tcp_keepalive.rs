//! TCP keep-alive, without which a firewall forgets a connection on which a long answer is awaited.

use std::io::Read;
use std::net::SocketAddr;

use crate::harness::client::build_request;
use crate::harness::scripted::ScriptedReplica;
use crate::harness::{TestRouter, chat_body, wait_until};

/// Which end of a connection has an address.
#[derive(Clone, Copy, Debug)]
enum SocketEnd {
    Local,
    Remote,
}

/// Returns the seconds until the keep-alive probe of each IPv4 connection with this address at this end; 0 for a
/// connection without probes. From `/proc/net/tcp`.
fn probe_times(end: SocketEnd, addr: SocketAddr) -> Vec<u64> {
    const ESTABLISHED: &str = "01";
    const KEEPALIVE_TIMER: &str = "02";
    let port = format!(":{:04X}", addr.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let connections = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[_, local, remote, state, _, timer, ..] = fields.as_slice() else { return None };
        let this = match end {
            SocketEnd::Local => local,
            SocketEnd::Remote => remote,
        };
        let (kind, ticks) = timer.split_once(':')?;
        let seconds = if kind == KEEPALIVE_TIMER { u64::from_str_radix(ticks, 16).ok()?.div_ceil(100) } else { 0 };
        (this.ends_with(&port) && state == ESTABLISHED).then_some(seconds)
    });
    connections.collect()
}

#[test]
fn connections_of_clients_and_to_replicas_are_probed() {
    for (key, expected) in [("", 41..=60), ("tcp_keepalive = \"30s\"", 11..=30), ("tcp_keepalive = 0", 0..=0)] {
        let replica = ScriptedReplica::start(&["m"], |_, to| {
            while to.read(&mut [0; 64]).is_ok_and(|read| read > 0) {}
            false
        });
        let router = TestRouter::start(&format!("replicas = [{:?}]\n[timeouts]\n{key}", replica.url()));
        let router = router.wait_until_ready();
        let mut client = router.connect();
        client.send(build_request("POST", "/v1/chat/completions", "", chat_body("m", 2, false)));
        wait_until("the replica has the request", || replica.received_requests().len() == 1);
        for (end, addr) in [(SocketEnd::Local, router.addr), (SocketEnd::Remote, replica.addr)] {
            wait_until(&format!("{key} {end:?}: a probe in {expected:?} s"), || {
                let times = probe_times(end, addr);
                times.len() == 1 && expected.contains(&times[0])
            });
        }
    }
}
