//! The program: commands, exit codes, logs and shutdown.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::harness::client::{TestClient, build_request};
use crate::harness::{chat_body, send_request, start_replica, wait_until};
use serde_json::Value;

const CHAT_PATH: &str = "/v1/chat/completions";

fn tokenweir_command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokenweir"));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR")).env_clear();
    command.env("TOKENWEIR__LISTEN", "127.0.0.1:0").env("TOKENWEIR__ADMIN", "127.0.0.1:0");
    command.env("TOKENWEIR__LOG__ACCESS", "off").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run_tokenweir(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = tokenweir_command(args).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// Creates an empty folder for one test.
fn create_test_dir(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("tokenweir-{}-{name}", std::process::id()));
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// A serving process; killed on drop.
struct CliProcess {
    child: Child,
    /// The line that announces its addresses.
    announcement: String,
}

impl CliProcess {
    fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        while !line.contains(" at ") {
            line.clear();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "the process ended at once");
        }
        // Later output must not fill the pipe.
        std::thread::spawn(move || drop(stderr.read_to_end(&mut Vec::new())));
        Self { child, announcement: line }
    }

    /// Returns an announced address by its position.
    fn nth_addr(&self, index: usize) -> SocketAddr {
        let words = self.announcement.split([' ', ',', '/', '\n']);
        words
            .filter_map(|word| word.parse().ok())
            .nth(index)
            .unwrap_or_else(|| panic!("no address in {}", self.announcement))
    }

    fn send_signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    fn has_exited(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    fn wait_for_exit(&mut self) -> Option<i32> {
        wait_until("the process has ended", || self.has_exited());
        self.child.wait().unwrap().code()
    }
}

impl Drop for CliProcess {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Serves these replicas with additional environment variables; waits until the router is ready.
fn serve_until_ready(url: &str, env: &[(&str, &str)]) -> CliProcess {
    let process = CliProcess::spawn(tokenweir_command(&["serve", url]).envs(env.iter().copied()));
    wait_until("the router is ready", || send_request(process.nth_addr(1), "GET", "/readyz", "", "").status == 200);
    process
}

#[test]
fn check_lists_the_routes() {
    let file = create_test_dir("routes").join("router.toml");
    let text = "[[pool]]\nname = 'chat'\nreplicas = ['http://127.0.0.1:8000']\n\
                [[host]]\nname = 'h.example'\nlisten = ['127.0.0.1:8081', '8082 default_server']\nbody_bytes = '1m'\n\
                [[host.route]]\npath = '/v1/'\npools = 'chat'\naccess = ['deny 10.0.0.9']\n\
                [[host.route]]\npath = '= /old'\nanswer = '301 /v1/'\n";
    fs::write(&file, text).unwrap();
    let (code, out, err) = run_tokenweir(&["check", "--routes", "-c", file.to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    let rows: Vec<Vec<&str>> =
        out.lines().take(7).map(|line| line.split("  ").filter(|c| !c.is_empty()).collect()).collect();
    let limits = "body 1MiB, first byte 300s, plain answer 600s, idle 120s";
    let expected = [("127.0.0.1:8081", "h.example"), ("0.0.0.0:8082", "h.example,*")].map(|(listen, host)| {
        [
            vec![listen, host, "= /old", "301 /v1/"],
            vec![listen, host, "/v1/", "chat, API paths", "no key, deny 10.0.0.9", limits],
            vec![listen, host, "/", "404"],
        ]
    });
    let trimmed = |row: &Vec<&str>| row.iter().map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    assert_eq!(rows[1..].iter().map(trimmed).collect::<Vec<_>>(), expected.concat(), "{out}");
}

#[test]
fn check_and_serve_t_accept_good_files_and_reject_bad_ones() {
    for args in [&["check", "-c", "config/router.toml"][..], &["serve", "-t", "-c", "config/router.toml"]] {
        let (code, out, err) = run_tokenweir(args);
        assert_eq!((code, &*out), (0, "configuration ok: 1 pool(s), 2 replica(s)\n"), "{err}");
    }
    let bad = create_test_dir("check").join("bad.toml");
    fs::write(&bad, "listen = \"127.0.0.1:80\"\n[limits]\nbody_byte = 1\n").unwrap();
    let bad = bad.to_str().unwrap();
    for args in [&["check", "-c", bad][..], &["serve", "-t", "-c", bad], &["serve", "-c", bad]] {
        let (code, out, err) = run_tokenweir(args);
        assert_eq!((code, &*out), (1, ""), "{err}");
        assert!(err.contains(&format!("{bad}:3:1")) && err.contains("body_bytes"), "{err}");
    }
    let (code, _, err) = run_tokenweir(&["check", "-c", "/nowhere/router.toml"]);
    assert!(code == 1 && err.contains("cannot read /nowhere/router.toml"), "{err}");
    let (code, _, err) = run_tokenweir(&["serve"]);
    assert!(code == 2 && err.contains("Usage"), "{err}");
    let (code, out, _) = run_tokenweir(&["--help"]);
    assert!(code == 0 && ["serve", "check", "emulate"].iter().all(|word| out.contains(word)), "{out}");
}

#[test]
fn taken_port_is_reported_with_key_and_help() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    for (variable, key) in [("TOKENWEIR__LISTEN", "listen"), ("TOKENWEIR__ADMIN", "admin")] {
        let output = tokenweir_command(&["serve", "http://127.0.0.1:1"]).env(variable, &addr).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{err}");
        for word in [&*addr, &format!("({key})"), "in use", "stop it, or choose another"] {
            assert!(err.contains(word), "{word}: {err}");
        }
    }
}

#[test]
fn demo_prints_few_lines_and_its_curl_command_streams_tokens() {
    let mut child = tokenweir_command(&["--no-load"]).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut lines = Vec::new();
    while !lines.last().is_some_and(|line: &String| line.starts_with("Your own replicas")) {
        let mut line = String::new();
        assert!(out.read_line(&mut line).unwrap() > 0, "the process ended: {lines:?}");
        lines.push(line);
    }
    let process = CliProcess { child, announcement: String::new() };
    assert!(lines.len() <= 12, "{} lines", lines.len());
    let command = lines.iter().find(|line| line.contains("curl")).unwrap();
    let url = command.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
    let (addr, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let body = command.split('\'').find(|part| part.starts_with('{')).unwrap();
    let addr = addr.parse().unwrap();
    wait_until("the demo's command works", || {
        let reply = send_request(addr, "POST", &format!("/{path}"), "", body);
        reply.status == 200 && reply.text().contains("\"content\":\"water\"") && reply.text().contains("[DONE]")
    });
    let metrics = lines.iter().find_map(|line| line.strip_prefix("Metrics: http://")).unwrap();
    let admin = metrics.split('/').next().unwrap().parse().unwrap();
    assert!(send_request(admin, "GET", "/metrics", "", "").text().contains("tokenweir_requests_total"));
    process.send_signal("INT");
    let mut process = process;
    assert_eq!(process.wait_for_exit(), Some(0));
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "", "no output follows");
}

/// Starts a stream in lock-step and reads its head.
fn start_lockstep_stream(addr: SocketAddr, id: &str) -> TestClient<TcpStream> {
    let mut client = TestClient::connect(addr);
    let headers = format!("x-emulate-lockstep: 1\r\nx-request-id: {id}\r\n");
    client.send(build_request("POST", CHAT_PATH, &headers, chat_body("m", 5, true)));
    assert_eq!(client.read_head().status, 200);
    client.read_piece().unwrap();
    client
}

#[test]
fn sigterm_waits_for_a_stream_and_exits_with_0() {
    let replica = start_replica(&["m"]);
    let mut process = serve_until_ready(&replica.url(), &[]);
    let addr = process.nth_addr(0);
    let mut client = start_lockstep_stream(addr, "slow");
    process.send_signal("TERM");
    wait_until("new connections are refused", || TcpStream::connect(addr).is_err());
    assert_eq!(send_request(process.nth_addr(1), "GET", "/readyz", "", "").text(), "draining\n");
    let next = || send_request(replica.addr(), "POST", "/emulate/next/slow", "", "").status;
    assert!(!process.has_exited());
    let mut text = String::new();
    while next() == 200 {
        let Some(piece) = client.read_piece() else { break };
        text += std::str::from_utf8(&piece).unwrap();
    }
    text += &String::from_utf8(client.read_remaining_body()).unwrap();
    assert!(!client.is_broken() && text.ends_with("data: [DONE]\n\n"), "{text}");
    assert_eq!(process.wait_for_exit(), Some(0));
}

#[test]
fn bytes_received_while_stopped_are_served() {
    let replica = start_replica(&["m"]);
    let process = serve_until_ready(&replica.url(), &[("TOKENWEIR__TIMEOUTS__CLIENT_HEADER", "2s")]);
    let mut clients: Vec<_> = (0..16).map(|_| TestClient::connect(process.nth_addr(0))).collect();
    std::thread::sleep(Duration::from_millis(200));
    process.send_signal("STOP");
    clients.iter_mut().for_each(|client| client.send(build_request("GET", "/v1/models", "", "")));
    std::thread::sleep(Duration::from_millis(2200));
    process.send_signal("CONT");
    for client in &mut clients {
        assert_eq!(client.read_response().status, 200);
    }
}

#[test]
fn connection_without_a_request_in_time_is_logged() {
    let (replica, log) = (start_replica(&["m"]), create_test_dir("late").join("error.log"));
    let env = [("TOKENWEIR__TIMEOUTS__CLIENT_HEADER", "300ms"), ("TOKENWEIR__LOG__ERROR", log.to_str().unwrap())];
    let process = serve_until_ready(&replica.url(), &env);
    let mut clients = [TestClient::connect(process.nth_addr(0)), TestClient::connect(process.nth_addr(0))];
    clients[1].send("GET /v1/models HTTP/1.1\r\nhost: router.te");
    assert!(clients.iter_mut().all(TestClient::wait_for_close));
    wait_until("both closes are logged", || {
        let text = fs::read_to_string(&log).unwrap();
        text.matches("connection from 127.0.0.1 closed: no complete request within 300ms").count() == 2
    });
}

#[test]
fn sigint_second_signal_and_drain_timeout_end_at_once() {
    for (signals, drain) in
        [(&["INT"][..], "300s"), (&["TERM", "TERM"], "300s"), (&["TERM"], "100ms"), (&["QUIT", "INT"], "9s")]
    {
        let replica = start_replica(&["m"]);
        let mut process = serve_until_ready(&replica.url(), &[("TOKENWEIR__TIMEOUTS__DRAIN", drain)]);
        let addr = process.nth_addr(0);
        let mut client = start_lockstep_stream(addr, "endless");
        for signal in signals {
            process.send_signal(signal);
            wait_until("new connections are refused", || TcpStream::connect(addr).is_err());
        }
        assert_eq!(process.wait_for_exit(), Some(0), "{signals:?}");
        client.read_remaining_body();
        assert!(client.is_broken(), "{signals:?}: the client sees an incomplete response");
        wait_until("the replica is released", || replica.counters().open_requests() == 0);
    }
}

#[test]
fn request_has_one_access_log_line() {
    let replica = start_replica(&["m"]);
    for format in ["text", "json"] {
        let path = create_test_dir(format).join("access.log");
        let log = path.to_str().unwrap();
        let mut process =
            serve_until_ready(&replica.url(), &[("TOKENWEIR__LOG__ACCESS", log), ("TOKENWEIR__LOG__FORMAT", format)]);
        let addr = process.nth_addr(0);
        let id = |id: &str| format!("x-request-id: {id}\r\n");
        assert_eq!(send_request(addr, "POST", CHAT_PATH, &id("served"), chat_body("m", 4, true)).status, 200);
        assert_eq!(send_request(addr, "POST", CHAT_PATH, &id("refused"), chat_body("x", 4, true)).status, 404);
        let (mut client, seen) = (TestClient::connect(addr), replica.counters().request_count(CHAT_PATH));
        let headers = format!("{}x-emulate-fault: slow-headers=60000\r\n", id("aborted"));
        client.send(build_request("POST", CHAT_PATH, &headers, chat_body("m", 4, true)));
        wait_until("the replica has the request", || replica.counters().request_count(CHAT_PATH) > seen);
        client.reset_connection();
        let lines = || fs::read_to_string(&path).unwrap();
        wait_until("three lines are written", || lines().lines().count() >= 3);
        process.send_signal("TERM");
        assert_eq!(process.wait_for_exit(), Some(0));
        let lines = lines();
        let line = |id: &str| lines.lines().find(|line| line.contains(id)).unwrap_or_else(|| panic!("{id}: {lines}"));
        let upstream = replica.addr().to_string();
        if format == "json" {
            let read = |id: &str| serde_json::from_str::<Value>(line(id)).unwrap();
            let (served, refused, aborted) = (read("served"), read("refused"), read("aborted"));
            assert_eq!((&served["status"], &served["outcome"]), (&200.into(), &"completed".into()));
            assert_eq!((&served["completion_tokens"], &served["upstream"]), (&4.into(), &Value::from(&*upstream)));
            assert!(served["ttft"].as_f64() <= served["duration"].as_f64() && served["ttft"].is_number(), "{served}");
            assert_eq!((&refused["status"], &refused["outcome"]), (&404.into(), &"refused".into()));
            assert_eq!((&refused["upstream"], &refused["model"]), (&Value::Null, &"x".into()));
            assert_eq!((&aborted["status"], &aborted["outcome"]), (&499.into(), &"client_gone".into()));
            assert_eq!((&aborted["upstream"], &aborted["client"]), (&Value::from(&*upstream), &"127.0.0.1".into()));
        } else {
            let wanted = format!(" 127.0.0.1 \"POST {CHAT_PATH}\" 200 {upstream} model=m prompt=");
            assert!(line("id=served").contains(&wanted) && line("id=served").contains(" completed id="), "{lines}");
            assert!(
                line("id=refused").contains(" 404 - model=x ") && line("id=refused").contains(" refused id="),
                "{lines}"
            );
            assert!(line("id=aborted").contains(&format!(" 499 {upstream} ")), "{lines}");
            assert!(line("id=aborted").contains(" client_gone id="), "{lines}");
        }
        assert_eq!(lines.lines().count(), 3, "{lines}");
    }
}

#[test]
fn sigusr1_reopens_both_logs_and_keeps_the_old_file_on_failure() {
    let replica = start_replica(&["m"]);
    let folder = create_test_dir("reopen");
    let (access, error) = (folder.join("a/access.log"), folder.join("error.log"));
    fs::create_dir(folder.join("a")).unwrap();
    let env = [("TOKENWEIR__LOG__ACCESS", &access), ("TOKENWEIR__LOG__ERROR", &error)];
    let env = env.map(|(name, path)| (name, path.to_str().unwrap()));
    let process =
        serve_until_ready(&replica.url(), &[env[0], env[1], ("TOKENWEIR__LOG__FORMAT", "$request_id $status")]);
    let ask = |id: &str| {
        send_request(process.nth_addr(0), "GET", "/v1/models", &format!("x-request-id: {id}\r\n"), "").status
    };
    let lines = |path: &PathBuf, lines: &str| {
        wait_until(lines, || fs::read_to_string(path).is_ok_and(|text| text == lines));
    };
    let wait_for_log =
        |what: &str| wait_until(what, || fs::read_to_string(&error).is_ok_and(|text| text.contains(what)));
    assert_eq!(ask("first"), 200);
    lines(&access, "first 200\n");
    let (moved, moved_error) = (folder.join("a/access.log.1"), folder.join("error.log.1"));
    fs::rename(&access, &moved).unwrap();
    fs::rename(&error, &moved_error).unwrap();
    assert_eq!(ask("second"), 200);
    lines(&moved, "first 200\nsecond 200\n");
    process.send_signal("USR1");
    wait_for_log("info reopened the access log");
    assert_eq!(ask("third"), 200);
    lines(&access, "third 200\n");
    lines(&moved, "first 200\nsecond 200\n");
    // Without its folder the file cannot be created, and the log keeps the open file.
    fs::rename(folder.join("a"), folder.join("b")).unwrap();
    process.send_signal("USR1");
    wait_for_log("error cannot reopen the access log");
    assert_eq!(ask("fourth"), 200);
    lines(&folder.join("b/access.log"), "third 200\nfourth 200\n");
}

#[test]
fn unix_socket_is_served_and_removed_at_exit() {
    let replica = start_replica(&["m"]);
    let path = create_test_dir("unix").join("router.sock");
    // A socket left by a dead process is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listen = format!("unix:{}", path.display());
    let mut process =
        CliProcess::spawn(tokenweir_command(&["serve", &replica.url()]).env("TOKENWEIR__LISTEN", &listen));
    assert!(process.announcement.contains(&listen), "{}", process.announcement);
    wait_until("the router is ready", || send_request(process.nth_addr(0), "GET", "/readyz", "", "").status == 200);
    let mut client = TestClient::from_stream(UnixStream::connect(&path).unwrap());
    for _ in 0..3 {
        client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 4, true)));
        let reply = client.read_response();
        assert!(reply.status == 200 && reply.text().ends_with("data: [DONE]\n\n"), "{}", reply.text());
    }
    let second = tokenweir_command(&["serve", &replica.url()]).env("TOKENWEIR__LISTEN", &listen).output().unwrap();
    assert_eq!(second.status.code(), Some(1), "a socket in use is not taken over");
    process.send_signal("TERM");
    assert_eq!(process.wait_for_exit(), Some(0));
    assert!(!path.exists());
}

#[test]
fn emulated_replica_works_behind_a_router() {
    let port = crate::harness::unused_addr().port().to_string();
    let process =
        CliProcess::spawn(&mut tokenweir_command(&["emulate", "--port", &port, "--model", "m", "--speed", "1000"]));
    let addr: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    wait_until("the router listens", || TcpStream::connect(addr).is_ok());
    let router = serve_until_ready(&format!("http://{addr}"), &[]);
    assert_eq!(send_request(router.nth_addr(0), "POST", CHAT_PATH, "", chat_body("m", 4, false)).json()["model"], "m");
    drop(process);
}

#[test]
fn sighup_reloads_and_keeps_the_configuration_on_errors() {
    let replicas = [start_replica(&["m"]), start_replica(&["m"])];
    let folder = create_test_dir("sighup");
    let (file, log) = (folder.join("router.toml"), folder.join("error.log"));
    let write = |urls: &str| fs::write(&file, format!("replicas = [{urls}]\n")).unwrap();
    write(&format!("{:?}", replicas[0].url()));
    let mut command = tokenweir_command(&["serve", "-c", file.to_str().unwrap()]);
    let process = CliProcess::spawn(command.env("TOKENWEIR__LOG__ERROR", &log));
    let logged = |words: &str| fs::read_to_string(&log).unwrap_or_default().contains(words);

    write(&format!("{:?}, {:?}", replicas[0].url(), replicas[1].url()));
    process.send_signal("HUP");
    let added = format!("replicas added: {}", replicas[1].addr());
    wait_until("the new replica is logged", || logged(&added));
    write("1");
    process.send_signal("HUP");
    wait_until("the configuration error is logged", || logged("nothing changed") && logged("router.toml:1:13"));
    let known = || {
        send_request(process.nth_addr(1), "GET", "/pools", "host: localhost\r\n", "").json()[0]["replicas"][1]["state"]
            == "admitted"
    };
    wait_until("both serve", known);
    let json = "content-type: application/json\r\n";
    assert_eq!(send_request(process.nth_addr(0), "POST", CHAT_PATH, json, chat_body("m", 2, false)).status, 200);
}
