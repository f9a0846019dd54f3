//! Who may ask after an import: addresses, methods and API keys.

use super::import_text;
use crate::tenants::KeyDigest;

/// Imports a server, with more directives in `http`.
fn import_server(http: &str, server: &str) -> String {
    let imported = import_text(&format!("http {{ {http} server {{ {server} }} }}"));
    imported.unwrap_or_else(|report| panic!("{server}\n{report}")).toml
}

/// Returns the lines of the route with this path.
fn route<'a>(toml: &'a str, path: &str) -> &'a str {
    let mut routes = toml.split("\n[[").filter(|part| part.starts_with("host.route]]"));
    let found = routes.find(|part| part.contains(&format!("path = \"{path}\"\n")));
    found.unwrap_or_else(|| panic!("no route {path} in\n{toml}"))
}

const PASS: &str = "proxy_pass http://h:1;";

#[test]
fn condition_becomes_a_key_of_its_scope() {
    let toml = import_server(
        "map $http_authorization $ok { default 0; 'Bearer k2' 1; 'Bearer k3' 1; }",
        &format!(
            "location /a/ {{ if ($http_authorization != 'Bearer k1') {{ return 403; }} {PASS} }}
             location /b/ {{ if ($ok = 0) {{ return 401; }} {PASS} location /b/open/ {{ {PASS} }} }}
             location /c/ {{ if ($http_authorization != 'Bearer k1') {{ return 401; }} return 200 ok; }}
             location = /health {{ return 200 ok; }} location / {{ {PASS} }}"
        ),
    );
    for (name, secret) in [("imported-1", "k1"), ("imported-2", "k2"), ("imported-3", "k3")] {
        let hash = KeyDigest::from_secret(secret.as_bytes()).to_config_text();
        assert!(toml.contains(&format!("[[key]]\nname = \"{name}\"\nhash = \"{hash}\"")), "{toml}");
    }
    let top = toml.split("\n[").next().unwrap();
    assert!(top.contains("\nkeys = \"none\"\n"), "{toml}");
    assert!(route(&toml, "/a/").contains("\nkeys = [\"imported-1\"]\n"), "{toml}");
    assert!(route(&toml, "/b/").contains("\nkeys = [\"imported-2\", \"imported-3\"]\n"), "{toml}");
    assert!(route(&toml, "/c/").contains("\nkeys = [\"imported-1\"]\n"), "{toml}");
    for open in ["/b/open/", "= /health", "/"] {
        assert!(!route(&toml, open).contains("keys"), "{toml}");
    }
    assert!(toml.contains("# note: if ($http_authorization ... {} (nginx.conf:1) - it becomes the API key imported-1: other requests get 401 (nginx: 403); "), "{toml}");
    assert!(!toml.contains("Bearer k"), "no key is shown: {toml}");
}

#[test]
fn key_of_a_server_holds_for_all_of_its_routes() {
    let server = "if ($http_authorization != 'Bearer k1') { return 401; }";
    let toml = import_server(
        "server { listen 81; location / { proxy_pass http://h:2; } }",
        &format!("{server} location /a/ {{ {PASS} }} location = /health {{ return 200 ok; }}"),
    );
    let host = toml.split("\n[[host]]").nth(2).unwrap();
    assert!(host.split("\n[[").next().unwrap().contains("\nkeys = [\"imported-1\"]\n"), "{toml}");
    assert_eq!(toml.matches("keys = ").count(), 2, "{toml}");
    let toml = import_server("", &format!("{server} location / {{ {PASS} }}"));
    assert!(toml.contains("\nkeys = [\"imported-1\"]\n") && !toml.contains("\"none\""), "{toml}");
}

#[test]
fn values_of_set_show_no_key() {
    let secret = "sk-0123456789abcdef";
    let toml = import_server(
        "",
        &format!(
            "set $key '{secret}'; location / {{ if ($http_authorization != \"Bearer $key\") {{ return 401; }} {PASS} }}"
        ),
    );
    assert!(toml.contains("keys = [\"imported-1\"]") && !toml.contains(secret), "{toml}");
    let report = import_text(&format!(
        "server {{ location / {{\nif ($http_authorization = 'Bearer {secret}') {{ return 401; }}\n{PASS} }} }}"
    ));
    let report = report.unwrap_err().to_string();
    assert!(
        report.starts_with("nginx.conf:2:1: `if` cannot be carried over: ") && !report.contains(secret),
        "{report}"
    );
}

#[test]
fn addresses_are_inherited_as_in_nginx() {
    let toml = import_server(
        "",
        &format!(
            "allow 10.0.0.0/8; allow unix:; deny all; location /a/ {{ {PASS} }}
             location /b/ {{ deny 10.0.0.1; {PASS} location /b/c/ {{ allow all; {PASS} }} }}
             location /d/ {{ return 200 ok; }} location /e/ {{ internal; {PASS} }} location /f/ {{ deny all; }}
             location /g/ {{ }} location / {{ {PASS} }}"
        ),
    );
    let rules = "access = [\"allow 10.0.0.0/8\", \"allow unix:\", \"deny all\"]";
    assert!(toml.split("\n[[").next().unwrap().contains(rules), "{toml}");
    for inherits in ["/a/", "/"] {
        assert!(!route(&toml, inherits).contains("access"), "{toml}");
    }
    assert!(route(&toml, "/b/").contains("access = [\"deny 10.0.0.1\"]"), "{toml}");
    assert!(route(&toml, "/b/c/").contains("access = [\"allow all\"]"), "{toml}");
    // These answer before anything looks at addresses.
    for (path, answer) in [("/d/", "200 ok"), ("/e/", "404"), ("/f/", "403"), ("/g/", "404")] {
        let route = route(&toml, path);
        assert!(route.contains(&format!("answer = \"{answer}\"")) && !route.contains("access"), "{toml}");
    }
}

#[test]
fn address_that_nginx_refuses_fails_at_its_place() {
    for rule in ["allow gpu1", "deny 10.0.0.0/33", "allow", "deny all 10.0.0.1"] {
        let report = import_text(&format!("server {{\n{rule}; location / {{ {PASS} }} }}")).unwrap_err().to_string();
        assert!(report.starts_with("nginx.conf:2:"), "{report}");
    }
}

#[test]
fn methods_of_limit_except_are_those_of_its_location() {
    let toml = import_server(
        "",
        &format!(
            "location /a/ {{ limit_except GET POST {{ deny all; }} {PASS} location /a/b/ {{ {PASS} }} }}
             location /c/ {{ limit_except GET {{ deny all; }} return 200 ok; }}
             location /d/ {{ limit_except GET {{ access_log off; }} {PASS} }}
             location /e/ {{ limit_except GET {{ deny all; }} internal; }}"
        ),
    );
    assert!(route(&toml, "/a/").contains("methods = [\"GET\", \"POST\"]"), "{toml}");
    assert!(route(&toml, "/c/").contains("methods = [\"GET\"]"), "{toml}");
    for open in ["/a/b/", "/d/", "/e/"] {
        assert!(!route(&toml, open).contains("methods"), "{toml}");
    }
    for block in ["allow 10.0.0.0/8; deny all;", "auth_basic a;", "deny 10.0.0.1;", "proxy_pass http://h:2;"] {
        let server = format!("server {{ location / {{ {PASS}\nlimit_except GET {{ {block} }} }} }}");
        let report = import_text(&server).unwrap_err().to_string();
        assert!(report.starts_with("nginx.conf:2:1: `limit_except` cannot be carried over: "), "{report}");
    }
}

#[test]
fn condition_that_cannot_be_carried_stops_the_import_where_requests_are_answered() {
    let condition = "\nif ($arg_key != k) { return 403; }";
    for (server, stops) in [
        (format!("location / {{ {condition} {PASS} }}"), true),
        (format!("{condition} location / {{ {PASS} }}"), true),
        (format!("location /a {{ {condition} return 200 ok; }} location / {{ {PASS} }}"), true),
        (format!("location /a {{ {condition} }} location / {{ {PASS} }}"), false),
        (format!("location /a {{ {condition} return 403; }} location / {{ {PASS} }}"), false),
        (format!("location /a {{ {condition} {PASS} internal; }} location / {{ {PASS} }}"), false),
        (format!("location /a {{ {condition} location /a/b {{ {PASS} }} }}"), false),
    ] {
        match import_text(&format!("server {{ {server} }}")) {
            Ok(_) => assert!(!stops, "{server}"),
            Err(report) => {
                let report = report.to_string();
                assert!(stops && report.starts_with("nginx.conf:2:1: `if` cannot be carried over: "), "{report}");
            }
        }
    }
}

#[test]
fn variable_in_a_url_has_its_value_or_stops_the_import() {
    for (server, url) in [
        ("location / { set $up http://engine:8000; proxy_pass $up; }", Some("http://engine:8000 resolve")),
        (
            "set $host_name engine; location / { proxy_pass http://$host_name:8000; }",
            Some("http://engine:8000 resolve"),
        ),
        (
            "set $a eng; set $b ${a}ine; location / { proxy_pass http://$b$request_uri; }",
            Some("http://engine:80 resolve"),
        ),
        (
            "location / { set $up http://10.0.0.1:1; if ($http_x) { set $other 1; } proxy_pass $up; }",
            Some("http://10.0.0.1:1"),
        ),
        ("location / { set $up http://a:1; if ($http_x) { set $up http://b:1; } proxy_pass $up; }", None),
        ("location / { proxy_pass http://$host; }", None),
        ("location / { proxy_pass $scheme://engine; }", None),
        ("location / { set $up http://engine; proxy_pass $up/v1/; }", None),
        ("location / { proxy_pass http://$undefined; }", None),
    ] {
        match (import_text(&format!("server {{ {server} }}")), url) {
            (Ok(imported), Some(url)) => assert!(imported.toml.contains(&format!("  \"{url}\"")), "{}", imported.toml),
            (Err(report), None) => assert!(report.to_string().contains("proxy_pass"), "{report}"),
            (Ok(imported), None) => panic!("{server}\n{}", imported.toml),
            (Err(report), Some(_)) => panic!("{server}\n{report}"),
        }
    }
}

#[test]
fn names_with_an_answer_of_their_own_become_hosts() {
    let certbot = "server { if ($host = www.a.example) { return 301 https://$host$request_uri; }
        if ($host = a.example) { return 301 https://$host$request_uri; }
        listen 80; server_name a.example www.a.example; return 404; }";
    let toml = import_text(&format!("{certbot} server {{ listen 81; location / {{ {PASS} }} }}")).unwrap().toml;
    let hosts: Vec<&str> = toml.split("\n[[host]]\n").skip(1).collect();
    assert_eq!(hosts.len(), 4, "{toml}");
    for (host, name, listen, answer) in [
        (hosts[0], "name = \"a.example\"\n", "listen = \"0.0.0.0:80\"\n", "301 https://$host$request_uri"),
        (hosts[1], "name = \"www.a.example\"\n", "listen = \"0.0.0.0:80\"\n", "301 https://$host$request_uri"),
        (hosts[2], "", "listen = \"0.0.0.0:80\"\n", "404"),
    ] {
        assert!(host.starts_with(&format!("{name}{listen}")), "{toml}");
        assert!(host.contains(&format!("\nanswer = \"{answer}\"\n")), "{toml}");
    }
    assert!(!toml.contains("# cannot: if"), "{toml}");
    let toml = import_server(
        "",
        &format!(
            "server_name a.example www.a.example; if ($host = www.a.example) {{ return 301 https://a.example$request_uri; }}
             if ($http_authorization != 'Bearer k1') {{ return 401; }} location / {{ {PASS} }}"
        ),
    );
    let hosts: Vec<&str> = toml.split("\n[[host]]\n").skip(1).collect();
    assert!(hosts[0].starts_with("name = \"www.a.example\"\n") && hosts[0].contains("\nkeys = \"none\"\n"), "{toml}");
    assert!(hosts[1].starts_with("name = \"a.example\"\nlisten = \"0.0.0.0:80 default_server\"\n"), "{toml}");
    assert!(hosts[1].contains("\npools = \"h:1\"\n"), "{toml}");
}

#[test]
fn other_names_may_be_refused() {
    let toml = import_server(
        "",
        &format!(
            "server_name a.example *.b.example; if ($host != a.example) {{ return 444; }} location / {{ {PASS} }}"
        ),
    );
    let hosts: Vec<&str> = toml.split("\n[[host]]\n").skip(1).collect();
    assert!(hosts[0].starts_with("name = \"a.example\"\n") && !hosts[0].contains("default_server"), "{toml}");
    assert!(hosts[1].starts_with("name = \"*.b.example\"\nlisten = \"0.0.0.0:80 default_server\"\n"), "{toml}");
    assert!(hosts[1].contains("\nanswer = \"444\"\n"), "{toml}");
    for condition in ["if ($host != b.example) { return 444; }", "if ($host ~* a) { return 444; }"] {
        let server = format!("server {{ server_name a.example;\n{condition} location / {{ {PASS} }} }}");
        let report = import_text(&server).unwrap_err().to_string();
        assert!(report.starts_with("nginx.conf:2:1: `if` cannot be carried over: "), "{report}");
    }
}
