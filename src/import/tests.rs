//! Laws of importing, whatever the configuration. What particular ones give is in `tests/import`.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use proptest::prelude::*;

use super::directives::table;
use super::{FileAccess, ImportedConfig, from_nginx};
use crate::config::{self, Diagnostics};

/// Imports `main`, with other files by name.
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
fn no_directive_of_the_table_is_dropped_in_silence() {
    let around = |at: usize, line: &str| {
        let part = |here| if at == here { line } else { "" };
        format!(
            "{}\nhttp {{ {}\nupstream a {{ server h:1; {} }} server {{ {}\nlocation / {{ proxy_pass http://a; {} }} }} }}",
            part(0),
            part(1),
            part(2),
            part(3),
            part(4)
        )
    };
    let before = import_text(&around(9, "")).unwrap();
    for name in table::directive_names() {
        let name = name.replace('*', "x");
        for line in [format!("{name} 1 on;"), format!("{name} $x;"), format!("{name} 60s;"), format!("{name} /a {{ }}")]
        {
            for at in 0..5 {
                let Ok(imported) = import_text(&around(at, &line)) else { continue };
                let said =
                    imported.carried_count + imported.remarks.len() > before.carried_count + before.remarks.len();
                // A block's contents are what is said of it.
                let empty = ["http", "events", "server", "upstream"].contains(&name.as_str());
                assert!(said || empty, "{line} at {at}");
            }
        }
    }
}

#[test]
fn remarks_and_errors_name_the_file_that_they_are_in() {
    let main = "include a.d/*.conf; server { location / { proxy_pass http://h:1; } }";
    let imported = import_files(main, &[("a.d/1.conf", "\nuser x;"), ("a.d/2.txt", "}")]).unwrap();
    assert!(imported.toml.contains("# not needed: user x; (a.d/1.conf:2) - "), "{}", imported.toml);
    let report = import_files(main, &[("a.d/1.conf", "\n  usr x;")]).unwrap_err().to_string();
    assert!(report.starts_with("a.d/1.conf:2:3: unknown directive `usr`"), "{report}");
}

#[test]
fn the_key_of_replicas_is_inherited_by_blocks_without_headers_of_their_own() {
    let key = "proxy_set_header Authorization \"Bearer k1\";";
    for (inner, wanted) in [("", true), ("proxy_set_header X-Real-IP $remote_addr;", false)] {
        let imported =
            import_text(&format!("server {{ location / {{ proxy_pass http://h:1; {inner} }} {key} }}")).unwrap();
        assert_eq!(imported.toml.contains("api_key = \"k1\""), wanted, "{}", imported.toml);
    }
}

#[test]
fn what_no_key_takes_fails_at_its_own_line() {
    for inner in ["return 403;", "deny all;", "proxy_pass http://h:1;", ""] {
        let text = format!("server {{ location / {{ proxy_pass http://h:1; }}\nlocation /a\u{1}b {{ {inner} }} }}");
        let report = import_text(&text).unwrap_err().to_string();
        assert!(report.starts_with("nginx.conf:2:10: this path has control characters"), "{report}");
    }
}

#[test]
fn no_url_has_blanks_or_control_characters() {
    for url in ["http://h:1/a\u{6}b/", "\"http://h:1/a b/\"", "\"http://a b:1\"", "http://h\u{6}:1"] {
        let report = import_text(&format!("server {{ location / {{\nproxy_pass {url}; }} }}")).unwrap_err().to_string();
        assert!(report.starts_with("nginx.conf:2:12: this URL has blanks or control characters"), "{report}");
    }
}

#[test]
fn what_our_keys_would_not_take_is_not_written() {
    let around = |http: &str, inner: &str| {
        import_text(&format!("{http} server {{ location / {{ proxy_pass http://h:1; {inner} }} }}"))
    };
    for origin in ["https://a.example/", "a://\u{e9}", "a://b*", "'a://b c'"] {
        let toml = around("", &format!("add_header Access-Control-Allow-Origin {origin};")).unwrap().toml;
        assert!(!toml.contains("\norigins"), "{toml}");
    }
    let toml = around("log_format a$b '$status'; access_log /l a$b;", "").unwrap().toml;
    assert!(toml.contains("format = \"nginx_a_b\""), "{toml}");
    for (http, said) in [
        ("log_format a escape=xml '$status'; access_log /l a;", "nginx.conf:1:14: `log_format` knows no escape `xml`"),
        ("upstream ' a' { server h:1; }", "nginx.conf:1:10: ` a` is no name for an upstream"),
        ("ssl_certificate /a/;", "nginx.conf:1:17: `ssl_certificate` cannot be `/a/`"),
    ] {
        let report = around(http, "").unwrap_err().to_string();
        assert!(report.starts_with(said), "{report}");
    }
}

#[test]
fn headers_that_cannot_be_are_left_out_and_no_client_can_send_them() {
    let lines = "proxy_set_header X-A \"a\nb\"; add_header X-B \"a;\r\n b\" always;";
    let toml = import_text(&format!("server {{ location / {{ proxy_pass http://h:1; {lines} }} }}")).unwrap().toml;
    assert!(toml.contains("request_headers = { X-A = \"\" }") && !toml.contains("response_headers"), "{toml}");
    assert_eq!(toml.matches("# cannot: ").count(), 2, "{toml}");
}

#[test]
fn bombs_are_refused() {
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
fn many_lines_do_not_take_long() {
    let lines = "server_tokens off;\n".repeat(50_000);
    let imported = import_text(&format!("{lines} server {{ location / {{ proxy_pass http://h:1; }} }}")).unwrap();
    assert_eq!(imported.remarks.len(), 50_000);
}

#[test]
fn other_languages_in_blocks_are_skipped() {
    let lua = "access_by_lua_block { local t = { a = \"it's\" } }";
    let imported = import_text(&format!("server {{ location / {{ {lua} proxy_pass http://h:1; }} }}")).unwrap();
    assert!(imported.toml.contains("# cannot: access_by_lua_block {} (nginx.conf:1)"), "{}", imported.toml);
}

/// Words that configurations are made of, so that random ones get far.
fn arbitrary_word() -> impl Strategy<Value = String> {
    let known = "http events server upstream location listen server_name proxy_pass proxy_set_header add_header return \
        include nginx.conf least_conn hash random ip_hash if map access_log error_log log_format client_max_body_size \
        large_client_header_buffers http:// http://a http://a/ http://h:1 http://h:1/v1/ / /v1/ /a = ^~ ~ 80 [::]:80 unix: \
        unix:/s 127.0.0.1 h:1 [::1]:2 weight=2 backup down a b.c *.d _ ~x $host \"\" \"a b\" 'x Host$host { } { } ; ; ; ; \
        default_server ssl 0 1 60s 8m 4 off Authorization X-Upstream \"Bearer\u{20}k\" # \n \\ \" é";
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
                    // Nothing that we wrote ourselves is to blame.
                    prop_assert!(report.diagnostics().iter().all(|issue| issue.file == "nginx.conf"), "{text}\n{report}");
                }
            }
        }
    }

    #[test]
    fn a_configuration_cut_anywhere_never_panics(cut in 0usize..2_300, rest in "[;}\"' a]{0,3}") {
        let whole = include_str!("../../tests/import/article.conf");
        if let Some(start) = whole.get(..cut) {
            let _ = import_text(&format!("{start}{rest}"));
        }
    }
}
