use std::fs;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::host::{HOST_TABLES, ROUTE_TABLES};
use super::pool::replica_options::REPLICA_OPTIONS;
use super::pool::route::ROUTE_SCHEMA;
use super::pool::schema::{POOL_SCHEMA, pool_keys};
use super::schema::TABLES;
use super::schema::client_key::CLIENT_KEY_SCHEMA;
use super::*;
use crate::balance::PolicySpec;
use crate::fleet::PathPolicy;
use crate::units::{ModelName, ModelNames};

const ROUTER_TOML: &str = include_str!("../../config/router.toml");

fn load_valid(text: &str) -> LoadedConfig {
    load(text, "router.toml", []).unwrap_or_else(|report| panic!("{report}"))
}

fn load_with_env(text: &str, env: &[(&str, &str)]) -> Result<LoadedConfig, String> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load(text, "router.toml", env).map_err(|report| report.to_string())
}

#[test]
fn reference_file_has_the_defaults_of_the_code() {
    let LoadedConfig { mut settings, warnings, .. } = load_valid(ROUTER_TOML);
    let pools = std::mem::take(&mut settings.pools);
    settings.routes = Arc::default();
    assert_eq!(settings, Settings::default());
    assert_eq!(pools, load_valid("replicas = ['http://127.0.0.1:8000', 'http://127.0.0.1:8001']").settings.pools);
    let pool = &pools[0];
    assert_eq!((&*pool.name, &pool.models, &pool.policy), ("default", &ModelNames::default(), &PolicySpec::default()));
    assert_eq!((&pool.path_policy, &pool.fallback, &pool.api_key), (&PathPolicy::Listed(vec![]), &None, &None));
    assert_eq!(warnings, []);
}

/// The lines of the reference file with `table.` before each key; of a comment, after its `# `.
fn reference_lines() -> Vec<String> {
    let mut table = String::new();
    let line = |line: &str| {
        let bare = line.trim_start_matches("# ");
        if bare.starts_with('[') && bare.ends_with(']') {
            table = format!("{}.", bare.trim_matches(['[', ']']));
        }
        format!("{}{table}{bare}", if line.starts_with('#') { "# " } else { "" })
    };
    ROUTER_TOML.lines().map(line).collect()
}

#[test]
fn reference_file_has_every_key_at_the_default_of_its_row() {
    let lines = reference_lines();
    let assert_line = |path: &str, default: &str| {
        let wanted = match (default, path) {
            ("", "replicas") => "replicas = [".to_owned(),
            ("", path) => format!("# {path} = "),
            (default, path) => format!("{path} = {default}"),
        };
        let has_line = |line: &String| if default.is_empty() { line.starts_with(&wanted) } else { *line == wanted };
        assert!(lines.iter().any(has_line), "config/router.toml lacks `{wanted}`");
    };
    for table in TABLES {
        let prefix = if table.name.is_empty() { String::new() } else { format!("{}.", table.name) };
        table.keys.iter().for_each(|row| assert_line(&format!("{prefix}{}", row.name), row.default));
    }
    POOL_SCHEMA.iter().for_each(|row| assert_line(row.name, row.default));
    ROUTE_SCHEMA.iter().for_each(|row| assert_line(&format!("pool.{}", row.name), row.default));
    CLIENT_KEY_SCHEMA.iter().for_each(|row| assert_line(&format!("key.{}", row.name), row.default));
    let assert_rows =
        |prefix: &str, names: Vec<&str>| names.iter().for_each(|name| assert_line(&format!("{prefix}.{name}"), ""));
    assert_rows("host", HOST_TABLES.iter().flat_map(|rows| rows.iter()).map(|row| row.name).collect());
    assert_rows("host.route", ROUTE_TABLES.iter().flat_map(|rows| rows.iter()).map(|row| row.name).collect());
    for row in REPLICA_OPTIONS {
        let wanted =
            if row.default.is_empty() { row.name.to_owned() } else { format!("{}={} ", row.name, row.default) };
        assert!(ROUTER_TOML.contains(&format!("#   {wanted}")), "config/router.toml lacks the option `{wanted}`");
    }
}

#[test]
fn every_shipped_file_loads() {
    let mut loaded = 0;
    for folder in ["config", "examples"] {
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap().flatten() {
            if entry.path().extension().is_some_and(|e| e == "toml") {
                let text = fs::read_to_string(entry.path()).unwrap();
                load_with_env(&text, &[("ENGINE_KEY", "sk-1")])
                    .unwrap_or_else(|e| panic!("{}\n{e}", entry.path().display()));
                loaded += 1;
            }
        }
    }
    assert!(loaded >= 3);
}

#[test]
fn policy_at_the_top_is_the_default_of_pools() {
    let text = "policy = 'random'\n[[pool]]\nname = 'a'\nreplicas = ['http://a:1']\n\
                [[pool]]\nname = 'b'\npolicy = 'round_robin'\nreplicas = ['http://b:1']";
    let names: Vec<_> = load_valid(text).settings.pools.iter().map(|pool| pool.policy.name()).collect();
    assert_eq!(names, ["random", "round_robin"]);
}

#[test]
fn pool_without_name_has_that_of_its_first_model() {
    let pools = load_valid("model = ['m', 'n']\nreplicas = ['http://a:1']").settings.pools;
    assert_eq!((&*pools[0].name, pools[0].models.exact()), ("m", &[ModelName::from("m"), ModelName::from("n")][..]));
}

#[test]
fn routes_and_replica_tables_are_read() {
    let text = "[[pool]]\nhost = 'API.example.com.'\npath = '/a/'\npaths = 'any'\n\
                replicas = [{ url = 'http://a:1', weight = 3, backup = true, down = false, fail_timeout = 2.5 }]";
    let loaded = load_valid(text);
    let pool = &loaded.settings.pools[0];
    assert_eq!(pool.route.host.as_deref(), Some("api.example.com"));
    assert_eq!(pool.route.path.as_deref(), Some("/a"));
    let member = &pool.members[0];
    assert_eq!((member.weight.get(), member.backup, member.down), (3, true, false));
    assert_eq!(member.eject_limits.fail_timeout.as_millis(), 2_500);
    assert_eq!(loaded.warnings.len(), 1);
}

#[test]
fn variables_override_the_file() {
    let text = "listen = 'gpu1'\nreplicas = ['http://a:1']\n[log]\naccess = 'stdout'";
    let text = text.replace("gpu1", "127.0.0.1:1");
    let env = [
        ("TOKENWEIR__LISTEN", "0.0.0.0:80"),
        ("TOKENWEIR__ADMIN", "off"),
        ("TOKENWEIR__LOG__ACCESS", "/tmp/a.log"),
        ("TOKENWEIR__LIMITS__HEADERS", "7"),
        ("TOKENWEIR__TIMEOUTS__IDLE", "1m"),
        ("TOKENWEIR__TIMEOUTS__CLIENT_BODY", "2.5"),
        ("TOKENWEIR__CORS__ORIGINS", "*"),
        ("TOKENWEIR__POLICY", "random"),
        ("TOKENWEIR__API_KEY", "123"),
        ("TOKENWEIR__REPLICAS", "[\"http://b:1\", \"http://c:1 weight=2\"]"),
        ("TOKENWEIR", "not ours"),
    ];
    let settings = load_with_env(&text, &env).unwrap().settings;
    assert_eq!(settings.listen, ["80".parse().unwrap()]);
    assert_eq!((settings.admin, settings.log.access), (None, LogSink::File("/tmp/a.log".into())));
    assert_eq!((settings.limits.headers, settings.scope.timeouts.idle.as_secs()), (7, 60));
    assert_eq!(settings.scope.timeouts.client_body.as_millis(), 2_500);
    assert_eq!(settings.cors.unwrap().origins, ["*"]);
    let pool = &settings.pools[0];
    assert_eq!((pool.policy.name(), pool.api_key.as_ref().unwrap().reveal()), ("random", "123"));
    assert_eq!((pool.members.len(), pool.members[1].weight.get()), (2, 2));
}

#[test]
fn errors_of_variables_name_the_variable() {
    let env = [("TOKENWEIR__LISTN", "80"), ("TOKENWEIR__LOG__FORMAT", "jsn"), ("TOKENWEIR__REPLICAS", "http://a wat")];
    let wanted = "\
TOKENWEIR__LISTN:1:1: the variable `TOKENWEIR__LISTN` overrides no key
  = help: did you mean `TOKENWEIR__LISTEN`?

TOKENWEIR__LOG__FORMAT:1:1: unknown format `jsn`
  |
1 | jsn
  | ^^^
  = help: did you mean `json`? formats: text, json, combined

TOKENWEIR__REPLICAS:1:10: unknown option `wat` of a replica
  |
1 | http://a wat
  |          ^^^
  = help: options: weight, max_fails, fail_timeout, max_conns, backup, down, drain, slow_start, resolve, service, name
";
    assert_eq!(load_with_env("replicas = ['http://a:1']", &env).unwrap_err(), wanted);
}

#[test]
fn secrets_are_never_printed() {
    let texts = [
        "api_key = 'sk-secret\u{1}'",
        "api_key = ['sk-secret']",
        "api_key = 'sk-secret",
        "api_key = 'sk-secret'\napi_key = 'sk-secret'",
        "api_key_env = 'KEY'",
    ];
    for text in texts {
        let shown =
            load_with_env(&format!("replicas = ['http://a:1']\n{text}"), &[("KEY", "sk-secret\n")]).unwrap_err();
        assert!(!shown.contains("secret"), "{shown}");
    }
    let texts = [
        "hash = 'hushed'",
        "hash = ['hushed']",
        "hash = 'hushed",
        "key = 'hushed'",
        "secret = \"hushed\"",
        "hash = 1234\nhash = 'hushed'",
        "key = sk-hushed",
        "env = 'KEY'",
        "env = 'SHORT'",
        "hash = 'sha256:hushed'\nenv = 'KEY'",
    ];
    for text in texts {
        let text = format!("replicas = ['http://a:1']\n[[key]]\nname = 'a'\n{text}");
        let shown = load_with_env(&text, &[("KEY", "hushed-and-long-enough\n"), ("SHORT", "hushed")]).unwrap_err();
        assert!(!shown.contains("hushed"), "{shown}");
    }
    for text in ["admin_token = 'hushed'", "admin_token = hushed", "key = ['hushed']", "key = [{ hash = 'hushed' }]"] {
        let shown = load_with_env(&format!("replicas = ['http://a:1']\n{text}"), &[]).unwrap_err();
        assert!(!shown.contains("hushed"), "{shown}");
    }
    let shown = load_with_env("replicas = ['http://a:1']", &[("TOKENWEIR__ADMIN_TOKEN", "hushed")]).unwrap_err();
    assert!(!shown.contains("hushed"), "{shown}");
    let shown = load_with_env("replicas = ['http://a:1']", &[("TOKENWEIR__API_KEY", "[\"sk-secret\"]")]).unwrap_err();
    assert!(!shown.contains("secret"), "{shown}");
}

#[test]
fn client_keys_are_read_from_all_three_places() {
    let path = std::env::temp_dir().join(format!("tokenweir-key-{}", std::process::id()));
    fs::write(&path, "third-key-0123456789\n").unwrap();
    // Of `abc`, from FIPS 180-2.
    let hash = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let text = format!(
        "replicas = ['http://a:1']\nadmin_token_env = 'SECOND'\n\
         [[key]]\nname = 'a'\nhash = '{hash}'\nmodels = ['m', 'n']\n\
         [[key]]\nname = 'b'\nenv = 'SECOND'\n[[key]]\nname = 'c'\nfile = '{}'",
        path.display()
    );
    let settings = load_with_env(&text, &[("SECOND", "second-key-0123456789")]).unwrap().settings;
    let tenant_of = |key: &str| {
        settings.tenants.find_by_key(key.as_bytes()).map(|tenant| (&*tenant.name, tenant.can_use_model("x")))
    };
    assert_eq!(tenant_of("abc"), Some(("a", false)));
    assert_eq!(tenant_of("second-key-0123456789"), Some(("b", true)));
    assert_eq!(tenant_of("third-key-0123456789"), Some(("c", true)));
    assert_eq!((tenant_of(""), tenant_of(hash), tenant_of("third-key-0123456789\n")), (None, None, None));
    assert!(settings.admin_access.token.as_ref().unwrap().matches_secret(b"second-key-0123456789"));
    let shown = format!("{settings:?}");
    assert!(!shown.contains("0123456789") && !shown.contains("ba7816"), "{shown}");
    fs::remove_file(path).unwrap();
}

#[test]
fn urls_on_the_command_line_are_one_pool() {
    let urls = ["http://a:1 weight=2".to_owned(), "http://b:1".to_owned()];
    let settings = from_urls(&urls, [("TOKENWEIR__LISTEN".to_owned(), "81".to_owned())]).unwrap().settings;
    assert_eq!(settings.pools[0].members.len(), 2);
    assert_eq!(settings.listen[0].to_string(), "0.0.0.0:81");
}

#[test]
fn errors_of_arguments_name_the_argument() {
    let urls = ["http://a:1".to_owned(), "b:1 wieght=2".to_owned(), "http://a:1".to_owned()];
    let wanted = "\
argument 2:1:1: bad URL `b:1`: the URL must start with `http://`, `https://` or `unix:/`
  |
1 | b:1 wieght=2
  | ^^^
  = help: did you mean `http://b:1`?

argument 2:1:5: unknown option `wieght` of a replica
  |
1 | b:1 wieght=2
  |     ^^^^^^^^
  = help: did you mean `weight`? options: weight, max_fails, fail_timeout, max_conns, backup, down, drain, slow_start, resolve, service, name

argument 3:1:1: the replica `http://a:1` is in this pool twice (the other: argument 1)
  |
1 | http://a:1
  | ^^^^^^^^^^
  = help: use `weight` for a larger share
";
    assert_eq!(from_urls(&urls, []).unwrap_err().to_string(), wanted);
    assert!(from_urls(&[], []).unwrap_err().to_string().contains("no replicas"));
}

#[test]
fn depth_and_dots_in_keys_are_errors_only() {
    for text in ["a = [".to_owned() + &"[".repeat(200_000), "a.".repeat(100_000) + "b = 1"] {
        assert!(load_with_env(&text, &[]).is_err());
    }
    let shown = load_with_env("replicas = ['http://a:1']\n\"limits.headers\" = 5", &[]).unwrap_err();
    assert!(shown.contains("unknown key `limits.headers`"), "{shown}");
    assert_eq!(load_valid("replicas = ['http://a:1']\nlimits.headers = 5").settings.limits.headers, 5);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_loader_panic(text in "\\PC*", value in "\\PC*") {
        let shown = load(&text, "f", [("TOKENWEIR__LISTEN".to_owned(), value)]).map_err(|report| report.to_string());
        prop_assert!(shown.is_ok() || shown.is_err());
    }

    #[test]
    fn no_edit_of_a_good_file_makes_the_loader_panic(at in 0..ROUTER_TOML.len(), cut in 0..40usize, put in "[\\PC\n\t\"'\\\\]{0,6}") {
        let near = |mut at: usize| { while !ROUTER_TOML.is_char_boundary(at) { at -= 1 } at };
        let (start, end) = (near(at), near((at + cut).min(ROUTER_TOML.len())));
        let text = format!("{}{put}{}", &ROUTER_TOML[..start], &ROUTER_TOML[end..]);
        let _ = load(&text, "f", []).map_err(|report| report.to_string());
    }

    #[test]
    fn no_value_makes_the_loader_panic(key in any::<prop::sample::Index>(), value in "[\"'{\\[]?\\PC{0,20}[\"'}\\]]?") {
        let settings = TABLES.iter().flat_map(|table| {
            table.keys.iter().map(|row| [table.name, row.name].join(".").trim_start_matches('.').to_owned())
        });
        let paths: Vec<String> = settings.chain(pool_keys().map(|row| row.name.to_owned())).collect();
        let path = key.get(&paths);
        let _ = load(&format!("{path} = {value}"), "f", []).map_err(|report| report.to_string());
        let _ = load(&format!("[[pool]]\n{path} = '''{value}'''"), "f", []).map_err(|report| report.to_string());
        let _ = load(&format!("[[pool]]\nreplicas = [\"http://a {value}\"]"), "f", []);
        let _ = from_urls(&[value], []).map_err(|report| report.to_string());
    }
}
