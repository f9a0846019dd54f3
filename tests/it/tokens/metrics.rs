//! README's table of metrics is what `/metrics` tells: every name, its labels and its unit.

use std::collections::BTreeMap;

use crate::harness::client::build_request;
use crate::harness::{TestRouter, chat_body, send_request, start_replica, wait_until};

/// Labels and kind of every metric, by name.
type MetricTable = BTreeMap<String, (Vec<String>, String)>;

/// What the units of README are in names.
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

fn parse_readme_table(readme: &str) -> MetricTable {
    let head = "| name | labels | unit | what it says |\n|---|---|---|---|\n";
    let rows = readme.split_once(head).expect("README.md has the table").1.lines().take_while(|l| l.starts_with('|'));
    let mut table = MetricTable::new();
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, name, labels, unit, says, _] = cells[..] else { panic!("{row}") };
        let (name, labels) = (name.trim_matches('`'), labels.trim_matches('`'));
        let kind = match (says.starts_with("histogram: "), name.ends_with("_total")) {
            (true, _) => "histogram",
            (false, true) => "counter",
            (false, false) => "gauge",
        };
        if let Some((_, end)) = UNIT_SUFFIXES.iter().find(|(name, _)| *name == unit) {
            assert!(name.trim_end_matches("_total").ends_with(end), "{name} is no number of {unit}");
        }
        let labels = labels.split(',').filter(|label| !label.is_empty()).map(str::to_owned).collect();
        assert!(table.insert(name.to_owned(), (labels, kind.to_owned())).is_none(), "{name} is there twice");
    }
    table
}

#[test]
fn the_readme_has_every_metric_with_its_labels_and_no_other() {
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
    wait_until("both have settled", || router.sum_metric("tokenweir_attempts_total", &["completed"]) == 2.0);
    // The last to come: an engine is asked now and then, and foreign load is told when it has been asked.
    wait_until("the engine was asked", || {
        send_request(router.admin_addr, "GET", "/metrics", "", "").text().contains("\ntokenweir_external_tokens{")
    });
    let page = send_request(router.admin_addr, "GET", "/metrics", "", "").text();
    assert_eq!(parse_readme_table(include_str!("../../../README.md")), parse_metrics(&page));
}

#[test]
fn a_replica_that_has_left_has_no_load() {
    let replicas = [start_replica(&["m"]), start_replica(&["m"])];
    let router = TestRouter::start_with_replicas(
        replicas.each_ref().map(|replica| replica.url()).each_ref().map(String::as_str),
    )
    .wait_until_ready();
    let mut streams: Vec<_> = (0..2).map(|_| router.connect()).collect();
    for (at, client) in streams.iter_mut().enumerate() {
        let headers = format!("x-emulate-lockstep: 1\r\nx-request-id: s{at}\r\n");
        client.send(build_request("POST", "/v1/chat/completions", &headers, chat_body("m", 5, true)));
    }
    let gone = format!("replica=\"{}\"", replicas[1].addr());
    let load = || router.sum_metric("tokenweir_in_flight", &[&gone]);
    wait_until("each has a stream", || load() == 1.0 && router.in_flight() == 2);
    let path = format!("/pools/default/replicas/{}", replicas[1].addr());
    assert_eq!(send_request(router.admin_addr, "DELETE", &path, "", "").status, 200);
    assert_eq!(load(), 0.0);
    drop(streams);
    wait_until("the other's has ended", || router.sum_metric("tokenweir_in_flight", &[]) == 0.0);
}
