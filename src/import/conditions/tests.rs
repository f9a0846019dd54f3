//! Programs of conditions and what they mean.

use std::path::Path;

use super::program::{ProgramFault, RewriteProgram};
use super::variables::VariableTable;
use super::verdict::ConditionVerdict;
use crate::import::file_access::FileAccess;
use crate::import::syntax::directive::Directive;
use crate::import::syntax::parser::NginxParser;

fn parse(text: &str) -> Vec<Directive> {
    let files = FileAccess { read: &|_| Err(std::io::ErrorKind::NotFound.into()), list: &|_| Ok(Vec::new()) };
    let mut parser = NginxParser::new(Path::new("nginx.conf"), &files, &|_| false);
    let directives = parser.parse_file(Path::new("nginx.conf"), text, 0);
    assert!(parser.into_report().diagnostics.is_empty(), "{text}");
    directives
}

fn judge(http: &str, server: &str, location: &str) -> Result<ConditionVerdict, ProgramFault> {
    let (http, server, location) = (parse(http), parse(server), parse(location));
    let all: Vec<Directive> = [http, server.clone(), location.clone()].concat();
    let variables = VariableTable::collect(&all);
    let is_harmless = |directive: &Directive| directive.name.text == "access_log";
    RewriteProgram { variables: &variables, parts: [&server, &location], host: None, is_harmless: &is_harmless }.judge()
}

/// Returns the keys of which one is needed; `None` if none is.
fn keys_of(http: &str, server: &str, location: &str) -> Option<Vec<String>> {
    let verdict = judge(http, server, location).unwrap_or_else(|fault| panic!("{location}: {}", fault.reason));
    verdict.secrets.map(|secrets| secrets.into_iter().collect())
}

#[test]
fn usual_conditions_ask_for_their_keys() {
    let map = |entries: &str| format!("map $http_authorization $ok {{ {entries} }}");
    let one_or_two = &map("default 0; \"Bearer k1\" 1; 'Bearer k2' 1;");
    for (http, location, keys) in [
        ("", "if ($http_authorization != \"Bearer k1\") { return 401; }", "k1"),
        ("", "if ( $http_authorization != 'Bearer k1' ) { return 403 \"no\"; }", "k1"),
        (
            "",
            "if ($http_authorization = \"\") { return 401; } if ($http_authorization != \"Bearer k1\") { return 403; }",
            "k1",
        ),
        ("", "if ($http_authorization !~ \"^Bearer (k1|k2)$\") { return 401; }", "k1 k2"),
        ("", "if ($http_authorization !~ ^Bearer\\ (k\\.1)$) { return 401; }", ""),
        (one_or_two, "if ($ok = 0) { return 401; }", "k1 k2"),
        (one_or_two, "if ($ok != 1) { return 401; }", "k1 k2"),
        (one_or_two, "if ($ok = \"0\") { access_log off; return 401; }", "k1 k2"),
        (&map("\"Bearer k1\" team-a; \"Bearer k2\" team-b;"), "if ($ok = '') { return 403; }", "k1 k2"),
        (&map("default \"\"; \"~^Bearer (k1|k2)$\" x; \"Bearer k3\" \"\";"), "if ($ok = '') { return 403; }", "k1 k2"),
        (&map("volatile; \"Bearer k1\" 1; \"Bearer k2\" 0;"), "if ($ok != 1) { return 401; }", "k1"),
        (
            "",
            "set $pass 0; if ($http_authorization = 'Bearer k1') { set $pass 1; } if ($http_authorization = 'Bearer k2') { set $pass 1; } if ($pass = 0) { return 401; }",
            "k1 k2",
        ),
        (
            "",
            "set $denied 1; if ($http_authorization = 'Bearer k1') { set $denied 0; } if ($denied) { return 401; }",
            "k1",
        ),
        ("", "set $key 'k1'; if ($http_authorization != \"Bearer $key\") { return 401; }", "k1"),
        ("", "set $key 'k1'; if ($http_authorization != \"Bearer ${key}\") { return 401; }", "k1"),
        ("", "set $given $http_authorization; if ($given != 'Bearer k1') { return 401; }", "k1"),
        ("", "if ($http_x_api_key != k1) { return 401; }", "k1"),
        ("map $http_x_api_key $valid { default 0; key1 1; key2 1; }", "if ($valid = 0) { return 401; }", "key1 key2"),
        (
            "",
            "if ($http_authorization != 'Bearer k1') { set $no a; } if ($http_x_api_key != k1) { set $no \"${no}b\"; } if ($no = ab) { return 401; }",
            "k1",
        ),
        (
            "map $a $b { default 1; }",
            "if ($unused) { set $x 1; } if ($http_authorization != 'Bearer k1') { return 401; }",
            "k1",
        ),
        (
            "map $http_authorization $who { default ''; 'Bearer k1' a; 'Bearer k2' b; } map $who $ok { default 0; a 1; }",
            "if ($ok = 0) { return 401; }",
            "k1",
        ),
        ("", "if ($http_authorization != 'Bearer k1') { return 401; } return 200 ok;", "k1"),
    ] {
        let keys: Vec<&str> = keys.split_whitespace().collect();
        if keys.is_empty() {
            // A backslash outside of quotes stays in the pattern, as in nginx, and escapes the space.
            assert_eq!(keys_of(http, "", location).unwrap(), ["k.1"], "{location}");
            continue;
        }
        assert_eq!(keys_of(http, "", location).unwrap(), keys, "{http} {location}");
        assert_eq!(keys_of(http, location, "").unwrap(), keys, "in a server: {http} {location}");
    }
}

#[test]
fn keys_of_server_and_location_are_both_needed() {
    let server = "if ($http_authorization !~ '^Bearer (k1|k2)$') { return 401; }";
    assert_eq!(keys_of("", server, "if ($http_authorization = 'Bearer k1') { return 403; }").unwrap(), ["k2"]);
    assert_eq!(keys_of("", server, "if ($http_authorization != 'Bearer k1') { return 403; }").unwrap(), ["k1"]);
}

#[test]
fn conditions_without_effect_ask_for_no_key() {
    for location in [
        "",
        "set $x 1; if ($http_user_agent ~* bot) { set $x 2; }",
        "if ($request_uri ~ /health) { access_log off; }",
        "set $a 0; if ($a = 1) { return 403; }",
        "set $a ''; if ($a) { return 403; }",
        "return 403;",
        "return 200 ok; if ($http_x) { return 401; }",
        "break; if ($http_x) { return 401; }",
    ] {
        assert_eq!(keys_of("", "", location), None, "{location}");
    }
}

#[test]
fn refusals_keep_their_status() {
    let text = "if ($http_authorization = '') { return 401; } if ($http_authorization != 'Bearer k') { return 403; }";
    let verdict = judge("", "", text).ok().unwrap();
    assert_eq!(verdict.refusals.iter().map(|(_, status)| *status).collect::<Vec<_>>(), [401, 403]);
}

#[test]
fn variables_have_one_value_or_none() {
    let verdict = judge(
        "",
        "set $a http://h; if ($http_authorization != 'Bearer k') { return 401; }",
        "set $b $a:1; set $c 1; if ($http_x) { set $c 2; } set $d $http_authorization; set $e $host;",
    );
    let variables = verdict.ok().unwrap().variables;
    let expected = [("a", Some("http://h")), ("b", Some("http://h:1")), ("c", None), ("d", None), ("e", None)];
    let found: Vec<(&str, Option<&str>)> =
        variables.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    assert_eq!(found, expected);
    // What depends on the key is not the same for all.
    let by_key = "set $up a; if ($http_authorization = 'Bearer k2') { set $up b; } if ($http_authorization !~ '^Bearer (k1|k2)$') { return 401; }";
    assert_eq!(judge("", "", by_key).ok().unwrap().variables["up"], None);
}

#[test]
fn condition_that_cannot_be_carried_is_a_fault_at_its_place() {
    let geo = "geo $blocked { default 0; 10.0.0.0/8 1; }";
    let odd_map = "map $http_authorization $ok { default 0; ~^Bearer 1; }";
    for (http, location) in [
        ("", "if ($http_x_token != sk) { return 401; }"),
        ("", "if ($http_authorization !~ '^Bearer sk-[a-z]+$') { return 401; }"),
        ("", "if ($http_authorization !~ 'Bearer k1') { return 401; }"),
        ("", "if ($http_authorization !~* '^Bearer k1$') { return 401; }"),
        ("", "if ($http_authorization = '') { return 401; }"),
        ("", "if ($http_authorization = 'Bearer stolen') { return 403; }"),
        ("", "if ($http_authorization != 'k1') { return 401; }"),
        ("", "if ($http_authorization != 'Basic dTpw') { return 401; }"),
        ("", "if ($http_authorization != 'Bearer a b') { return 401; }"),
        ("", "if ($http_authorization != \"Bearer $arg_key\") { return 401; }"),
        ("", "if ($http_authorization != 'Bearer k') { return 302 /login; }"),
        ("", "if ($http_authorization != 'Bearer k') { return https://login; }"),
        ("", "if ($http_authorization != 'Bearer k') { rewrite ^ /open; }"),
        ("", "if ($http_authorization = 'Bearer k') { proxy_pass http://h:2; }"),
        ("", "if ($http_authorization = 'Bearer k') { return 200; }"),
        ("", "if ($http_authorization) { return 403; } if ($http_authorization = '') { return 401; }"),
        ("", "if ($http_authorization = 'Bearer k') { break; } return 401;"),
        ("", "set $x \"a$http_authorization\"; if ($x != 'aBearer k') { return 401; }"),
        ("", "if ($request_method = DELETE) { return 405; }"),
        ("", "if ($host != a) { return 444; }"),
        ("", "if (-f /tmp/closed) { return 503; }"),
        ("", "if (!-f /tmp/open) { return 503; }"),
        ("", "if ($arg_key) { set $ok 1; } if ($ok != 1) { return 401; }"),
        ("", "if ($slow_cookie ~ a) { proxy_pass http://h:2; }"),
        ("", "if ($http_authorization != 'Bearer k') { limit_rate 1; }"),
        (geo, "if ($blocked) { return 403; }"),
        (odd_map, "if ($ok = 0) { return 401; }"),
        ("map $http_authorization $ok { hostnames; default 0; 'Bearer k' 1; }", "if ($ok = 0) { return 401; }"),
        ("map $http_authorization $ok { default 0; ~*^bearer$ 1; }", "if ($ok = 0) { return 401; }"),
        ("map \"$http_authorization$arg_a\" $ok { default 0; 'Bearer k' 1; }", "if ($ok = 0) { return 401; }"),
        ("map $a $b { default $c; } map $c $a { default $b; } map $b $c { default $a; }", "if ($a) { return 401; }"),
        ("map $http_authorization $ok { default 0; a 1; } geo $ok { default 1; }", "if ($ok = 0) { return 401; }"),
        (
            "map $x $http_authorization { default 'Bearer k'; }",
            "if ($http_authorization != 'Bearer k') { return 401; }",
        ),
    ] {
        for (server, location) in [("", location), (location, "")] {
            let fault = judge(http, server, location).err().unwrap_or_else(|| panic!("{http} {location}"));
            assert_eq!(fault.directive.name.text, "if", "{location}");
        }
    }
}

#[test]
fn programs_that_compare_with_many_texts_are_refused() {
    let many: String =
        (0..2_000).map(|n| format!("if ($http_authorization = 'Bearer k{n}') {{ set $ok 1; }}")).collect();
    assert!(judge("", "", &format!("{many} if ($ok != 1) {{ return 401; }}")).is_err());
    let some: String = (0..200).map(|n| format!("if ($http_authorization = 'Bearer k{n}') {{ set $ok 1; }}")).collect();
    assert_eq!(keys_of("", "", &format!("{some} if ($ok != 1) {{ return 401; }}")).unwrap().len(), 200);
}

#[test]
fn names_with_answers_of_their_own_are_split_from_a_server() {
    let split = |server: &str, names: &[&str]| {
        let server = parse(server);
        let variables = VariableTable::collect(&server);
        let program =
            RewriteProgram { variables: &variables, parts: [&server, &[]], host: None, is_harmless: &|_| false };
        program.split_by_host(names).map(|split| {
            let answers: Vec<String> =
                split.answers.iter().map(|(name, answer)| format!("{name} {}", answer.arg(0))).collect();
            (answers.join(", "), split.other_answer.map(|answer| answer.arg(0).to_owned()), split.passing_name)
        })
    };
    let own = |name: &str| Some(name.to_owned());
    let certbot = "if ($host = a.example) { return 301 https://$host$request_uri; } return 404;";
    let other = Some("\u{1}".to_owned());
    assert_eq!(split(certbot, &["a.example"]), Some(("a.example 301".to_owned(), None, other.clone())));
    let two = "if ($host = b) { return 308 /b; } if ($host = a) { return 301 /a; } return 404;";
    assert_eq!(split(two, &["a", "b"]), Some(("a 301, b 308".to_owned(), None, other)));
    let to_apex = "if ($host ~ ^(www\\.a|w\\.a)$) { return 301 https://a$request_uri; }";
    assert_eq!(split(to_apex, &["a", "www.a", "w.a"]), Some(("www.a 301, w.a 301".to_owned(), None, own("a"))));
    let only = "if ($host != a) { return 444; } if ($http_authorization != 'Bearer k') { return 401; }";
    assert_eq!(split(only, &["a"]), Some((String::new(), own("444"), own("a"))));
    for (server, names) in [
        (certbot, vec!["b.example"]),
        (certbot, vec![]),
        ("if ($host) { return 301 /; }", vec!["a"]),
        ("if ($host = $server_name) { return 301 /; }", vec!["a"]),
        ("if ($host = a) { set $up 1; } if ($http_x) { return 403; }", vec!["a"]),
        ("if ($host = a) { set $up 1; }", vec!["a", "b"]),
        ("if ($http_x) { return 403; }", vec!["a"]),
        ("return 404;", vec!["a"]),
    ] {
        assert_eq!(split(server, &names), None, "{server}");
    }
}
