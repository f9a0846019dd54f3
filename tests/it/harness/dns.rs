//! A DNS server over UDP with records set by the test.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tokenweir::clock::Clock;
use tokenweir::units::Moment;

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const TYPE_SRV: u16 = 33;

#[derive(Default)]
struct DnsZone {
    ttl: u32,
    /// Record data by name and type.
    records: BTreeMap<(String, u16), Vec<Vec<u8>>>,
    /// Whether every query fails.
    fails: bool,
    /// Names and times of the A queries so far.
    address_queries: Vec<(String, Moment)>,
}

pub struct TestDnsServer {
    pub addr: SocketAddr,
    zone: Arc<Mutex<DnsZone>>,
}

impl TestDnsServer {
    /// Starts a server that runs until the test process ends.
    pub fn start(ttl: u32) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = socket.local_addr().unwrap();
        let zone = Arc::new(Mutex::new(DnsZone { ttl, ..DnsZone::default() }));
        let serving = zone.clone();
        let clock = Clock::start();
        thread::spawn(move || {
            let mut packet = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                let answer = build_answer(&packet[..length], &mut serving.lock().unwrap(), clock.now());
                socket.send_to(&answer, from).unwrap();
            }
        });
        Self { addr, zone }
    }

    /// Returns the `resolver` configuration lines.
    pub fn resolver_config(&self) -> String {
        format!("resolver = \"{}\"\nresolver_timeout = \"5s\"\n", self.addr)
    }

    /// Sets the addresses of a name.
    pub fn set_addresses(&self, name: &str, addresses: &[&str]) {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let mut zone = self.zone.lock().unwrap();
        let data = |wanted: fn(&IpAddr) -> bool| {
            let bytes = |address: &IpAddr| match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            addresses.iter().filter(|address| wanted(address)).map(bytes).collect::<Vec<_>>()
        };
        zone.records.insert((name.to_owned(), TYPE_A), data(IpAddr::is_ipv4));
        zone.records.insert((name.to_owned(), TYPE_AAAA), data(IpAddr::is_ipv6));
    }

    /// Sets the services of a name: priority, weight, port and host of each.
    pub fn set_services(&self, name: &str, services: &[(u16, u16, u16, &str)]) {
        let record = |(priority, weight, port, host): &(u16, u16, u16, &str)| {
            let numbers = [priority, weight, port].into_iter().flat_map(|n| n.to_be_bytes());
            let labels = host.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
            numbers.chain(labels).chain([0]).collect()
        };
        self.zone.lock().unwrap().records.insert((name.to_owned(), TYPE_SRV), services.iter().map(record).collect());
    }

    pub fn set_ttl(&self, ttl: u32) {
        self.zone.lock().unwrap().ttl = ttl;
    }

    pub fn set_failing(&self, broken: bool) {
        self.zone.lock().unwrap().fails = broken;
    }

    /// Returns the intervals between the address queries for a name.
    pub fn query_intervals(&self, name: &str) -> Vec<Duration> {
        let zone = self.zone.lock().unwrap();
        let queries: Vec<Moment> =
            zone.address_queries.iter().filter(|(queried, _)| queried == name).map(|(_, at)| *at).collect();
        queries.windows(2).map(|pair| pair[1].since(pair[0])).collect()
    }
}

fn build_answer(question: &[u8], zone: &mut DnsZone, now: Moment) -> Vec<u8> {
    let mut at = 12;
    let mut labels = Vec::new();
    while question[at] != 0 {
        let end = at + 1 + usize::from(question[at]);
        labels.push(String::from_utf8(question[at + 1..end].to_vec()).unwrap());
        at = end;
    }
    let name = labels.join(".").to_ascii_lowercase();
    let kind = u16::from_be_bytes([question[at + 1], question[at + 2]]);
    let query = &question[12..at + 5];
    if kind == TYPE_A {
        zone.address_queries.push((name.clone(), now));
    }
    let records = zone.records.get(&(name, kind)).cloned().unwrap_or_default();
    let records = if zone.fails { Vec::new() } else { records };
    // A response with recursion available, or SERVFAIL.
    let mut out = [&question[..2], &[0x81, if zone.fails { 0x82 } else { 0x80 }, 0, 1]].concat();
    out.extend((records.len() as u16).to_be_bytes());
    out.extend([0; 4]);
    out.extend(query);
    for data in records {
        // A compression pointer to the query's name.
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1]);
        out.extend(zone.ttl.to_be_bytes());
        out.extend((data.len() as u16).to_be_bytes());
        out.extend(data);
    }
    out
}
