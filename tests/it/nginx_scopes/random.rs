//! Random configurations behave as in nginx, or the import stops, which it may do at few of them. A seed that fails
//! prints its configuration; `SEED=n` runs it alone.

use super::case::ScopeCase;
use super::generator::ConfGenerator;
use super::sides::ComparisonSetup;
use super::table::run_case;

const REQUEST_COUNT: usize = 2_000;
const FIRST_SEED: u64 = 20_261_130;
/// The import may stop at one in so many configurations.
const MIN_CARRIED: usize = 5;
/// The number of failing configurations that are printed.
const SHOWN_CONFIGURATIONS: usize = 3;

#[test]
#[ignore = "needs nginx: .ci/nginx-scopes"]
fn random_scopes_behave_as_nginx() {
    let setup = ComparisonSetup::start("nginx-scopes-random");
    let only: Option<u64> = std::env::var("SEED").ok().map(|seed| seed.parse().unwrap());
    let (mut requests, mut configurations, mut stops, mut failing) = (0, 0, Vec::new(), Vec::new());
    let mut seeds = only.map_or(FIRST_SEED, |seed| seed)..;
    while requests < REQUEST_COUNT && failing.len() < 20 {
        let seed = seeds.next().unwrap();
        let text = ConfGenerator::generate(seed);
        let report = run_case(&setup, &ScopeCase { name: format!("seed {seed}"), text: text.clone() });
        configurations += 1;
        requests += report.requests;
        // nginx has checked it, so that there is one fault only.
        if report.has_stopped && report.faults.len() == 1 {
            stops.push(format!("SEED={seed}: {}", report.faults[0]));
        } else if !report.faults.is_empty() {
            let shown: Vec<&str> = report.faults.iter().take(8).map(String::as_str).collect();
            failing.push(format!("SEED={seed}: {} differ\n{text}{}", report.faults.len(), shown.join("\n")));
        }
        if only.is_some() {
            break;
        }
    }
    let (stopped, differing) = (stops.len(), failing.len());
    println!("{configurations} random configurations, {requests} requests; {differing} differ, {stopped} imports stop");
    let shown = failing.iter().take(SHOWN_CONFIGURATIONS).cloned().collect::<Vec<_>>().join("\n\n");
    assert!(failing.is_empty(), "{shown}");
    let few = only.is_some() || stops.len() * MIN_CARRIED <= configurations;
    assert!(few, "the import stops too often:\n{}", stops.join("\n"));
}
