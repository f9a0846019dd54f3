//! nginx and our router with one configuration in front of the same replicas.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::origin::{Held, Origin};
use crate::harness::client::{Client, request};
use crate::harness::{Router, nowhere, wait_until};

/// How the two are set up.
pub(crate) struct Setup {
    /// The policy in our words; nginx's line is the same but for `round_robin`, which is none.
    pub(crate) policy: &'static str,
    /// For each replica the words behind its address: `weight=2 down`.
    pub(crate) servers: Vec<String>,
    /// Whether nginx keeps connections to the replicas.
    pub(crate) keepalive: bool,
}

/// The two and their replicas.
pub(crate) struct Pair {
    pub(crate) origins: Vec<Origin>,
    pub(crate) held: Arc<Held>,
    pub(crate) nginx: Nginx,
    pub(crate) ours: Router,
}

/// An nginx with one process, stopped when dropped.
pub(crate) struct Nginx {
    pub(crate) addr: SocketAddr,
    child: Child,
    dir: PathBuf,
}

impl Setup {
    pub(crate) fn new(policy: &'static str, weights: &[u32]) -> Self {
        let servers = weights.iter().map(|weight| format!("weight={weight}")).collect();
        Self { policy, servers, keepalive: true }
    }

    /// Adds words to the replicas at these places.
    pub(crate) fn with(mut self, at: &[usize], words: &str) -> Self {
        for at in at {
            let _ = write!(self.servers[*at], " {words}");
        }
        self
    }

    /// Starts everything.
    pub(crate) fn start(&self) -> Pair {
        let held = Arc::<Held>::default();
        let origins: Vec<Origin> = self.servers.iter().map(|_| Origin::start(&held)).collect();
        let nginx = Nginx::start(self, &origins);
        let ours = Router::start(&self.ours(&origins));
        Pair { origins, held, nginx, ours }
    }

    /// Our configuration.
    pub(crate) fn ours(&self, origins: &[Origin]) -> String {
        let replica = |(words, origin): (&String, &Origin)| format!("\"http://127.0.0.1:{} {words}\"", origin.port);
        let replicas: Vec<String> = self.servers.iter().zip(origins).map(replica).collect();
        format!("paths = \"any\"\npolicy = \"{}\"\nreplicas = [{}]\n", self.policy, replicas.join(", "))
    }

    fn nginx(&self, addr: SocketAddr, dir: &str, origins: &[Origin]) -> String {
        let method = if self.policy == "round_robin" { String::new() } else { format!("{};", self.policy) };
        let server = |(words, origin): (&String, &Origin)| format!("server 127.0.0.1:{} {words};", origin.port);
        let servers: Vec<String> = self.servers.iter().zip(origins).map(server).collect();
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

impl Nginx {
    pub(crate) fn start(setup: &Setup, origins: &[Origin]) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("tokenweir-nginx-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let addr = nowhere();
        let file = dir.join("nginx.conf");
        fs::write(&file, setup.nginx(addr, dir.to_str().unwrap(), origins)).unwrap();
        let mut command = Command::new(program());
        command.arg("-p").arg(&dir).arg("-e").arg(dir.join("error.log")).arg("-c").arg(&file);
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        let nginx = Self { addr, child, dir };
        wait_until("nginx listens", || TcpStream::connect(addr).is_ok());
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // One that could not start has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The nginx on the PATH, or where Debian puts it.
fn program() -> &'static str {
    let runs = |path: &&str| Command::new(path).arg("-v").stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    ["nginx", "/usr/sbin/nginx"].into_iter().find(runs).expect("nginx is installed: .ci/nginx does that")
}

/// One of the two as a client sees it, over one kept connection.
pub(crate) struct Side(Client<TcpStream>, SocketAddr);

impl Side {
    pub(crate) fn of(addr: SocketAddr) -> Self {
        Self(Client::connect(addr), addr)
    }

    /// The port of the replica that answered; 0 if none did, whatever the status (nginx says 502 where we say 503).
    pub(crate) fn pick(&mut self, path: &str, headers: &str) -> u32 {
        self.0.send(request("GET", path, headers, ""));
        let reply = self.0.reply();
        if reply.status == 200 {
            return reply.text().parse().unwrap();
        }
        // Both may close a connection after an error.
        self.0 = Client::connect(self.1);
        assert!(reply.status >= 500, "{}", reply.head);
        0
    }
}

/// Counts the picks that differ, and fails if there are any.
pub(crate) fn assert_same(what: &str, theirs: &[u32], ours: &[u32]) {
    assert_eq!(theirs.len(), ours.len());
    let differing: Vec<usize> = (0..ours.len()).filter(|at| theirs[*at] != ours[*at]).collect();
    println!("{:>7} picks, {} differ: {what}", ours.len(), differing.len());
    if let Some(first) = differing.first() {
        let around = first.saturating_sub(5)..(first + 10).min(ours.len());
        panic!("from {first}: nginx {:?}, ours {:?}", &theirs[around.clone()], &ours[around]);
    }
}
