//! Who may read and change what on the admin listener: tokens, sessions, hosts and origins.

use crate::harness::client::HttpResponse;
use crate::harness::{TestRouter, send_request, start_replica};

/// The hash of `open-sesame`.
const TOKEN: &str = "admin_token = \"sha256:d7ecdf25eaf3deba0f2628771dbdd22d4138ab6cf38f91ed02a2ca0dec7c8ab7\"\n";

fn start_router(options: &str) -> (tokenweir::emulate::EmulatedReplica, TestRouter) {
    let replica = start_replica(&["m"]);
    let router = TestRouter::start(&format!("{options}replicas = [{:?}]\n", replica.url())).wait_until_ready();
    (replica, router)
}

fn ask(router: &TestRouter, method: &str, path: &str, headers: &str, body: &str) -> HttpResponse {
    let host = if headers.contains("host:") { String::new() } else { format!("host: {}\r\n", router.admin_addr) };
    send_request(router.admin_addr, method, path, &format!("{host}{headers}"), body)
}

#[test]
fn page_is_whole_and_has_a_tag_and_a_policy() {
    let (_replica, router) = start_router("");
    let page = ask(&router, "GET", "/", "", "");
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    let name = router.server.fleet().replicas()[0].name().to_string();
    assert!(
        page.text().contains(&format!("<th scope=\"row\">{name}</th>")),
        "the table is in the page without scripts"
    );
    assert!(ask(&router, "GET", "/table", "", "").text().contains(&name));
    let tag = page.header("etag").unwrap().to_owned();
    assert_eq!(ask(&router, "GET", "/", &format!("if-none-match: {tag}\r\n"), "").status, 304);
    let zipped = ask(&router, "GET", "/", "accept-encoding: gzip\r\n", "");
    assert_eq!(zipped.header("content-encoding"), Some("gzip"));
    assert!(zipped.body.len() < 60_000, "{}", zipped.body.len());
}

#[test]
fn foreign_names_and_foreign_pages_are_refused() {
    let (_replica, router) = start_router("admin_hosts = [\"router.example\"]\n");
    for (host, wanted) in [("evil.example", 403), ("router.example", 200), ("localhost:1", 200), ("[::1]:9464", 200)] {
        for path in ["/", "/pools", "/table"] {
            assert_eq!(ask(&router, "GET", path, &format!("host: {host}\r\n"), "").status, wanted, "{host}{path}");
        }
        assert_eq!(ask(&router, "GET", "/metrics", &format!("host: {host}\r\n"), "").status, 200, "scrapers use names");
    }
    let path = format!("/replicas/{}/drain", router.server.fleet().replicas()[0].name());
    let own = format!("origin: http://{}\r\n", router.admin_addr);
    for (headers, wanted) in
        [("origin: http://evil.example\r\n", 403), ("origin: null\r\n", 403), (own.as_str(), 200), ("", 200)]
    {
        assert_eq!(ask(&router, "POST", &path, headers, "").status, wanted, "{headers}");
    }
}

#[test]
fn token_opens_a_session_by_a_form() {
    let (_replica, router) = start_router(TOKEN);
    let form = ask(&router, "GET", "/", "", "");
    assert!(
        form.status == 200 && form.text().contains("action=\"/login\"") && !form.text().contains("/live"),
        "{}",
        form.text()
    );
    for path in ["/pools", "/live", "/table", "/explain/a"] {
        assert_eq!(ask(&router, "GET", path, "", "").status, 401, "{path}");
    }
    let own = format!("origin: http://{}\r\ncontent-type: application/x-www-form-urlencoded\r\n", router.admin_addr);
    assert_eq!(ask(&router, "POST", "/login", "origin: http://evil.example\r\n", "token=open-sesame").status, 403);
    assert_eq!(ask(&router, "POST", "/login", &own, "token=wrong").status, 401);
    assert_eq!(ask(&router, "POST", "/login", &own, "token=open-sesame").status, 429, "at once after a wrong one");
    std::thread::sleep(std::time::Duration::from_millis(600));
    let login = ask(&router, "POST", "/login", &own, "token=open%2Dsesame");
    assert_eq!((login.status, login.header("location")), (303, Some("/")));
    let cookie = login.header("set-cookie").unwrap().to_owned();
    assert!(cookie.contains("; HttpOnly; SameSite=Strict") && !cookie.contains("sesame"), "{cookie}");
    let session = format!("cookie: {}\r\n", cookie.split(';').next().unwrap());
    assert_eq!(ask(&router, "GET", "/pools", &session, "").status, 200);
    assert!(ask(&router, "GET", "/", &session, "").text().contains("/live"));
    assert_eq!(ask(&router, "GET", "/pools", "cookie: tokenweir_admin=0\r\n", "").status, 401);
    assert_eq!(ask(&router, "POST", "/logout", &format!("{session}{own}"), "").status, 303);
    assert_eq!(ask(&router, "GET", "/pools", &session, "").status, 401);
    assert_eq!(ask(&router, "GET", "/pools", "authorization: Bearer open-sesame\r\n", "").status, 200);
}
