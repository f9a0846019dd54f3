//! The control group: with `PROMISES_NGINX=1` an nginx replaces the router, with the closest possible configuration.
//! A suite that nginx passes entirely would be too weak. `.ci/promises-nginx` runs it and counts.
//!
//! Some tests need features that nginx lacks and cannot be compared; such a test ends with [`BEYOND_NGINX`].

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokenweir::config::{self, Settings};
use tokenweir::fleet::{MemberSpec, PathPolicy, PoolSpec, TrustRoots};

use crate::harness::{router_env, unused_addr, wait_until};

/// The prefix of the panic message of a test that nginx cannot run.
pub const BEYOND_NGINX: &str = "beyond nginx:";

/// Keys without an equivalent in nginx.
const UNSUPPORTED_KEYS: [&str; 7] =
    ["[[key]]", "in_flight_bytes", "connections =", "slow_start", "health_check =", "tokens =", "stall_timeout ="];

/// The API's paths; all other paths of a replica are closed.
const API_LOCATION: &str = "~ ^/v1/(chat/completions|completions|embeddings|messages|models(/.*)?|responses(/.*)?)$";

/// An nginx process; stopped on drop.
pub struct ControlNginx {
    /// Its address for HTTP/1, or for TLS.
    pub addr: SocketAddr,
    /// Its address for HTTP/2: this nginx cannot speak both on one plain port.
    pub h2_addr: SocketAddr,
    pub child: Child,
    folder: PathBuf,
}

pub fn is_enabled() -> bool {
    std::env::var_os("PROMISES_NGINX").is_some()
}

/// Ends a test that nginx cannot run.
pub fn panic_beyond_nginx(what: &str) -> ! {
    panic!("{BEYOND_NGINX} {what}")
}

impl ControlNginx {
    /// Starts an nginx with the equivalent of this router.toml.
    pub fn start(text: &str) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let folder = super::process::create_test_dir(&format!("nginx-{number}"));
        let (addr, h2) = (unused_addr(), unused_addr());
        write_config(text, &folder, addr, h2);
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-p").arg(&folder).arg("-e").arg(folder.join("error.log")).arg("-c").arg(folder.join("nginx.conf"));
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        let nginx = Self { addr, h2_addr: h2, child, folder };
        wait_until("nginx listens", || TcpStream::connect(addr).is_ok());
        nginx
    }

    /// Replaces its configuration file.
    pub fn write_config(&self, text: &str) {
        write_config(text, &self.folder, self.addr, self.h2_addr);
    }

    /// Reads one of its logs.
    pub fn read_log(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap_or_default()
    }

    /// Returns its worker processes.
    pub fn worker_pids(&self) -> Vec<u32> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        children.split_whitespace().map(|id| id.parse().unwrap()).collect()
    }
}

impl Drop for ControlNginx {
    fn drop(&mut self) {
        // SIGKILL would leave its workers running.
        drop(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status());
        drop(self.child.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}

fn write_config(text: &str, folder: &Path, addr: SocketAddr, h2: SocketAddr) {
    if let Some(word) = UNSUPPORTED_KEYS.iter().find(|word| text.contains(**word)) {
        panic_beyond_nginx(word);
    }
    let loaded =
        config::load(text, "router.toml", router_env(text)).unwrap_or_else(|_| panic_beyond_nginx("an invalid file"));
    let policy = text.lines().find_map(|line| line.strip_prefix("policy = ")).unwrap_or_default();
    let policy = match policy.trim_matches('"') {
        "" => "least_conn;".to_owned(),
        "round_robin" => String::new(),
        policy => format!("{policy};"),
    };
    fs::write(folder.join("nginx.conf"), render_config(&loaded.settings, &policy, folder, addr, h2)).unwrap();
}

fn render_config(settings: &Settings, policy: &str, folder: &Path, addr: SocketAddr, h2: SocketAddr) -> String {
    let (limits, timeouts, dir) = (&settings.limits, &settings.scope.timeouts, folder.display());
    let [pool] = &settings.pools[..] else { panic_beyond_nginx("several pools") };
    let mut conf = format!(
        "daemon off;\nworker_processes 2;\npid {dir}/pid;\nerror_log {dir}/error.log warn;\n\
         events {{ worker_connections 4096; }}\nhttp {{\n\
         log_format all '$remote_addr \"$request\" $status $upstream_addr \"$http_referer\" \"$http_user_agent\"';\n\
         access_log {dir}/access.log all;\n"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(conf, "{kind}_temp_path {dir}/{kind};");
    }
    let _ = writeln!(conf, "upstream pool {{\nzone pool 256k;\n{policy}");
    for member in &pool.members {
        let _ = writeln!(conf, "{}", render_server(member));
    }
    conf += "keepalive 64;\n}\nlimit_conn_zone $server_port zone=all:1m;\n";
    let ssl = if settings.tls.chains.is_empty() { "" } else { " ssl http2" };
    let _ = writeln!(conf, "server {{\nlisten {addr}{ssl};\nlisten {h2} http2;");
    for (chain, key) in settings.tls.chains.iter().zip(&settings.tls.keys) {
        let _ = writeln!(conf, "ssl_certificate {};\nssl_certificate_key {};", chain.display(), key.display());
    }
    let max =
        limits.max_in_flight_by_pool.values().copied().chain([limits.in_flight_requests]).min().unwrap_or(usize::MAX);
    let _ = writeln!(
        conf,
        "client_max_body_size {};\nlarge_client_header_buffers 8 {};\nclient_header_timeout {};\n\
         client_body_timeout {};\nsend_timeout {};\nkeepalive_timeout {};\nlimit_conn all {};\nlimit_conn_status 503;",
        settings.scope.body_bytes,
        limits.header_bytes,
        render_millis(timeouts.client_header),
        render_millis(timeouts.client_body),
        render_millis(timeouts.client_send),
        render_millis(timeouts.keepalive),
        max.min(60_000)
    );
    for line in debug_texts(&settings.scope.client_address.trusted_proxies) {
        let _ = writeln!(conf, "set_real_ip_from {line};\nreal_ip_header X-Forwarded-For;\nreal_ip_recursive on;");
    }
    if settings.x_upstream {
        conf += "add_header X-Upstream $upstream_addr always;\n";
    }
    let passes = render_proxy_settings(settings, pool);
    match &pool.path_policy {
        PathPolicy::Any => _ = writeln!(conf, "location / {{\n{passes}}}"),
        PathPolicy::Listed(_) => {
            _ = writeln!(conf, "location {API_LOCATION} {{\n{passes}}}\nlocation / {{ return 404; }}");
        }
    }
    conf + &render_error_pages() + "}\n}\n"
}

/// Renders nginx's own error pages as OpenAI error objects.
fn render_error_pages() -> String {
    let mut lines = String::new();
    for status in [400, 404, 408, 413, 414, 429, 431, 500, 501, 502, 503, 504] {
        let kind = if status < 500 { "invalid_request_error" } else { "api_error" };
        let error = format!(r#"{{"error":{{"message":"{status}","type":"{kind}","param":null,"code":null}}}}"#);
        let retry = if [429, 502, 503, 504].contains(&status) { "add_header Retry-After 1 always; " } else { "" };
        let _ = writeln!(lines, "error_page {status} @{status};");
        let _ = writeln!(
            lines,
            "location @{status} {{ default_type application/json; {retry}return {status} '{error}'; }}"
        );
    }
    lines
}

fn render_server(member: &MemberSpec) -> String {
    let eject = &member.eject_limits;
    let mut line = format!("server {}:{}", member.origin.host(), member.origin.port());
    let _ = write!(line, " weight={} max_fails={}", member.weight.get(), eject.max_fails);
    let _ = write!(line, " fail_timeout={}s", eject.fail_timeout.as_secs());
    let _ = write!(line, " max_conns={}", member.max_conns.unwrap_or(0));
    for (is, word) in [(member.backup, " backup"), (member.down, " down")] {
        line += if is { word } else { "" };
    }
    line + ";"
}

/// Renders the settings of the connections to replicas.
fn render_proxy_settings(settings: &Settings, pool: &PoolSpec) -> String {
    let timeouts = &settings.scope.timeouts;
    let tls = pool.members.iter().any(|member| member.origin.tls().is_some());
    let mut lines = format!("proxy_pass {}://pool;\n", if tls { "https" } else { "http" });
    lines += "proxy_http_version 1.1;\nproxy_set_header Connection \"\";\nproxy_buffering off;\n\
              proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\nproxy_set_header X-Real-IP $remote_addr;\n\
              proxy_next_upstream error timeout http_500 http_502 http_503 http_504 http_429 non_idempotent;\n";
    let _ = writeln!(lines, "proxy_connect_timeout {};", render_millis(timeouts.connect));
    // nginx has one timeout for the first byte and for each later one.
    let _ = writeln!(lines, "proxy_read_timeout {};", render_millis(timeouts.first_byte.min(timeouts.idle)));
    if settings.half_close {
        lines += "proxy_ignore_client_abort on;\n";
    }
    if let TrustRoots::File(file) = &pool.tls.trust_roots {
        let _ = writeln!(lines, "proxy_ssl_verify on;\nproxy_ssl_trusted_certificate {};", file.display());
        lines += "proxy_ssl_name localhost;\nproxy_ssl_server_name on;\n";
    }
    lines
}

fn debug_texts<T: std::fmt::Debug>(items: &[T]) -> impl Iterator<Item = String> {
    items.iter().map(|item| format!("{item:?}"))
}

fn render_millis(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}
