//! Servers and locations become hosts and routes with nginx's results.

use proptest::prelude::*;

use super::import_text;

const ADDRESSES: [&str; 6] =
    ["listen 80;", "listen 80 default_server;", "listen 81;", "listen 127.0.0.1:80;", "listen 443 ssl;", ""];
const SERVER_LINES: [&str; 24] = [
    "server_name a b;",
    "server_name *.a .b;",
    "server_name \"\";",
    "server_name _;",
    "server_name ~^(www\\.)?a$;",
    "server_name ~^.+\\.b$;",
    "ssl_certificate /c.pem; ssl_certificate_key /k.pem;",
    "return 403;",
    "return 200 \"$server_name\";",
    "rewrite ^ https://$host$request_uri? permanent;",
    "client_max_body_size 0;",
    "client_max_body_size 2k;",
    "proxy_read_timeout 5s;",
    "keepalive_timeout 0;",
    "client_header_timeout 5s;",
    "large_client_header_buffers 2 16k;",
    "access_log off;",
    "access_log /l; access_log /m;",
    "set_real_ip_from 10.0.0.0/8;",
    "real_ip_header X-A;",
    "add_header A b; add_header A c always;",
    "proxy_set_header Authorization \"Bearer k\";",
    "gzip on; gzip_types application/json;",
    "deny all;",
];
const LOCATION_HEADS: [&str; 11] =
    ["/", "/a", "/a/", "/a/b/", "^~ /a/", "= /a", "= /a/", "~ \\.x$", "~* ^/a/", "@name", "/a%b c"];
const LOCATION_LINES: [&str; 12] = [
    "proxy_pass http://u;",
    "proxy_pass http://u/;",
    "proxy_pass https://h:2/v1;",
    "set $x http://h:3; proxy_pass $x;",
    "return 204;",
    "internal;",
    "deny all;",
    "rewrite ^/a/(.*)$ /$1 break;",
    "default_type a/b;",
    "proxy_set_header Authorization \"Bearer k\";",
    "proxy_hide_header A;",
    "client_max_body_size 3k;",
];

/// A `location` with lines of its own and locations in it.
fn arbitrary_location() -> impl Strategy<Value = String> {
    let head = proptest::sample::select(&LOCATION_HEADS[..]);
    let lines = proptest::collection::vec(proptest::sample::select(&LOCATION_LINES[..]), 0..3);
    let block = |(head, lines): (&str, Vec<&str>), nested: String| {
        let quoted =
            if head.contains(' ') && !head.contains(['~', '=']) { format!("\"{head}\"") } else { head.to_owned() };
        format!("location {quoted} {{ {} {nested} }}", lines.join(" "))
    };
    let leaf = (head, lines).prop_map(move |parts| block(parts, String::new())).boxed();
    let head = proptest::sample::select(&LOCATION_HEADS[..]);
    let nested = (head, proptest::collection::vec(leaf.clone(), 0..3));
    let outer =
        nested.prop_map(|(head, inner)| format!("location {head} {{ proxy_pass http://u; {} }}", inner.join(" ")));
    prop_oneof![3 => leaf, 1 => outer.prop_map(|text| text.replace("location /a%b c", "location /c"))]
}

fn arbitrary_server() -> impl Strategy<Value = String> {
    let addresses = proptest::sample::subsequence(&ADDRESSES[..], 0..3);
    let lines = proptest::sample::subsequence(&SERVER_LINES[..], 0..4);
    let locations = proptest::collection::vec(arbitrary_location(), 0..4);
    (addresses, lines, locations).prop_map(|(addresses, lines, locations)| {
        format!("server {{ {} {} {} }}", addresses.join(" "), lines.join(" "), locations.join(" "))
    })
}

proptest! {
    #[test]
    fn arbitrary_servers_give_errors_or_a_configuration_that_loads(
        servers in proptest::collection::vec(arbitrary_server(), 1..5)
    ) {
        let text = format!("http {{ upstream u {{ server h:1; }} {} }}", servers.join("\n"));
        if let Err(report) = import_text(&text) {
            // Errors are in the input, never in the generated text.
            prop_assert!(report.diagnostics().iter().all(|issue| issue.file == "nginx.conf"), "{text}\n{report}");
        }
    }
}

/// Imports servers inside `http`, and returns router.toml.
fn import_servers(servers: &str) -> String {
    import_text(&format!("http {{ upstream u {{ server h:1; }} {servers} }}")).unwrap_or_else(|e| panic!("{e}")).toml
}

/// Returns the first line of the errors of servers.
fn first_error(servers: &str) -> String {
    let report = import_text(&format!("http {{ upstream u {{ server h:1; }}\n{servers} }}")).unwrap_err().to_string();
    report.lines().next().unwrap_or_default().to_owned()
}

const OPEN: &str = "server { listen 80; server_name open; location / { proxy_pass http://u; } }";

#[test]
fn closed_server_is_a_host_that_leads_nowhere() {
    for (block, expected) in [
        ("return 403;", "path = \"/\"\nanswer = \"403\"\n"),
        ("return 444; location / { proxy_pass http://u; }", "path = \"/\"\nanswer = \"444\"\n"),
        ("return 301 https://$host$request_uri;", "answer = \"301 https://$host$request_uri\"\n"),
        ("rewrite ^ https://$host$request_uri? permanent;", "answer = \"301 https://$host$request_uri\"\n"),
        ("location / { internal; proxy_pass http://u; }", "path = \"/\"\nanswer = \"404\"\n"),
        ("location /x { root /srv; }", "path = \"/x\"\nanswer = \"404\"\n"),
        ("", "[[host]]\nname = \"closed\"\n\n# upstream"),
    ] {
        let toml = import_servers(&format!("{OPEN} server {{ listen 80; server_name closed; {block} }}"));
        assert!(toml.contains("name = \"closed\"\n") && toml.contains(expected), "{block}: {toml}");
        assert!(toml.contains("name = \"open\"\nlisten = \"0.0.0.0:80 default_server\"\n"), "{toml}");
    }
}

#[test]
fn default_server_is_marked_or_the_first() {
    for (first, second, expected) in [
        ("listen 80;", "listen 80;", ["0.0.0.0:80 default_server", ""]),
        ("listen 80;", "listen 80 default_server;", ["", "0.0.0.0:80 default_server"]),
        ("listen 80;", "listen 81;", ["0.0.0.0:80 default_server", "0.0.0.0:81 default_server"]),
        ("listen 80;", "listen 127.0.0.1:80;", ["0.0.0.0:80 default_server", "127.0.0.1:80 default_server"]),
        ("listen 80; listen 81;", "listen 81;", ["\", \"0.0.0.0:81 default_server\"]", "listen = \"0.0.0.0:81\""]),
        ("", "listen *:80;", ["0.0.0.0:80 default_server", ""]),
    ] {
        let server = |name: &str, listen: &str| {
            format!("server {{ server_name {name}; {listen} location / {{ proxy_pass http://u; }} }} ")
        };
        let toml = import_servers(&(server("one", first) + &server("two", second)));
        let (_, hosts) = toml.split_once("name = \"one\"\n").unwrap();
        let (one, two) = hosts.split_once("name = \"two\"\n").unwrap();
        assert!(one.contains(expected[0]) && two.contains(expected[1]), "{first} {second}: {toml}");
        assert_eq!(one.contains("listen"), !expected[0].is_empty(), "{toml}");
    }
}

#[test]
fn name_belongs_to_the_first_server_of_an_address() {
    let two = |names: &str, listen: &str| {
        format!("{OPEN} server {{ {listen} server_name {names}; location / {{ proxy_pass http://u; }} }}")
    };
    let toml = import_servers(&two("open other", "listen 80;"));
    assert!(toml.contains("name = \"other\"\n") && toml.contains("not needed: server_name open;"), "{toml}");
    let toml = import_servers(&two("open", "listen 80;"));
    assert!(toml.contains("not needed: server {} (nginx.conf:1) - no request reaches it"), "{toml}");
    let error = first_error(&two("open other", "listen 80; listen 81;"));
    assert!(error.contains("another server has some of these names, at some of the addresses"), "{error}");
    assert!(import_servers(&two("\"\"", "listen 80;")).contains("name = \"\"\n"));
    for pattern in ["~^op(en|al)$", "~^(?<x>.+)\\.example$ *.example"] {
        let servers = two(pattern, "listen 80;") + "server { listen 80; server_name a.example; return 403; }";
        assert_eq!(import_text(&servers).is_ok(), pattern.contains('*'), "{pattern}");
    }
}

#[test]
fn nested_locations_keep_their_meaning() {
    for (locations, expected) in [
        ("location /a/ { P location /a/b/ { return 403; } }", &["path = \"/a/\"", "path = \"/a/b/\""][..]),
        ("location ^~ /a/ { P location /a/b/ { return 403; } }", &["path = \"^~ /a/\"", "path = \"^~ /a/b/\""]),
        ("location /a/ { P location ~ \\.x$ { return 403; } }", &["path = \"~ ^/a/(?s:.*)\\\\.x$\""]),
        ("location ~ ^/b { P } location /a/ { P location ~* ^/a/B { P } }", &["path = \"~ ^/a/(?i)B\""]),
        ("location /a/ { P location /a/b/c/ { P } } location /a/b/ { P }", &["takes its requests"]),
        ("location /a/ { P location ~ x$ { P } } location /a/b/ { P }", &["cannot be inside"]),
        ("location ^~ /a/ { P location ~ x$ { P } } location ~ y { P }", &["cannot be inside"]),
        ("location /a/ { P location /b/ { P } }", &["cannot be inside"]),
        ("location = /a { P location /a/b { P } }", &["cannot be inside"]),
        ("location ~ ^/a { P location ~ b { P } }", &["cannot be inside"]),
        ("location /a/ { P } location ^~ /a/ { P }", &["a second location"]),
    ] {
        let servers = format!("server {{ {} }}", locations.replace('P', "proxy_pass http://u;"));
        let result = import_text(&format!("upstream u {{ server h:1; }} {servers}"));
        let text = result.map_or_else(|report| report.to_string(), |imported| imported.toml);
        assert!(expected.iter().all(|part| text.contains(part)), "{locations}: {text}");
    }
    let toml = import_servers(
        "server { location ~ ^/b { proxy_pass http://u; } location /a/ { proxy_pass http://u; location ~ b$ { return 403; } } }",
    );
    assert!(toml.find("path = \"~ ^/a/") < toml.find("path = \"~ ^/b\""), "{toml}");
}

#[test]
fn upstream_is_one_pool() {
    let toml = import_servers(
        "server { location / { proxy_pass http://u; } location /a/ { proxy_pass http://u/b/; } }
         server { server_name b; location / { proxy_pass http://u; proxy_read_timeout 5s; } }",
    );
    assert_eq!(toml.matches("[[pool]]").count(), 1, "{toml}");
    assert!(toml.contains("pools = \"u\"\nreplace_path = \"/b/\""), "{toml}");
    let header = "proxy_set_header Authorization \"Bearer k\";";
    let toml = import_servers(&format!(
        "server {{ location / {{ proxy_pass http://u; }} location /a/ {{ proxy_pass http://u; {header} }} }}"
    ));
    assert_eq!(toml.matches("[[pool]]").count(), 2, "{toml}");
    assert!(toml.contains("pools = \"u#2\"") && toml.contains("# note: upstream u {} (nginx.conf:1) - "), "{toml}");
}

#[test]
fn path_of_a_location_is_replaced() {
    for (location, expected) in [
        ("location /a/ { proxy_pass http://u/; }", &["path = \"/a/\"\npools = \"u\"\nreplace_path = \"/\"\n"][..]),
        ("location /a/ { proxy_pass http://u$request_uri; }", &["path = \"/a/\"\npools = \"u\"\n\n"]),
        ("location /a/ { rewrite ^/a/(.*)$ /$1 break; proxy_pass http://u; }", &["replace_path = \"/\"\n"]),
        (
            "location /a/ { rewrite ^/a/v1/(.*)$ /$1 break; proxy_pass http://u; }",
            &["path = \"/a/v1\"\npools = \"u\"\n\n", "path = \"/a/v1/\"\npools = \"u\"\nreplace_path = \"/\"\n"],
        ),
        ("location = /a/ { proxy_pass http://u; }", &["path = \"= /a\"\nanswer = \"301 /a/$is_args$args\"\n"]),
        ("location /a/ { set $e http://e:8; proxy_pass $e; }", &["\"http://e:8 resolve\""]),
    ] {
        let toml = import_servers(&format!("server {{ {location} }}"));
        assert!(expected.iter().all(|part| toml.contains(part)), "{location}: {toml}");
    }
    for (location, expected) in [
        ("location /a/ { rewrite ^/b/(.*)$ /$1 break; proxy_pass http://u; }", "nginx.conf:2:25: `rewrite` cannot be"),
        (
            "location / { rewrite ^/b /c last; proxy_pass http://u; }",
            "nginx.conf:2:23: `rewrite` cannot be carried over",
        ),
        ("location / { proxy_pass http://$host; }", "nginx.conf:2:34: this URL depends on the request"),
        (
            "location ~ a { proxy_pass http://u/b; }",
            "nginx.conf:2:36: the URL has a path, and its location is a regular",
        ),
        ("location ~ (?=a) { proxy_pass http://u; }", "nginx.conf:2:21: the path of this location cannot be carried"),
    ] {
        let error = first_error(&format!("server {{ {location} }}"));
        assert!(error.starts_with(expected), "{location}: {error}");
    }
}

#[test]
fn keys_are_written_where_they_differ() {
    let toml = import_servers(
        "proxy_read_timeout 5s; client_header_timeout 5s;
         server { proxy_read_timeout 6s; location / { proxy_pass http://u; proxy_read_timeout 6s; }
             location /a/ { proxy_pass http://u; proxy_connect_timeout 1s; add_header A b; } }
         server { server_name b; client_header_timeout 9s; location / { proxy_pass http://u; } }",
    );
    for part in [
        "first_byte = \"5s\"\nplain_answer = \"5s\"\nplain_answer_max = \"5s\"\nidle = \"5s\"\nclient_header = \"9s\"",
        "timeouts = { first_byte = \"6s\", plain_answer = \"6s\", plain_answer_max = \"6s\", idle = \"6s\" }",
        "success_headers = { A = \"b\" }\ntimeouts = { connect = \"1s\" }",
        "# cannot: client_header_timeout 5s; (nginx.conf:1) - the router has one value for all servers",
    ] {
        assert!(toml.contains(part), "{part}: {toml}");
    }
    assert_eq!(toml.matches("timeouts = {").count(), 2, "{toml}");
}
