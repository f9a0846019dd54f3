//! A proxy under test: started in front of the origin, measured by CPU time, stopped on drop.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The clock tick of /proc/PID/stat: 100 per second on every Linux that Rust supports.
const CLOCK_TICK: Duration = Duration::from_millis(10);

/// A running proxy.
pub(crate) struct ProxyUnderTest {
    /// The name in the report.
    pub(crate) name: String,
    /// The port for complete responses.
    pub(crate) port: u16,
    /// The port for streams: nginx buffers responses on one port and not on the other.
    pub(crate) stream_port: u16,
    child: Child,
    /// The command that stops it: `nginx -s stop` also stops the workers, which a plain kill would leave running.
    stop_command: Option<Command>,
}

/// A directory of this run, removed on drop.
pub(crate) struct ScratchDir(PathBuf);

impl ScratchDir {
    pub(crate) fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("tokenweir-bench-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns the nginx on the PATH, or Debian's.
pub(crate) fn find_nginx() -> Option<&'static str> {
    let runs = |path: &&str| Command::new(path).arg("-v").stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    ["nginx", "/usr/sbin/nginx"].into_iter().find(runs)
}

/// Starts nginx with two workers. Its settings are favourable: no access log, upstream connections kept as long as
/// possible, bodies in memory.
pub(crate) fn start_nginx(
    path: &str,
    name: &str,
    scratch: &ScratchDir,
    origin: [u16; 2],
) -> Result<ProxyUnderTest, Box<dyn Error>> {
    let dir = scratch.0.join(name.replace(" ", "-"));
    fs::create_dir_all(&dir)?;
    let (port, stream_port) = (free_port()?, free_port()?);
    let file = dir.join("nginx.conf");
    fs::write(&file, render_nginx_conf(&dir, [port, stream_port], origin))?;
    let command = |more: &[&str]| {
        let mut command = Command::new(path);
        command.arg("-p").arg(&dir).arg("-c").arg(&file).args(more);
        command
    };
    let child = command(&[]).spawn()?;
    let mut stop = command(&["-s", "stop"]);
    stop.stderr(Stdio::null()); // it would say that it signals
    let contender = ProxyUnderTest { name: name.into(), port, stream_port, child, stop_command: Some(stop) };
    contender.wait_until_ready("/v1/models")?;
    Ok(contender)
}

/// Starts tokenweir as built by cargo next to this bench.
pub(crate) fn start_tokenweir(scratch: &ScratchDir, origin: [u16; 2]) -> Result<ProxyUnderTest, Box<dyn Error>> {
    let (port, admin) = (free_port()?, free_port()?);
    let file = scratch.0.join("tokenweir.toml");
    let [one, two] = origin;
    let text = format!(
        "listen = \"127.0.0.1:{port}\"\nadmin = \"127.0.0.1:{admin}\"\npolicy = \"round_robin\"\nmodel = \"m\"\n\
         replicas = [\"http://127.0.0.1:{one}\", \"http://127.0.0.1:{two}\"]\n\n[log]\naccess = \"off\"\nerror = \"off\"\n"
    );
    fs::write(&file, text)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokenweir"));
    let child = command.arg("serve").arg("-c").arg(&file).stdout(Stdio::null()).spawn()?;
    let contender = ProxyUnderTest { name: "tokenweir".into(), port, stream_port: port, child, stop_command: None };
    contender.wait_until_ready("/readyz")?;
    Ok(contender)
}

impl ProxyUnderTest {
    /// Returns the CPU time, user and system, of the whole process tree so far. *Resolution*: 10 ms.
    pub(crate) fn cpu_time(&self) -> io::Result<Duration> {
        let mut tree = BTreeSet::from([self.child.id()]);
        let mut ticks = 0;
        let mut stats: Vec<ProcessStat> =
            fs::read_dir("/proc")?.flatten().filter_map(|entry| read_process_stat(&entry.path())).collect();
        // A child has a higher id than its parent, except after a wrap: one pass in order finds the tree.
        stats.sort_by_key(|stat| stat.pid);
        for stat in stats {
            if tree.contains(&stat.pid) || tree.contains(&stat.parent_pid) {
                tree.insert(stat.pid);
                ticks += stat.cpu_ticks;
            }
        }
        Ok(CLOCK_TICK * ticks)
    }

    /// Waits until `GET path` is a 200.
    fn wait_until_ready(&self, path: &str) -> Result<(), Box<dyn Error>> {
        for _ in 0..100 {
            if send_get(self.port, path).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(format!("{} does not answer {path} after 10 s", self.name).into())
    }
}

impl Drop for ProxyUnderTest {
    fn drop(&mut self) {
        let stopped = self.stop_command.as_mut().is_some_and(|stop| stop.status().is_ok_and(|status| status.success()));
        if !stopped {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

struct ProcessStat {
    pid: u32,
    parent_pid: u32,
    cpu_ticks: u32,
}

/// Reads /proc/PID/stat. `None` if the process does not exist.
fn read_process_stat(dir: &Path) -> Option<ProcessStat> {
    let id = dir.file_name()?.to_str()?.parse().ok()?;
    let text = fs::read_to_string(dir.join("stat")).ok()?;
    // The name in parentheses may hold spaces, so fields are counted after it, from `state`, the third.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u32>().ok();
    Some(ProcessStat { pid: id, parent_pid: number(4)?, cpu_ticks: number(14)? + number(15)? })
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn send_get(port: u16, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn render_nginx_conf(dir: &Path, [port, stream_port]: [u16; 2], [one, two]: [u16; 2]) -> String {
    let dir = dir.display();
    format!(
        r#"
worker_processes 2;
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  client_max_body_size 64m;
  client_body_buffer_size 2m;
  keepalive_requests 100000000;
  upstream origin {{
    server 127.0.0.1:{one};
    server 127.0.0.1:{two};
    keepalive 128;
    keepalive_requests 100000000;
  }}
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://origin; }}
  }}
  server {{
    listen 127.0.0.1:{stream_port};
    location / {{ proxy_pass http://origin; proxy_buffering off; }}
  }}
}}
"#
    )
}
