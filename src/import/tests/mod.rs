//! Laws of every import. The results for particular configurations are in `tests/import`.

mod client_keys;
mod guards;
mod scopes;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use proptest::prelude::*;

use super::directives::table;
use super::{FileAccess, ImportedConfig, from_nginx};
use crate::config::{self, Diagnostics};

/// Imports `main`; `others` are further files by name.
fn import_files(main: &str, others: &[(&str, &str)]) -> Result<ImportedConfig, Diagnostics> {
    let mut all: BTreeMap<&str, &str> = others.iter().copied().collect();
    all.insert("nginx.conf", main);
    let read = |path: &Path| {
        let text = path.to_str().and_then(|path| all.get(path));
        text.map(|text| (*text).to_owned()).ok_or_else(|| io::ErrorKind::NotFound.into())
    };
    let list = |folder: &Path| {
        let inside = all.keys().map(Path::new).filter(|path| path.parent() == Some(folder));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    };
    from_nginx(Path::new("nginx.conf"), &FileAccess { read: &read, list: &list })
}

fn import_text(main: &str) -> Result<ImportedConfig, Diagnostics> {
    import_files(main, &[])
}

#[test]
fn directive_of_the_table_is_never_dropped_silently() {
    let configuration_with = |position: usize, line: &str| {
        let part = |here| if position == here { line } else { "" };
        format!(
            "{}\nhttp {{ {}\nupstream a {{ server h:1; {} }} server {{ {}\nlocation / {{ proxy_pass http://a; {} }} }} }}",
            part(0),
            part(1),
            part(2),
            part(3),
            part(4)
        )
    };
    let before = import_text(&configuration_with(9, "")).unwrap();
    for name in table::directive_names() {
        let name = name.replace('*', "x");
        for line in [format!("{name} 1 on;"), format!("{name} $x;"), format!("{name} 60s;"), format!("{name} /a {{ }}")]
        {
            for position in 0..5 {
                let Ok(imported) = import_text(&configuration_with(position, &line)) else { continue };
                let is_reported =
                    imported.carried_count + imported.remarks.len() > before.carried_count + before.remarks.len();
                // A block is reported by its contents.
                let is_container = ["http", "events", "server", "upstream"].contains(&name.as_str());
                assert!(is_reported || is_container, "{line} at {position}");
            }
        }
    }
}

#[test]
fn remarks_and_errors_name_their_file() {
    let main = "include a.d/*.conf; server { location / { proxy_pass http://h:1; } }";
    let imported = import_files(main, &[("a.d/1.conf", "\nuser x;"), ("a.d/2.txt", "}")]).unwrap();
    assert!(imported.toml.contains("# not needed: user x; (a.d/1.conf:2) - "), "{}", imported.toml);
    let report = import_files(main, &[("a.d/1.conf", "\n  usr x;")]).unwrap_err().to_string();
    assert!(report.starts_with("a.d/1.conf:2:3: unknown directive `usr`"), "{report}");
}

#[test]
fn api_key_is_inherited_by_blocks_without_own_headers() {
    let key = "proxy_set_header Authorization \"Bearer k1\";";
    for (inner, expected) in [("", true), ("proxy_set_header X-Real-IP $remote_addr;", false)] {
        let imported =
            import_text(&format!("server {{ location / {{ proxy_pass http://h:1; {inner} }} {key} }}")).unwrap();
        assert_eq!(imported.toml.contains("api_key = \"k1\""), expected, "{}", imported.toml);
    }
}

#[test]
fn path_with_control_characters_fails_at_its_line() {
    for inner in ["return 403;", "deny all;", "proxy_pass http://h:1;", ""] {
        let text = format!("server {{ location / {{ proxy_pass http://h:1; }}\nlocation /a\u{1}b {{ {inner} }} }}");
        let report = import_text(&text).unwrap_err().to_string();
        assert!(report.starts_with("nginx.conf:2:10: this path contains control characters"), "{report}");
    }
}

#[test]
fn url_with_spaces_or_control_characters_is_rejected() {
    for url in ["http://h:1/a\u{6}b/", "\"http://h:1/a b/\"", "\"http://a b:1\"", "http://h\u{6}:1"] {
        let report = import_text(&format!("server {{ location / {{\nproxy_pass {url}; }} }}")).unwrap_err().to_string();
        assert!(report.starts_with("nginx.conf:2:12: this URL contains spaces or control characters"), "{report}");
    }
}

#[test]
fn value_that_router_toml_rejects_is_not_written() {
    let import_with = |http: &str, inner: &str| {
        import_text(&format!("{http} server {{ location / {{ proxy_pass http://h:1; {inner} }} }}"))
    };
    for origin in ["https://a.example/", "a://\u{e9}", "a://b*", "'a://b c'"] {
        let toml = import_with("", &format!("add_header Access-Control-Allow-Origin {origin};")).unwrap().toml;
        assert!(!toml.contains("\norigins"), "{toml}");
    }
    let toml = import_with("log_format a$b '$status'; access_log /l a$b;", "").unwrap().toml;
    assert!(toml.contains("format = \"nginx_a_b\""), "{toml}");
    for (http, expected) in [
        ("log_format a escape=xml '$status'; access_log /l a;", "nginx.conf:1:14: `log_format` has no escape `xml`"),
        ("upstream ' a' { server h:1; }", "nginx.conf:1:10: ` a` is no valid upstream name"),
        ("ssl_certificate /a/;", "nginx.conf:1:17: `ssl_certificate` cannot be `/a/`"),
    ] {
        let report = import_with(http, "").unwrap_err().to_string();
        assert!(report.starts_with(expected), "{report}");
    }
}

#[test]
fn invalid_header_is_left_out_and_removed_from_requests() {
    let lines = "proxy_set_header X-A \"a\nb\"; add_header X-B \"a;\r\n b\" always;";
    let toml = import_text(&format!("server {{ location / {{ proxy_pass http://h:1; {lines} }} }}")).unwrap().toml;
    assert!(toml.contains("request_headers = { X-A = \"\" }") && !toml.contains("response_headers"), "{toml}");
    assert_eq!(toml.matches("# cannot: ").count(), 2, "{toml}");
}

#[test]
fn bombs_are_rejected() {
    for bomb in [
        "http{".repeat(1_000_000),
        "a{".repeat(1_000_000),
        "{".repeat(1_000_000),
        "}".repeat(1_000_000),
        ";".repeat(1_000_000),
        "\\".repeat(1_000_001),
        "\"\\".repeat(1_000_001),
        "a b;".repeat(300_000),
        "location / ".repeat(100_000),
        "x_by_lua_block {".repeat(100_000),
    ] {
        assert!(import_text(&bomb).is_err());
    }
    let twice = "include a; include a;";
    assert!(import_files(twice, &[("a", twice)]).is_err());
}

#[test]
fn fifty_thousand_lines_are_imported() {
    let lines = "server_tokens off;\n".repeat(50_000);
    let imported = import_text(&format!("{lines} server {{ location / {{ proxy_pass http://h:1; }} }}")).unwrap();
    assert_eq!(imported.remarks.len(), 50_000);
}

#[test]
fn block_in_another_language_is_skipped() {
    let lua = "log_by_lua_block { local t = { a = \"it's\" } }";
    let imported = import_text(&format!("server {{ location / {{ {lua} proxy_pass http://h:1; }} }}")).unwrap();
    assert!(imported.toml.contains("# cannot: log_by_lua_block {} (nginx.conf:1)"), "{}", imported.toml);
}

/// Words of real configurations, so that random sequences of them parse.
fn arbitrary_word() -> impl Strategy<Value = String> {
    let known = "http events server upstream location listen server_name proxy_pass proxy_set_header add_header return \
        include nginx.conf least_conn hash random ip_hash if map access_log error_log log_format client_max_body_size \
        large_client_header_buffers http:// http://a http://a/ http://h:1 http://h:1/v1/ / /v1/ /a = ^~ ~ 80 [::]:80 unix: \
        unix:/s 127.0.0.1 h:1 [::1]:2 weight=2 backup down a b.c *.d _ ~x $host \"\" \"a b\" 'x Host$host { } { } ; ; ; ; \
        default_server ssl 0 1 60s 8m 4 off Authorization X-Upstream \"Bearer\u{20}k\" # \n \\ \" é rewrite ^ ^/a/(.*)$ /$1 \
        break permanent set $e http://$e default_type internal set_real_ip_from real_ip_header 10.0.0.0/8 gzip gzip_types on \
        *.b .c a. ~^(a|b)$ \\.x$ ^/a/ 81 ssl_certificate ssl_certificate_key /c.pem 200 301 444 $host$request_uri all allow deny";
    let known: Vec<String> = known.split(' ').map(str::to_owned).collect();
    proptest::sample::select(known)
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC*|[a-z{};\"'\\\\$# \n]*") {
        let _ = import_text(&text);
    }

    #[test]
    fn arbitrary_words_give_errors_or_a_configuration_that_loads(words in proptest::collection::vec(arbitrary_word(), 0..60)) {
        for text in [words.join(" "), format!("server {{ location / {{ proxy_pass http://h:1; }} {} }}", words.join(" "))] {
            match import_text(&text) {
                Ok(imported) => prop_assert!(config::load(&imported.toml, "router.toml", []).is_ok()),
                Err(report) => {
                    // Errors are in the input, never in the generated text.
                    prop_assert!(report.diagnostics().iter().all(|issue| issue.file == "nginx.conf"), "{text}\n{report}");
                }
            }
        }
    }

    #[test]
    fn configuration_cut_anywhere_never_panics(cut in 0usize..2_300, rest in "[;}\"' a]{0,3}") {
        let whole = include_str!("../../../tests/import/article.conf");
        if let Some(start) = whole.get(..cut) {
            let _ = import_text(&format!("{start}{rest}"));
        }
    }
}
