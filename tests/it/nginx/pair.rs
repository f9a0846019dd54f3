//! nginx and the router with the same configuration over the same replicas.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::origin::{HeldRequests, PortOrigin};
use crate::harness::client::{TestClient, build_request};
use crate::harness::{TestRouter, unused_addr, wait_until};

/// The configuration of both.
pub(crate) struct PairSetup {
    /// The policy in the router's syntax. nginx's line is the same, except that `round_robin` has none.
    pub(crate) policy: &'static str,
    /// The options of each replica: `weight=2 down`.
    pub(crate) server_options: Vec<String>,
    /// Whether nginx keeps connections to the replicas.
    pub(crate) keepalive: bool,
}

/// nginx, the router and their replicas.
pub(crate) struct ProxyPair {
    pub(crate) origins: Vec<PortOrigin>,
    pub(crate) held_requests: Arc<HeldRequests>,
    pub(crate) nginx: PairedNginx,
    pub(crate) router: TestRouter,
}

/// A single-process nginx, stopped on drop.
pub(crate) struct PairedNginx {
    pub(crate) addr: SocketAddr,
    child: Child,
    folder: PathBuf,
}

impl PairSetup {
    pub(crate) fn new(policy: &'static str, weights: &[u32]) -> Self {
        let servers = weights.iter().map(|weight| format!("weight={weight}")).collect();
        Self { policy, server_options: servers, keepalive: true }
    }

    /// Adds options to the replicas at these positions.
    pub(crate) fn with_options(mut self, at: &[usize], words: &str) -> Self {
        for at in at {
            let _ = write!(self.server_options[*at], " {words}");
        }
        self
    }

    /// Starts the replicas, nginx and the router.
    pub(crate) fn start(&self) -> ProxyPair {
        let held = Arc::<HeldRequests>::default();
        let origins: Vec<PortOrigin> = self.server_options.iter().map(|_| PortOrigin::start(&held)).collect();
        let nginx = PairedNginx::start(self, &origins);
        let ours = TestRouter::start(&self.router_config(&origins));
        ProxyPair { origins, held_requests: held, nginx, router: ours }
    }

    /// Returns the router's configuration.
    pub(crate) fn router_config(&self, origins: &[PortOrigin]) -> String {
        let replica = |(words, origin): (&String, &PortOrigin)| format!("\"http://127.0.0.1:{} {words}\"", origin.port);
        let replicas: Vec<String> = self.server_options.iter().zip(origins).map(replica).collect();
        let trusted = "trusted_proxies = [\"127.0.0.1\"]";
        format!("{trusted}\npaths = \"any\"\npolicy = \"{}\"\nreplicas = [{}]\n", self.policy, replicas.join(", "))
    }

    fn nginx_config(&self, addr: SocketAddr, dir: &str, origins: &[PortOrigin]) -> String {
        let method = if self.policy == "round_robin" { String::new() } else { format!("{};", self.policy) };
        let server = |(words, origin): (&String, &PortOrigin)| format!("server 127.0.0.1:{} {words};", origin.port);
        let servers: Vec<String> = self.server_options.iter().zip(origins).map(server).collect();
        let servers = servers.join("\n    ");
        let (keep, close) =
            if self.keepalive { ("keepalive 100; keepalive_requests 1000000;", "\"\"") } else { ("", "close") };
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("  {kind}_temp_path {dir}/{kind};\n"))
            .collect();
        format!(
            "daemon off;\nmaster_process off;\npid {dir}/pid;\nerror_log {dir}/error.log warn;\n\
             events {{ worker_connections 4096; }}\nhttp {{\n{temp}  access_log off;\n  keepalive_requests 1000000;\n\
               upstream origin {{\n    {method}\n    {servers}\n    {keep}\n  }}\n\
               server {{\n    listen {addr};\n    set_real_ip_from 127.0.0.1;\n    real_ip_header X-Forwarded-For;\n\
                 location / {{\n      proxy_pass http://origin;\n      proxy_http_version 1.1;\n\
                   proxy_set_header Connection {close};\n      proxy_next_upstream_tries 0;\n    }}\n  }}\n}}\n"
        )
    }
}

impl PairedNginx {
    pub(crate) fn start(setup: &PairSetup, origins: &[PortOrigin]) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("tokenweir-nginx-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let addr = unused_addr();
        let file = dir.join("nginx.conf");
        fs::write(&file, setup.nginx_config(addr, dir.to_str().unwrap(), origins)).unwrap();
        let mut command = Command::new(find_nginx());
        command.arg("-p").arg(&dir).arg("-e").arg(dir.join("error.log")).arg("-c").arg(&file);
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        let nginx = Self { addr, child, folder: dir };
        wait_until("nginx listens", || TcpStream::connect(addr).is_ok());
        nginx
    }
}

impl Drop for PairedNginx {
    fn drop(&mut self) {
        // A process that failed to start has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Returns the nginx on the PATH, or Debian's.
fn find_nginx() -> &'static str {
    let runs = |path: &&str| Command::new(path).arg("-v").stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    ["nginx", "/usr/sbin/nginx"].into_iter().find(runs).expect("nginx is installed: .ci/nginx does that")
}

/// A client of one of the two, over one kept connection.
pub(crate) struct ProxySide(TestClient<TcpStream>, SocketAddr);

impl ProxySide {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        Self(TestClient::connect(addr), addr)
    }

    /// Sends a request; returns the port of the replica that answered, or 0 if none did. The status is ignored: nginx
    /// says 502 where the router says 503.
    pub(crate) fn pick_port(&mut self, path: &str, headers: &str) -> u32 {
        self.pick_port_by("GET", path, headers)
    }

    /// As `pick_port`, with another method.
    pub(crate) fn pick_port_by(&mut self, method: &str, path: &str, headers: &str) -> u32 {
        self.0.send(build_request(method, path, headers, ""));
        let reply = self.0.read_response();
        if reply.status == 200 {
            return reply.text().parse().unwrap();
        }
        // Both may close a connection after an error.
        self.0 = TestClient::connect(self.1);
        assert!(reply.status >= 500, "{}", reply.head);
        0
    }
}

/// Fails if any pick differs, with the number of differences.
pub(crate) fn assert_same_picks(what: &str, theirs: &[u32], ours: &[u32]) {
    assert_eq!(theirs.len(), ours.len());
    let differing: Vec<usize> = (0..ours.len()).filter(|at| theirs[*at] != ours[*at]).collect();
    println!("{:>7} picks, {} differ: {what}", ours.len(), differing.len());
    if let Some(first) = differing.first() {
        let around = first.saturating_sub(5)..(first + 10).min(ours.len());
        panic!("from {first}: nginx {:?}, ours {:?}", &theirs[around.clone()], &ours[around]);
    }
}
