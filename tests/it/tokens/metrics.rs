//! Consistency of `docs/metrics.md` with `/metrics`: names, labels and units. `UPDATE=1 cargo test --test it
//! tokens::metrics` writes the document.

use std::collections::BTreeMap;

use crate::harness::client::build_request;
use crate::harness::{TestRouter, chat_body, send_request, start_replica, wait_until};

/// Labels and kind of every metric, by name.
type MetricTable = BTreeMap<String, (Vec<String>, String)>;

/// Units in the document and the name suffixes they require.
const UNIT_SUFFIXES: &[(&str, &str)] = &[
    ("seconds", "_seconds"),
    ("share", "_ratio"),
    ("tokens", "_tokens"),
    ("tokens/s", "_tokens_per_second"),
    ("streams", "_streams"),
];

fn parse_metrics(page: &str) -> MetricTable {
    let kinds: BTreeMap<&str, &str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let mut table = MetricTable::new();
    for line in page.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let name = base.filter(|base| kinds.contains_key(base)).unwrap_or(name);
        let names = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
        let names: Vec<String> = names.filter(|label| label != "le").collect();
        let row = (names, kinds[name].to_owned());
        let known = table.entry(name.to_owned()).or_insert_with(|| row.clone());
        assert_eq!(*known, row, "{line}");
        assert!(page.contains(&format!("# HELP {name} ")), "{name} has no help");
    }
    table
}

fn parse_docs_tables(docs: &str) -> MetricTable {
    let mut table = MetricTable::new();
    for row in docs.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, name, labels, unit, meaning, _] = cells[..] else { panic!("{row}") };
        let name = name.trim_matches('`');
        let kind = match (meaning.starts_with("Histogram. "), name.ends_with("_total")) {
            (true, _) => "histogram",
            (false, true) => "counter",
            (false, false) => "gauge",
        };
        if let Some((_, suffix)) = UNIT_SUFFIXES.iter().find(|(name, _)| *name == unit) {
            assert!(name.trim_end_matches("_total").ends_with(suffix), "{name} is not in {unit}");
        }
        let labels = labels.split(", ").map(|label| label.trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        assert!(table.insert(name.to_owned(), (labels, kind.to_owned())).is_none(), "{name} has two rows");
    }
    table
}

#[test]
fn docs_are_rendered_from_the_metric_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let rendered = tokenweir::telemetry::metrics_markdown();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &rendered).unwrap();
    }
    let recorded = std::fs::read_to_string(path).unwrap_or_default();
    assert!(recorded == rendered, "docs/metrics.md is outdated (UPDATE=1 writes it)");
}

#[test]
fn docs_have_every_metric_with_its_labels_and_no_other() {
    let replica = start_replica(&["m"]);
    // Of `abc`, from FIPS 180-2.
    let hash = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let key = format!("[[key]]\nname = 'a'\nhash = '{hash}'");
    let router = TestRouter::start(&format!("shadow = \"least_conn\"\nreplicas = [{:?}]\n{key}", replica.url()))
        .wait_until_ready();
    for stream in [true, false] {
        let headers = "authorization: Bearer abc\r\n";
        assert_eq!(router.send_request("POST", "/v1/chat/completions", headers, chat_body("m", 5, stream)).status, 200);
    }
    wait_until("both requests have settled", || router.sum_metric("tokenweir_attempts_total", &["completed"]) == 2.0);
    // External load appears last, because it needs a scrape of the engine.
    wait_until("the engine has been scraped", || {
        send_request(router.admin_addr, "GET", "/metrics", "", "").text().contains("\ntokenweir_external_tokens{")
    });
    let page = send_request(router.admin_addr, "GET", "/metrics", "", "").text();
    assert_eq!(parse_docs_tables(&tokenweir::telemetry::metrics_markdown()), parse_metrics(&page));
}

#[test]
fn removed_replica_has_no_load() {
    let replicas = [start_replica(&["m"]), start_replica(&["m"])];
    let router = TestRouter::start_with_replicas(
        replicas.each_ref().map(|replica| replica.url()).each_ref().map(String::as_str),
    )
    .wait_until_ready();
    let mut streams: Vec<_> = (0..2).map(|_| router.connect()).collect();
    for (index, client) in streams.iter_mut().enumerate() {
        let headers = format!("x-emulate-lockstep: 1\r\nx-request-id: s{index}\r\n");
        client.send(build_request("POST", "/v1/chat/completions", &headers, chat_body("m", 5, true)));
    }
    let removed = format!("replica=\"{}\"", replicas[1].addr());
    let load = || router.sum_metric("tokenweir_in_flight", &[&removed]);
    wait_until("each replica has a stream", || load() == 1.0 && router.in_flight() == 2);
    let path = format!("/pools/default/replicas/{}", replicas[1].addr());
    assert_eq!(send_request(router.admin_addr, "DELETE", &path, "", "").status, 200);
    assert_eq!(load(), 0.0);
    drop(streams);
    wait_until("the other replica's stream has ended", || router.sum_metric("tokenweir_in_flight", &[]) == 0.0);
}
