//! Comparison of the access log with nginx's.
//! Both get the same requests over the same replicas and must write the same lines, with times, ports and ids masked.
//! Needs nginx: `.ci/nginx-log`.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use crate::harness::client::{TestClient, build_request};
use crate::harness::scripted::{ScriptedReplica, build_response};
use crate::harness::{TestRouter, unused_addr, wait_until};

/// Both common log formats and the other variables that nginx and the router share.
const LOG_FORMAT: &str = r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" to: $upstream_addr | rt=$request_time uct="$upstream_connect_time" uht="$upstream_header_time" urt="$upstream_response_time" us=$upstream_status | uri=$uri args=$args a=$arg_a c=$cookie_sid h=$host hh=$http_host ru=$request_uri m=$request_method p=$server_protocol s=$scheme rl=$request_length xff=$proxy_add_x_forwarded_for ct=$sent_http_content_type ux=$upstream_http_x_origin e=$http_x_empty req=$connection_requests $pipe"#;
const REQUEST_COUNT: usize = 300;

struct LoggingNginx {
    child: Child,
    stop_command: Command,
    addr: SocketAddr,
    log_path: PathBuf,
}

impl Drop for LoggingNginx {
    fn drop(&mut self) {
        drop(self.stop_command.output());
        drop(self.child.wait());
    }
}

fn start_origin() -> ScriptedReplica {
    ScriptedReplica::start(&["m"], |received, to| match received.target().split('?').next().unwrap_or_default() {
        "/slow" => {
            std::thread::sleep(Duration::from_secs(2));
            false
        }
        "/missing" => to.write_all(&build_response(404, "text/plain", "no")).is_ok(),
        _ => {
            let body = r#"{"a":1}"#;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-origin: \"o\"\r\n";
            to.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).is_ok()
        }
    })
}

fn start_nginx(folder: &Path, servers: &[SocketAddr]) -> LoggingNginx {
    let (addr, log) = (unused_addr(), folder.join("nginx.log"));
    let servers: String = servers.iter().map(|addr| format!("server {addr} max_fails=0;\n")).collect();
    let text = format!(
        "daemon off; worker_processes 1; pid {0}/pid; error_log {0}/error.log;\nevents {{}}\nhttp {{\n\
         client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; \
         scgi_temp_path {0}/s;\nlog_format x '{LOG_FORMAT}';\naccess_log {1} x;\nupstream o {{\n{servers}}}\n\
         server {{ listen {addr}; location / {{ proxy_pass http://o; proxy_http_version 1.1; \
         proxy_set_header Connection ''; proxy_next_upstream error timeout non_idempotent; }} }}\n}}\n",
        folder.display(),
        log.display()
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, text).unwrap();
    let command = |more: &[&str]| {
        let program = if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
        let mut command = Command::new(program);
        command.arg("-p").arg(folder).arg("-c").arg(&file).args(more);
        command
    };
    let child = command(&[]).spawn().unwrap();
    let nginx = LoggingNginx { child, stop_command: command(&["-s", "stop"]), addr, log_path: log };
    wait_until("nginx listens", || std::net::TcpStream::connect(addr).is_ok());
    nginx
}

/// Returns the target and the headers of the `i`th request.
fn nth_request(i: usize) -> (&'static str, String, String) {
    let target = match i % 9 {
        0 => format!("/v1/models-{i}?a={i}&b=%20"),
        // Hyper refuses a raw quote in the query before a request exists to be logged.
        1 => "/q\"uote?A=%22x".to_owned(),
        2 => "/caf\u{e9}/%C3%A9//x/../y".to_owned(),
        3 => "/missing".to_owned(),
        4 => "/?".to_owned(),
        5 => "/back\\slash?a=".to_owned(),
        6 => "/a%22b%0Ac".to_owned(),
        7 => format!("/v1/chat/completions?{i}"),
        _ => "/".to_owned(),
    };
    let headers = match i % 7 {
        0 => String::new(),
        1 => "User-Agent: say \"hi\"\\\r\nReferer: http://r/\u{fc}\r\n".to_owned(),
        2 => "Authorization: Basic YWxpY2U6c2VjcmV0\r\nX-Empty: \r\n".to_owned(),
        3 => "Cookie: a=1; SID=t\"wo; b=2\r\n".to_owned(),
        4 => "X-Forwarded-For: 1.1.1.1\r\nUser-Agent: \u{6f22}\u{5b57}\r\n".to_owned(),
        5 => "Host: LLM.Example\r\n".to_owned(),
        _ => "User-Agent: tab\there\r\nReferer: -\r\n".to_owned(),
    };
    (if i.is_multiple_of(2) { "GET" } else { "POST" }, target, headers)
}

/// Sends all requests, ten on each connection; the client aborts the last one.
fn send_requests(addr: SocketAddr) {
    let mut client = TestClient::connect(addr);
    for i in 0..REQUEST_COUNT - 1 {
        if i % 10 == 0 {
            client = TestClient::connect(addr);
        }
        let (method, target, headers) = nth_request(i);
        let body = if method == "POST" { "{\"a\":1}" } else { "" };
        client.send(build_request(method, &target, &headers, body));
        let reply = client.try_read_head().unwrap_or_else(|| panic!("{addr} did not answer {target} {headers}"));
        client.read_remaining_body();
        assert_ne!(reply.status, 400, "{addr} refuses {target} {headers}");
    }
    let mut client = TestClient::connect(addr);
    client.send(build_request("GET", "/slow", "", ""));
    std::thread::sleep(Duration::from_millis(300));
    client.reset_connection();
}

/// Masks the parts of a line that always differ: times of day, durations, ports of listeners.
fn mask_line(line: &str) -> String {
    let chars: Vec<char> = line.chars().collect();
    let mut out = String::new();
    let mut at = 0;
    while at < chars.len() {
        let digits = chars[at..].iter().take_while(|c| c.is_ascii_digit()).count();
        let millis = chars[at + digits..].iter().skip(1).take_while(|c| c.is_ascii_digit()).count();
        if digits > 0 && chars.get(at + digits) == Some(&'.') && millis == 3 && chars.get(at + digits + 4) != Some(&'.')
        {
            out.push('T');
            at += digits + 4;
        } else if chars[at] == '[' && !out.contains('[') {
            // The time of day is the first value in brackets; its zone stays.
            let length = chars[at..].iter().take_while(|c| **c != ']').count();
            out.push_str("[now");
            out.extend(&chars[at + length - 5..at + length]);
            at += length;
        } else {
            out.push(chars[at]);
            at += 1;
        }
    }
    out
}

fn read_masked_lines(path: &Path) -> Vec<String> {
    let text = || String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    wait_until("every request is logged", || text().lines().count() >= REQUEST_COUNT);
    text().lines().map(mask_line).collect()
}

#[test]
#[ignore = "needs nginx: .ci/nginx-log"]
fn access_log_lines_equal_nginx() {
    let folder = std::env::temp_dir().join(format!("tokenweir-nginx-log-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let (one, two) = (start_origin(), start_origin());
    let servers = [one.addr, unused_addr(), two.addr];
    let nginx = start_nginx(&folder, &servers);
    let ours = folder.join("tokenweir.log");
    let replicas = servers.map(|addr| format!("\"http://{addr} max_fails=0\"")).join(", ");
    let router = TestRouter::start(&format!(
        "policy = \"round_robin\"\npaths = \"any\"\nreplicas = [{replicas}]\n[log]\naccess = {ours:?}\nformat = '''{LOG_FORMAT}'''"
    ));
    wait_until("both replicas are known", || {
        one.received_requests().is_empty() && router.sum_metric("tokenweir_pool_ready", &[]) > 0.0
    });
    send_requests(nginx.addr);
    send_requests(router.addr);
    let name = |line: &String| line.replace(&nginx.addr.to_string(), "US").replace(&router.addr.to_string(), "US");
    let theirs: Vec<String> = read_masked_lines(&nginx.log_path).iter().map(name).collect();
    let own: Vec<String> = read_masked_lines(&ours).iter().map(name).collect();
    assert_eq!((theirs.len(), own.len()), (REQUEST_COUNT, REQUEST_COUNT));
    let differing: Vec<String> = theirs
        .iter()
        .zip(&own)
        .enumerate()
        .filter(|(_, (a, b))| a != b)
        .map(|(i, (a, b))| format!("{i}\n nginx {a}\n ours  {b}"))
        .collect();
    let failovers = theirs.iter().filter(|line| line.contains("us=502, ")).count();
    assert!(failovers > 50, "{failovers} failovers");
    assert!(theirs.last().is_some_and(|line| line.contains(" 499 ")));
    let shown = differing.iter().take(12).cloned().collect::<Vec<_>>().join("\n");
    assert!(differing.is_empty(), "{} of {REQUEST_COUNT} lines differ:\n{shown}", differing.len());
    drop(nginx);
    fs::remove_dir_all(&folder).unwrap();
}
