//! Comparison of nginx with the router on an imported configuration.
//! Both get the same requests over the same replicas, nginx with the original file and the router with the import.
//! Each request must reach the same replicas with the same headers and return the same status. Needs nginx:
//! `.ci/nginx-import`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::harness::client::{TestClient, build_request};
use crate::harness::scripted::{ReceivedRequest, ScriptedReplica, build_response};
use crate::harness::{TEST_TIMEOUT, unused_addr, wait_until};
use tokenweir::balance::SeededRng;
use tokenweir::config;
use tokenweir::fleet::ReplicaModels;
use tokenweir::import;
use tokenweir::server::Server;

const REQUEST_COUNT: usize = 200;
const SEED: u64 = 20_261_123;

/// The outcome of a request on one side.
struct SideOutcome {
    /// 0 if the connection ended without a response.
    status: u16,
    /// The requests that reached replicas, each with the replica's port in the configuration.
    received: Vec<(u16, ReceivedRequest)>,
}

impl SideOutcome {
    fn received_ports(&self) -> Vec<u16> {
        self.received.iter().map(|(port, _)| *port).collect()
    }

    /// Returns the ports of the chosen replicas, in order.
    fn picked_ports(&self) -> Vec<u16> {
        let mut ports = self.received_ports();
        ports.dedup();
        ports
    }
}

/// A request and its outcome on both sides.
struct ComparedRequest<'a> {
    method: &'static str,
    target: &'a str,
    conf_name: &'a str,
    nginx: &'a SideOutcome,
    router: &'a SideOutcome,
}

/// An intended difference.
struct IntendedDifference {
    name: &'static str,
    reason: &'static str,
    /// Returns whether it explains different picks or a different status.
    explains_course: fn(&ComparedRequest<'_>) -> bool,
    /// Returns whether it explains a different header: the request, the name, and both values.
    explains_header: fn(&ComparedRequest<'_>, &str, &[String], &[String]) -> bool,
}

const EXPLAINS_NO_COURSE: fn(&ComparedRequest<'_>) -> bool = |_| false;
const EXPLAINS_NO_HEADER: fn(&ComparedRequest<'_>, &str, &[String], &[String]) -> bool = |_, _, _, _| false;

/// All intended differences; any other difference fails the test.
const INTENDED_DIFFERENCES: [IntendedDifference; 10] = [
    IntendedDifference {
        name: "re-sent on a fresh connection",
        reason: "a kept connection that closes without a byte is replaced, at the same replica; nginx goes to the next",
        explains_course: |case| {
            case.nginx.status == case.router.status && case.nginx.picked_ports() == case.router.picked_ports()
        },
        explains_header: EXPLAINS_NO_HEADER,
    },
    IntendedDifference {
        name: "POST passed on",
        reason: "a request without a response byte is retried once, POSTs too: every LLM call is a POST",
        explains_course: |case| case.method == "POST" && case.target.starts_with("/close") && case.nginx.status == 502,
        explains_header: EXPLAINS_NO_HEADER,
    },
    IntendedDifference {
        name: "next replica always",
        reason: "proxy_next_upstream off and lists without a reason cannot be carried: a failure leads to the next replica",
        explains_course: |case| {
            case.conf_name == "no_next" && case.nginx.status >= 500 && case.nginx.received.len() < 2
        },
        explains_header: EXPLAINS_NO_HEADER,
    },
    IntendedDifference {
        name: "two attempts after the request was sent",
        reason: "a request that fails twice is at fault; nginx tries every server",
        explains_course: |case| {
            let sent = case.target.starts_with("/500") || case.target.starts_with("/close");
            sent && case.router.picked_ports().len() == 2 && case.nginx.picked_ports().len() != 2
        },
        explains_header: EXPLAINS_NO_HEADER,
    },
    IntendedDifference {
        name: "503 without a listener",
        reason: "no connection to any replica: 503 with Retry-After, where nginx says 502",
        explains_course: |case| {
            (case.nginx.status, case.router.status) == (502, 503) && case.router.received.is_empty()
        },
        explains_header: EXPLAINS_NO_HEADER,
    },
    IntendedDifference {
        name: "connections to replicas are kept",
        reason: "nginx sends Connection: close by default",
        explains_course: EXPLAINS_NO_COURSE,
        explains_header: |_, name, nginx, ours| name == "connection" && nginx == ["close"] && ours.is_empty(),
    },
    IntendedDifference {
        name: "Host of replicas",
        reason: "without proxy_set_header Host the header names the replica's address, not the upstream",
        explains_course: EXPLAINS_NO_COURSE,
        explains_header: |_, name, nginx, ours| {
            let ours = ours.first().is_some_and(|host| host.parse::<SocketAddr>().is_ok());
            name == "host" && nginx.iter().all(|host| !host.contains('.') || host.starts_with("127.")) && ours
        },
    },
    IntendedDifference {
        name: "the client's address is always sent",
        reason: "X-Real-IP, X-Forwarded-* and X-Request-Id are sent where nginx is not configured to",
        explains_course: EXPLAINS_NO_COURSE,
        explains_header: |case, name, nginx, _| {
            let ours = ["x-real-ip", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-request-id"];
            let client_said = name == "x-real-ip" && nginx == ["6.6.6.6"];
            ours.contains(&name) && (nginx.is_empty() || client_said || !sets_header(case.conf_name, name))
        },
    },
    IntendedDifference {
        name: "API responses are requested uncompressed",
        reason: "so that their token counts can be read",
        explains_course: EXPLAINS_NO_COURSE,
        explains_header: |case, name, _, ours| {
            name == "accept-encoding" && ours.is_empty() && case.target.contains("/v1/")
        },
    },
    IntendedDifference {
        name: "headers with _",
        reason: "underscores_in_headers is off in nginx, which drops such headers",
        explains_course: EXPLAINS_NO_COURSE,
        explains_header: |_, name, nginx, _| name.contains('_') && nginx.is_empty(),
    },
];

fn fixture_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nginx-import")
}

fn read_fixture(conf: &str) -> String {
    fs::read_to_string(fixture_dir().join(conf).with_extension("conf")).unwrap()
}

/// Returns whether a configuration sets a request header.
fn sets_header(conf: &str, name: &str) -> bool {
    read_fixture(conf).to_ascii_lowercase().contains(&format!("proxy_set_header {name} "))
}

/// Returns the words of a comment `# KEY: WORD ...`.
fn comment_words<'a>(conf: &'a str, key: &str) -> Vec<&'a str> {
    let start = format!("# {key}: ");
    conf.lines().find_map(|line| line.strip_prefix(start.as_str())).unwrap_or_default().split(' ').collect()
}

/// The replicas of all configurations, by their port in the configuration. Ports 9008 and 9009 have no listener.
struct FixtureReplicas(BTreeMap<u16, ScriptedReplica>, BTreeMap<u16, SocketAddr>);

impl FixtureReplicas {
    fn start() -> Self {
        let live: BTreeMap<u16, ScriptedReplica> =
            (9001..=9007).map(|port| (port, start_fixture_replica(port))).collect();
        let mut all: BTreeMap<u16, SocketAddr> = live.iter().map(|(port, replica)| (*port, replica.addr)).collect();
        all.extend([9008, 9009].map(|port| (port, unused_addr())));
        Self(live, all)
    }

    /// Replaces the ports of a configuration with the real ones.
    fn replace_ports(&self, conf: &str) -> String {
        let conf = conf.replace("[::1]:9003", "127.0.0.1:9003");
        self.1.iter().fold(conf, |conf, (port, addr)| conf.replace(&format!("127.0.0.1:{port}"), &addr.to_string()))
    }

    /// Returns the number of requests that each replica has received.
    fn received_counts(&self) -> BTreeMap<u16, usize> {
        self.0.iter().map(|(port, replica)| (*port, replica.received_requests().len())).collect()
    }

    fn received_since(&self, marks: &BTreeMap<u16, usize>) -> Vec<(u16, ReceivedRequest)> {
        let new = |(port, replica): (&u16, &ScriptedReplica)| {
            let received = replica.received_requests().split_off(marks[port]);
            received.into_iter().map(|received| (*port, received)).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(new).collect()
    }
}

/// Starts a replica that fails on request: all but the last close on `/close`; all answer 500 to `/500`.
fn start_fixture_replica(port: u16) -> ScriptedReplica {
    ScriptedReplica::start(&["m"], move |received, to| {
        let target = received.target();
        if target.starts_with("/close") && port != 9007 {
            return false;
        }
        let status = if target.starts_with("/500") {
            500
        } else if target == "/404" {
            404
        } else {
            200
        };
        // nginx speaks HTTP/1.0 and closes by default.
        let keep = received.head.contains("HTTP/1.1") && received.header("connection") != Some("close");
        to.write_all(&build_response(status, "application/json", "{}")).is_ok() && keep
    })
}

/// A connection over TCP or TLS.
trait ByteStream: Read + Write {}
impl<T: Read + Write> ByteStream for T {}

/// An address of one of the two servers.
#[derive(Clone, Debug)]
enum ServerAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl ServerAddress {
    fn try_connect(&self) -> std::io::Result<Box<dyn ByteStream>> {
        Ok(match self {
            Self::Tcp(addr) => {
                let stream = TcpStream::connect(addr)?;
                stream.set_read_timeout(Some(TEST_TIMEOUT))?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(TEST_TIMEOUT))?;
                Box::new(stream)
            }
        })
    }
}

/// Replaces the listen addresses of a configuration with free ones.
fn assign_addresses(conf: &str, folder: &Path, side: &str) -> (String, Vec<ServerAddress>) {
    let mut conf = conf.to_owned();
    let mut all = Vec::new();
    if conf.contains("listen 127.0.0.1:8080") {
        let addr = unused_addr();
        conf = conf.replace("listen 127.0.0.1:8080", &format!("listen {addr}"));
        all.push(ServerAddress::Tcp(addr));
    }
    if conf.contains("listen [::1]:8081") {
        let addr = TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap();
        conf = conf.replace("listen [::1]:8081", &format!("listen {addr}"));
        all.push(ServerAddress::Tcp(addr));
    }
    if conf.contains("unix:/tmp/tokenweir-8082.sock") {
        let path = folder.join(format!("{side}.sock"));
        conf = conf.replace("/tmp/tokenweir-8082.sock", &path.display().to_string());
        all.push(ServerAddress::Unix(path));
    }
    (conf, all)
}

/// An nginx process, stopped on drop.
struct ImportedNginx(Child);

impl ImportedNginx {
    fn start(conf: &str, folder: &Path) -> Self {
        let dir = folder.display();
        let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temp: String = kinds.iter().map(|kind| format!(" {kind}_temp_path {dir}/{kind};")).collect();
        let conf = conf.replacen("http {", &format!("http {{ access_log off;{temp}"), 1);
        let file = folder.join("nginx.conf");
        fs::write(&file, conf).unwrap();
        let program = if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
        let mut command = Command::new(program);
        let own = format!("daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log;");
        command.arg("-p").arg(folder).arg("-e").arg(folder.join("error.log")).arg("-c").arg(&file).arg("-g").arg(own);
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for ImportedNginx {
    fn drop(&mut self) {
        // A process that failed to start has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a router on an imported configuration.
fn start_imported_router(conf: &str, folder: &Path) -> (Server, import::ImportedConfig) {
    let file = folder.join("ours.conf");
    fs::write(&file, conf).unwrap();
    let imported = import::from_nginx_file(&file).unwrap_or_else(|report| panic!("{report}"));
    let env = [("ADMIN", "127.0.0.1:0"), ("LOG__ERROR", "off"), ("LOG__ACCESS", "off")];
    let env = env.map(|(key, value)| (format!("TOKENWEIR__{key}"), value.to_owned()));
    let loaded = config::load(&imported.toml, "router.toml", env).unwrap();
    (Server::start(loaded.settings).unwrap(), imported)
}

/// Returns a random request as bytes, with its method and target.
fn random_request(conf: &str, dice: &mut SeededRng) -> (Vec<u8>, &'static str, String) {
    let (hosts, paths) = (comment_words(conf, "hosts"), comment_words(conf, "paths"));
    let mut any = |n: usize| dice.next_below(n as u64) as usize;
    let (host, target) = (hosts[any(hosts.len())], paths[any(paths.len())]);
    let is_api = target.starts_with("/team/");
    let method = if is_api || any(2) == 0 { "POST" } else { "GET" };
    let mut headers = format!("Host: {host}\r\n");
    for (line, one_in) in [
        (format!("X-Session: s{}", any(20)), 2),
        (format!("X-Forwarded-For: {}.{}.3.4", any(200) + 1, any(256)), 2),
        (format!("Cookie: a=1; sid=c{}", any(5)), 3),
        ("X-Real-IP: 6.6.6.6".to_owned(), 4),
        ("Accept-Encoding: gzip, br".to_owned(), 4),
        ("User-Agent: script/1.0 (\"quoted\")".to_owned(), 2),
        ("Authorization: Basic YWxpY2U6c2VjcmV0".to_owned(), 4),
        ("x_under: 1".to_owned(), 8),
        ("X-Level: client".to_owned(), 4),
        ("X-Absent-Not: \u{e9}".to_owned(), 8),
        ("TE: trailers".to_owned(), 0),
    ] {
        if one_in > 0 && any(one_in) == 0 {
            headers += &format!("{line}\r\n");
        }
    }
    let body = if method == "POST" { r#"{"model":"m","messages":[]}"# } else { "" };
    (build_request(method, target, &headers, body), method, target.to_owned())
}

/// Sends all requests to the addresses in turn.
fn send_requests(
    at: &[ServerAddress],
    requests: &[(Vec<u8>, &'static str, String)],
    replicas: &FixtureReplicas,
) -> Vec<SideOutcome> {
    let mut links: Vec<Option<TestClient<Box<dyn ByteStream>>>> = at.iter().map(|_| None).collect();
    let mut all = Vec::new();
    for (i, (bytes, ..)) in requests.iter().enumerate() {
        let marks = replicas.received_counts();
        let which = i % at.len();
        let client = links[which].get_or_insert_with(|| TestClient::from_stream(at[which].try_connect().unwrap()));
        client.send(bytes);
        let reply = client.try_read_head();
        let status = reply.as_ref().map_or(0, |reply| reply.status);
        drop(reply.as_ref().map(|_| client.read_remaining_body()));
        let closes = reply.is_none_or(|reply| reply.header("connection").is_some_and(|kind| kind == "close"));
        if closes || status >= 400 {
            links[which] = None;
        }
        all.push(SideOutcome { status, received: replicas.received_since(&marks) });
    }
    all
}

/// Returns header values by name, values in order.
fn header_lines(received: &ReceivedRequest) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in received.head.lines().skip(1).filter_map(|line| line.split_once(':')) {
        all.entry(name.to_ascii_lowercase()).or_default().push(value.trim().to_owned());
    }
    all
}

/// Compares one request. Counts its intended differences and returns all others.
fn compare_request(case: &ComparedRequest<'_>, meant: &mut BTreeMap<&'static str, usize>) -> Vec<String> {
    let mut other = Vec::new();
    let mut used = Vec::new();
    let (theirs, own) =
        ((case.nginx.status, case.nginx.received_ports()), (case.router.status, case.router.received_ports()));
    if theirs != own {
        match INTENDED_DIFFERENCES.iter().find(|row| (row.explains_course)(case)) {
            Some(row) => used.push(row.name),
            None => other.push(format!("status and replicas {theirs:?}, ours {own:?}")),
        }
    }
    if let (Some((_, nginx)), Some((_, ours))) = (case.nginx.received.first(), case.router.received.first()) {
        if (nginx.method(), nginx.target(), &nginx.body) != (ours.method(), ours.target(), &ours.body) {
            other.push(format!("{} {}, ours {} {}", nginx.method(), nginx.target(), ours.method(), ours.target()));
        }
        let (nginx, ours) = (header_lines(nginx), header_lines(ours));
        let mut names: Vec<&String> = nginx.keys().chain(ours.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let none = Vec::new();
            let (nginx, ours) = (nginx.get(name).unwrap_or(&none), ours.get(name).unwrap_or(&none));
            if nginx == ours {
                continue;
            }
            match INTENDED_DIFFERENCES.iter().find(|row| (row.explains_header)(case, name, nginx, ours)) {
                Some(row) => used.push(row.name),
                None => other.push(format!("{name}: {nginx:?}, ours {ours:?}")),
            }
        }
    }
    used.sort_unstable();
    used.dedup();
    used.into_iter().for_each(|what| *meant.entry(what).or_default() += 1);
    other
}

#[test]
#[ignore = "needs nginx: .ci/nginx-import"]
fn imported_configuration_behaves_as_nginx() {
    let replicas = FixtureReplicas::start();
    let mut confs: Vec<String> = fs::read_dir(fixture_dir())
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".conf").map(str::to_owned))
        .collect();
    confs.sort();
    assert!(confs.len() >= 15);
    let (mut total, mut meant, mut faults) = (0, BTreeMap::new(), Vec::new());
    println!("{:<16} {:>8} {:>5} {:>9}", "configuration", "requests", "meant", "differing");
    for name in &confs {
        let dir = std::env::temp_dir().join(format!("tokenweir-nginx-import-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let conf = read_fixture(name);
        let (theirs, nginx_at) = assign_addresses(&replicas.replace_ports(&conf), &dir, "nginx");
        let (own, ours_at) = assign_addresses(&replicas.replace_ports(&conf), &dir, "ours");
        let nginx = ImportedNginx::start(&theirs, &dir);
        wait_until("nginx listens", || nginx_at.iter().all(|at| at.try_connect().is_ok()));
        let (server, _) = start_imported_router(&own, &dir);
        let unknown = |pool: &std::sync::Arc<tokenweir::fleet::Pool>| {
            let any = *pool.path_policy() == tokenweir::fleet::PathPolicy::Any;
            !any && pool.replicas().any(|replica| *replica.models() == ReplicaModels::Unknown)
        };
        wait_until("the replicas are known", || !server.fleet().pools().iter().any(unknown));
        let mut dice = SeededRng::from_seed(SEED);
        let requests: Vec<_> = (0..REQUEST_COUNT).map(|_| random_request(&conf, &mut dice)).collect();
        let seen = (send_requests(&nginx_at, &requests, &replicas), send_requests(&ours_at, &requests, &replicas));
        let before = faults.len();
        let mut here = BTreeMap::new();
        let mut with_meant = 0;
        for (i, (_, method, target)) in requests.iter().enumerate() {
            let case = ComparedRequest { method, target, conf_name: name, nginx: &seen.0[i], router: &seen.1[i] };
            let mut this = BTreeMap::new();
            let other = compare_request(&case, &mut this);
            with_meant += usize::from(!this.is_empty());
            this.into_iter().for_each(|(what, n)| *here.entry(what).or_insert(0) += n);
            faults.extend((!other.is_empty()).then(|| format!("{name} {i}: {method} {target}: {}", other.join("; "))));
        }
        println!("{name:<16} {:>8} {with_meant:>5} {:>9}", requests.len(), faults.len() - before);
        here.into_iter().for_each(|(what, n)| *meant.entry(what).or_insert(0) += n);
        total += requests.len();
        drop((server, nginx));
        fs::remove_dir_all(&dir).unwrap();
    }
    println!("{total} requests, {} differing; differences that are meant, by requests:", faults.len());
    for IntendedDifference { name: what, reason: why, .. } in &INTENDED_DIFFERENCES {
        println!("{:>6}  {what}: {why}", meant.get(what).unwrap_or(&0));
    }
    let shown = faults.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(faults.is_empty(), "{} differ:\n{shown}", faults.len());
    // A kept connection exists only on the worker that used it.
    let never: Vec<&str> =
        INTENDED_DIFFERENCES.iter().skip(1).map(|row| row.name).filter(|what| !meant.contains_key(what)).collect();
    assert!(never.is_empty(), "listed and never seen: {never:?}");
}
