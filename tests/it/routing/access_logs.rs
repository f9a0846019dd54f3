//! Access logs of hosts and routes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use crate::harness::client::{TestClient, build_request};
use crate::harness::{TestRouter, chat_body, send_request, start_reloadable_router, start_replica, wait_until};

const CHAT_PATH: &str = "/v1/chat/completions";

/// A folder of logs; removed on drop.
struct LogFolder(PathBuf);

impl LogFolder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("tokenweir-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }

    /// Waits until a log has as many lines as `wanted`, and compares them.
    fn expect_lines(&self, name: &str, wanted: &[&str]) {
        wait_until(name, || self.read(name).lines().count() >= wanted.len());
        assert_eq!(self.read(name).lines().collect::<Vec<_>>(), wanted, "{name}");
    }

    /// Returns how often this process has a file of the folder open.
    fn open_count(&self, name: &str) -> usize {
        let is_file = |link: &Path| fs::read_link(link).is_ok_and(|to| to == self.0.join(name));
        fs::read_dir("/proc/self/fd").unwrap().flatten().filter(|entry| is_file(&entry.path())).count()
    }
}

impl Drop for LogFolder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn get(router: &TestRouter, host: &str, path: &str) -> u16 {
    router.send_request("GET", path, &format!("host: {host}\r\n"), "").status
}

#[test]
fn request_is_written_to_the_logs_of_its_route_only() {
    let replica = start_replica(&["m"]);
    let folder = LogFolder::new("scoped-logs");
    let [top, host, route] = ["top.log", "host.log", "route.log"].map(|name| folder.path(name));
    let text = format!(
        "[log]\naccess = {top:?}\nformat = 'top $request_uri $status'\n\
         [log.formats]\na = 'a $request_uri $status $http_x_a'\nb = 'b $request_uri $sent_http_content_type'\n\
         [[pool]]\nname = 'p'\nreplicas = [{url:?}]\npaths = 'any'\n\
         [[host]]\nname = 'one'\naccess_log = '{host}'\n\
         [[host.route]]\npath = '/own/'\nanswer = '200 text'\naccess_log = ['{route} a', '{route}  b', '{host} b']\n\
         [[host.route]]\npath = '/quiet'\nanswer = '403'\naccess_log = 'off'\n\
         [[host.route]]\npath = '/go'\nanswer = '301 /own/'\n\
         [[host.route]]\npath = '/shut'\nanswer = '444'\naccess_log = '{route} a'\n\
         [[host.route]]\npath = '/pool/'\npools = 'p'\n\
         [[host]]\nname = 'two'\naccess = ['deny all']\naccess_log = 'off'\n\
         [[host.route]]\npath = '/v1/'\npools = 'p'\naccess_log = '{route} b'\n\
         [[host]]\n[[host.route]]\npath = '/'\npools = 'p'\n",
        url = replica.url(),
    );
    let router = TestRouter::start(&text);
    assert_eq!((folder.open_count("route.log"), folder.open_count("host.log")), (1, 1), "a file is opened once");
    for (host, path, status) in [
        ("one", "/pool/x", 404),
        ("one", "/quiet", 403),
        ("one", "/go", 301),
        ("one", "/nothing", 404),
        ("one", "/pool", 301),
        ("two", "/v1/x", 403),
        ("two", "/nothing", 404),
        ("other", "/v1/models", 200),
    ] {
        assert_eq!(get(&router, host, path), status, "{host}{path}");
    }
    assert_eq!(router.send_request("GET", "/own/1", "host: one\r\nx-a: A\r\n", "").status, 200);
    let mut client = router.connect();
    client.send(build_request("GET", "/shut", "host: one\r\nx-a: B\r\n", ""));
    assert!(client.try_read_head().is_none());

    folder.expect_lines("top.log", &["top /v1/models 200"]);
    folder.expect_lines(
        "host.log",
        &["top /pool/x 404", "top /go 301", "top /nothing 404", "top /pool 301", "b /own/1 text/plain"],
    );
    let json = "application/json";
    folder.expect_lines(
        "route.log",
        &[&format!("b /v1/x {json}"), "a /own/1 200 A", "b /own/1 text/plain", "a /shut 444 B"],
    );
}

#[test]
fn connection_addresses_are_known_if_one_route_logs_them() {
    let folder = LogFolder::new("address-log");
    let text = format!(
        "replicas = ['http://127.0.0.1:1']\n[log.formats]\nport = '$remote_port'\n\
         [[host]]\nname = 'a'\n[[host.route]]\npath = '/'\nanswer = '204'\naccess_log = '{} port'\n",
        folder.path("port.log")
    );
    let router = TestRouter::start(&text);
    let mut client = router.connect();
    let port = client.local_port();
    client.send(build_request("GET", "/", "host: a\r\n", ""));
    assert_eq!(client.read_response().status, 204);
    folder.expect_lines("port.log", &[&port.to_string()]);
}

#[test]
fn reload_moves_logs_of_routes_and_reopening_finds_rotated_files() {
    let replica = start_replica(&["m"]);
    let folder = LogFolder::new("moved-logs");
    let text = |logs: &str| {
        format!(
            "[log.formats]\na = 'a $request_uri'\nb = 'b $request_uri'\n\
             [[pool]]\nname = 'p'\nreplicas = [{:?}]\n\
             [[host]]\n[[host.route]]\npath = '/'\npools = 'p'\naccess_log = {logs}\n",
            replica.url()
        )
    };
    let [one, two, three] = ["one.log", "two.log", "three.log"].map(|name| folder.path(name));
    let (router, file) = start_reloadable_router(&text(&format!("['{one} a', '{two} a']")));
    let reload = |logs: &str| {
        *file.lock().unwrap() = text(logs);
        send_request(router.admin_addr, "POST", "/reload", "", "")
    };
    router.get("/x1");
    // A stream that is under way keeps its logs.
    let mut stream = router.connect();
    stream.send(build_request(
        "POST",
        &format!("{CHAT_PATH}?s"),
        "x-request-id: s\r\nx-emulate-lockstep: 1\r\n",
        chat_body("m", 2, true),
    ));
    assert_eq!(stream.read_head().status, 200);
    let reply = reload(&format!("['{two} b', '{three} b']"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    router.get("/x2");
    wait_until("the stream ends", || {
        drop(send_request(replica.addr(), "POST", "/emulate/next/s", "", ""));
        router.in_flight() == 0
    });
    drop(stream);
    folder.expect_lines("one.log", &["a /x1", "a /v1/chat/completions?s"]);
    wait_until("no request has the log that was removed", || folder.open_count("one.log") == 0);
    folder.expect_lines("three.log", &["b /x2"]);
    assert_eq!((folder.open_count("two.log"), folder.open_count("three.log")), (1, 1));

    let refused = reload("'/no/such/folder/a.log'");
    assert!(refused.status == 400 && refused.text().contains("/no/such/folder/a.log"), "{}", refused.text());
    fs::rename(&two, folder.path("two.old")).unwrap();
    fs::rename(&three, folder.path("three.old")).unwrap();
    router.server.reopen_logs();
    router.get("/x3");
    folder.expect_lines("two.log", &["b /x3"]);
    folder.expect_lines("three.log", &["b /x3"]);
    assert!(reload("'off'").status == 200 && router.get("/x4").status == 404);
    wait_until("all logs are closed", || folder.open_count("two.log") + folder.open_count("three.log") == 0);
    assert_eq!(folder.read("two.old"), "a /x1\nb /x2\na /v1/chat/completions?s\n");
}

#[test]
fn reloads_lose_no_line_of_a_route() {
    let replica = start_replica(&["m"]);
    let folder = LogFolder::new("kept-lines");
    let text = |round: usize| {
        let other = folder.path(&format!("{}.log", round % 3));
        format!(
            "replicas = [{:?}]\n[log]\naccess = '{}'\nformat = 'default'\n[log.formats]\ndefault = 'default'\n\
             a = 'a $request_uri'\nb{round} = 'b $request_uri'\n\
             [[host]]\nname = 'a'\n[[host.route]]\npath = '/'\nanswer = '204'\n\
             access_log = ['{} a', '{other} b{round}']\n",
            replica.url(),
            folder.path("default.log"),
            folder.path("kept.log"),
        )
    };
    let (router, file) = start_reloadable_router(&text(0));
    let (sent, done) = (AtomicU32::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = TestClient::connect(router.addr);
                while !done.load(Ordering::Relaxed) {
                    let number = sent.fetch_add(1, Ordering::Relaxed);
                    client.send(build_request("GET", &format!("/{number}"), "host: a\r\n", ""));
                    assert_eq!(client.read_response().status, 204);
                }
            });
        }
        for round in 1..=30 {
            *file.lock().unwrap() = text(round);
            let before = sent.load(Ordering::Relaxed);
            let reply = send_request(router.admin_addr, "POST", "/reload", "", "");
            assert_eq!(reply.status, 200, "{}", reply.text());
            wait_until("requests continue", || sent.load(Ordering::Relaxed) > before + 20);
        }
        done.store(true, Ordering::Relaxed);
    });
    router.server.stop();
    let sent = sent.load(Ordering::Relaxed);
    let numbers = |names: &[&str], format: &str| {
        let text: String = names.iter().map(|name| folder.read(name)).collect();
        let mut numbers: Vec<u32> = text.lines().filter_map(|line| line.strip_prefix(format)?.parse().ok()).collect();
        assert_eq!(text.lines().count(), numbers.len(), "every line is whole");
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(numbers(&["kept.log"], "a /"), (0..sent).collect::<Vec<_>>());
    assert_eq!(numbers(&["0.log", "1.log", "2.log"], "b /"), (0..sent).collect::<Vec<_>>());
    assert_eq!(folder.read("default.log"), "");
}
