//! What nginx refuses, or leads elsewhere, reaches no replica after an import.

use super::{Diagnostics, ImportedConfig, import_text};

const KNOWN_DIRECTIVES: &str = include_str!("../../../tests/import/known_directives.txt");

/// Returns the known directives of a kind, each with its blocks.
fn directives_of(kind: &str) -> Vec<(&'static str, Vec<&'static str>)> {
    let lines = KNOWN_DIRECTIVES.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let of_kind = lines.filter(|words| words.len() == 3 && words[2] == kind);
    of_kind.map(|words| (words[0], words[1].split(',').collect())).collect()
}

/// Imports a configuration with a directive in one of its blocks, alone in line 2.
fn import_in(block: &str, directive: &str) -> Result<ImportedConfig, Diagnostics> {
    let line = |here: &str| if block == here { format!("\n{directive}\n") } else { String::new() };
    import_text(&format!(
        "http {{ {} upstream a {{ {} server h:1; }} server {{ {} location / {{ {} proxy_pass http://a; }} }} }}",
        line("http"),
        line("upstream"),
        line("server"),
        line("location"),
    ))
}

/// A directive in one line, with arguments or a block that turn it on.
fn turned_on(name: &str) -> String {
    match name {
        name if name.ends_with("_block") => format!("{name} {{ return 1 }}"),
        "proxy_pass_request_body" | "proxy_pass_request_headers" => format!("{name} off;"),
        _ => format!("{name} on;"),
    }
}

#[test]
fn guard_stops_the_import_at_its_line_on_every_level() {
    let guards = directives_of("stops");
    assert!(guards.len() > 40);
    for (name, blocks) in guards {
        for block in blocks.iter().filter(|block| ["http", "server", "location", "upstream"].contains(block)) {
            let report = import_in(block, &turned_on(name)).unwrap_err().to_string();
            assert!(report.starts_with(&format!("nginx.conf:2:1: `{name}` cannot be carried over: ")), "{report}");
        }
        if blocks.contains(&"if") {
            let condition = format!("if ($http_x) {{ {} }}", turned_on(name));
            let report = import_in("location", &condition).unwrap_err().to_string();
            assert!(report.starts_with("nginx.conf:2:1: `if` cannot be carried over: "), "{report}");
        }
    }
}

#[test]
fn guard_that_protects_no_replica_is_a_remark() {
    for (name, _) in directives_of("stops").iter().filter(|(_, blocks)| blocks.contains(&"location")) {
        let line = turned_on(name);
        let text = format!(
            "server {{ location / {{ proxy_pass http://h:1; }} location /a {{ {line} }} location /b {{ {line} return 403; }} }}"
        );
        let imported = import_text(&text).unwrap();
        assert_eq!(imported.remarks.iter().filter(|remark| remark.subject.starts_with(name)).count(), 2, "{name}");
    }
}

#[test]
fn guard_is_off_where_nginx_turns_it_off() {
    for (outer, inner) in [
        ("auth_basic a;", "auth_basic off;"),
        ("auth_request /a;", "auth_request off;"),
        ("modsecurity on;", "modsecurity off;"),
        ("proxy_pass_request_headers off;", "proxy_pass_request_headers on;"),
    ] {
        let import_with = |inner: &str, more: &str| {
            import_text(&format!("server {{ {outer} location / {{ {inner} proxy_pass http://h:1; }} {more} }}"))
        };
        assert!(import_with(inner, "").is_ok(), "{outer}");
        assert!(import_with("", "").is_err(), "{outer}");
        assert!(import_with(inner, "location /b { proxy_pass http://h:1; }").is_err(), "{outer}");
    }
}

#[test]
fn location_answers_itself_or_leads_to_replicas() {
    for (name, blocks) in directives_of("answers") {
        if !blocks.contains(&"location") {
            continue;
        }
        let line = turned_on(name);
        let report = import_in("location", &line).unwrap_err().to_string();
        assert!(report.starts_with(&format!("nginx.conf:2:1: `{name}` cannot be carried over: ")), "{report}");
        let alone = format!("server {{ location / {{ proxy_pass http://h:1; }} location /a {{ {line} }} }}");
        assert!(import_text(&alone).unwrap().toml.contains("path = \"/a\"\nanswer = \"404\""), "{name}");
    }
}

#[test]
fn error_page_that_leads_to_replicas_stops_the_import() {
    let import_with = |page: &str, named: &str| {
        import_text(&format!(
            "server {{ location / {{ proxy_pass http://h:1; }}\n{page}\nlocation @other {{ {named} }} location /closed {{ return 403; }} }}"
        ))
    };
    let report = import_with("error_page 403 = @other;", "proxy_pass http://h:2;").unwrap_err().to_string();
    assert!(report.starts_with("nginx.conf:2:1: `error_page` cannot be carried over: "), "{report}");
    assert!(import_with("error_page 403 = @other;", "return 503;").is_ok());
    assert!(import_with("error_page 500 502 503 504 /50x.html;", "proxy_pass http://h:2;").is_ok());
}

#[test]
fn rewrite_stops_the_import_where_the_server_leads_to_replicas() {
    for place in ["rewrite ^/a /b last;", "location /a { rewrite ^/a /b last; }", "if ($host) { rewrite ^/a /b; }"] {
        assert!(
            import_text(&format!("server {{ {place} location / {{ proxy_pass http://h:1; }} }}")).is_err(),
            "{place}"
        );
        let other = format!("server {{ listen 81; {place} }} server {{ location / {{ proxy_pass http://h:1; }} }}");
        assert!(import_text(&other).is_ok(), "{place}");
    }
}

#[test]
fn directive_in_a_wrong_block_stops_the_import() {
    for (block, line) in [
        ("location", "server_name a;"),
        ("location", "least_conn;"),
        ("server", "worker_processes 2;"),
        ("server", "map $a $b { }"),
        ("server", "limit_except GET { deny all; }"),
        ("http", "proxy_pass http://h:1;"),
        ("http", "internal;"),
        ("upstream", "gzip on;"),
    ] {
        let report = import_in(block, line).unwrap_err().to_string();
        let name = line.split_whitespace().next().unwrap().trim_end_matches(';');
        assert!(report.contains(&format!("nginx.conf:2:1: `{name}` is not allowed here")), "{report}");
    }
}

#[test]
fn file_that_cannot_be_read_stops_the_import() {
    let import_with =
        |line: &str| import_text(&format!("server {{ location / {{\n{line} proxy_pass http://h:1; }} }}"));
    for line in ["include snippets/auth.conf;", "include proxy_params;"] {
        let report = import_with(line).unwrap_err().to_string();
        assert!(report.starts_with("nginx.conf:2:9: ") && report.contains(" cannot be read: "), "{report}");
    }
    for line in ["include mime.types;", "include /etc/letsencrypt/options-ssl-nginx.conf;", "include a/fastcgi_params;"]
    {
        assert!(import_with(line).is_ok(), "{line}");
    }
    assert!(import_with("include my-fastcgi_params;").is_err());
}

#[test]
fn host_of_an_unknown_variable_stops_the_import() {
    let import_with = |value: &str| {
        import_text(&format!("server {{ location / {{\nproxy_set_header Host {value}; proxy_pass http://h:1; }} }}"))
    };
    let report = import_with("$tenant_host").unwrap_err().to_string();
    assert!(report.starts_with("nginx.conf:2:1: this Host cannot be carried over: "), "{report}");
    for value in ["$host", "$http_host", "$proxy_host", "a.example", "$host:$server_port"] {
        assert!(import_with(value).is_ok(), "{value}");
    }
}

#[test]
fn unmerged_slashes_of_a_closed_default_server_stop_the_import() {
    let servers = |value: &str| {
        format!(
            "server {{ listen 80;\nmerge_slashes {value};\nreturn 444; }} server {{ listen 80; server_name a; \
             location / {{ deny all; }} location /v1/ {{ proxy_pass http://h:1; }} }}"
        )
    };
    let report = import_text(&servers("off")).unwrap_err().to_string();
    assert!(report.starts_with("nginx.conf:2:1: `merge_slashes` cannot be carried over: "), "{report}");
    assert!(import_text(&servers("on")).is_ok());
}
