//! Runs all cases and prints the table.

use std::collections::BTreeMap;

use tokenweir::config::Diagnostics;
use tokenweir::import::ImportedConfig;

use super::case::{PreparedCase, ScopeCase};
use super::differences::{LISTED_DIFFERENCES, LOG_CONDITION, find_listed, is_listed_log};
use super::outcome::{ComparedRequest, Difference, compare_logs};
use super::requests::build_requests;
use super::sides::ComparisonSetup;

/// The number of differences that are printed of a case.
const SHOWN_OF_A_CASE: usize = 6;

/// The figures of a case.
#[derive(Default)]
pub(crate) struct CaseReport {
    pub(crate) requests: usize,
    /// Requests with listed differences only, by the name of the difference.
    listed: BTreeMap<&'static str, usize>,
    /// Each as a text.
    pub(crate) faults: Vec<String>,
    /// Whether the import has stopped where the case has no `# stops`.
    pub(crate) has_stopped: bool,
}

/// Runs a case on both sides.
pub(crate) fn run_case(setup: &ComparisonSetup, case: &ScopeCase) -> CaseReport {
    let prepared = case.prepare(&setup.places());
    let stops = case.stop_lines();
    if std::env::var_os("NGINX_TWICE").is_some() {
        return if stops.is_empty() { compare_nginx_with_itself(setup, &prepared) } else { CaseReport::default() };
    }
    match (setup.import(&prepared), stops.is_empty()) {
        (Err(report), true) => {
            let mut found = fault(format!("the import stops: {}", prepared.restore_ports(&report.to_string())));
            found.has_stopped = true;
            check_nginx(setup, &prepared, &mut found);
            found
        }
        (Ok(_), false) => fault(format!("the import does not stop at line {stops:?}")),
        (Err(report), false) => check_stop(setup, &prepared, &stops, &report),
        (Ok(imported), true) => compare_case(setup, case, &prepared, &imported),
    }
}

/// Runs a case in nginx twice: differences are faults of the comparison.
fn compare_nginx_with_itself(setup: &ComparisonSetup, case: &PreparedCase) -> CaseReport {
    let requests = build_requests(case);
    let (one, two) = (setup.run_nginx(case, &requests), setup.run_nginx(case, &requests));
    let mut report = CaseReport { requests: requests.len(), ..CaseReport::default() };
    for (at, request) in requests.iter().enumerate() {
        let compared = ComparedRequest { case, request, nginx: &one.requests[at], ours: &two.requests[at] };
        let differences = compared.differences(setup);
        report
            .faults
            .extend(differences.iter().map(|difference| format!("{}: {}", request.line, describe(difference))));
    }
    report.faults.extend(compare_logs(&one, &two).iter().map(describe));
    report
}

fn fault(text: String) -> CaseReport {
    CaseReport { faults: vec![text], ..CaseReport::default() }
}

/// Checks that the import has stopped at the marked lines only.
fn check_stop(setup: &ComparisonSetup, case: &PreparedCase, wanted: &[usize], report: &Diagnostics) -> CaseReport {
    let mut lines: Vec<usize> = report.diagnostics().iter().map(|issue| issue.line).collect();
    lines.sort_unstable();
    lines.dedup();
    let mut found = CaseReport::default();
    if lines != wanted {
        found.faults.push(format!("the import stops at lines {lines:?}, not at {wanted:?}:\n{report}"));
    }
    check_nginx(setup, case, &mut found);
    found
}

/// Checks that nginx accepts a configuration.
fn check_nginx(setup: &ComparisonSetup, case: &PreparedCase, found: &mut CaseReport) {
    if case.comment_values("not in nginx").is_empty()
        && let Err(error) = setup.check_with_nginx(case)
    {
        found.faults.push(format!("nginx rejects it: {error}"));
    }
}

fn compare_case(
    setup: &ComparisonSetup,
    case: &ScopeCase,
    prepared: &PreparedCase,
    imported: &ImportedConfig,
) -> CaseReport {
    let requests = build_requests(prepared);
    let nginx = setup.run_nginx(prepared, &requests);
    let ours = match setup.run_router(prepared, imported, &requests) {
        Ok(ours) => ours,
        Err(error) => return fault(format!("{error}\n{}", imported.toml)),
    };
    let mut report = CaseReport { requests: requests.len(), ..CaseReport::default() };
    let allowed = case.comment_words("differs");
    let unknown = allowed.iter().find(|name| LISTED_DIFFERENCES.iter().all(|listed| listed.name != **name));
    assert!(unknown.is_none(), "{}: {unknown:?} is not listed", case.name);
    for (at, request) in requests.iter().enumerate() {
        let compared =
            ComparedRequest { case: prepared, request, nginx: &nginx.requests[at], ours: &ours.requests[at] };
        let mut other = Vec::new();
        for difference in compared.differences(setup) {
            let Difference { part, nginx, ours } = &difference;
            let listed = find_listed(&compared, &allowed, (part, nginx, ours));
            match listed {
                Some(listed) if imported.toml.contains(listed.remark) => {
                    *report.listed.entry(listed.name).or_default() += 1;
                }
                Some(listed) => other.push(format!("the import has no remark `{}`", listed.remark)),
                None => other.push(describe(&difference)),
            }
        }
        if !other.is_empty() {
            let line = prepared.restore_ports(&request.line);
            report.faults.push(prepared.restore_ports(&format!("{line}\n      {}", other.join("\n      "))));
        }
    }
    let logs = compare_logs(&nginx, &ours);
    let logs = match is_listed_log(&allowed, &imported.toml) {
        true => {
            report.listed.insert(LOG_CONDITION, logs.len());
            Vec::new()
        }
        false => logs,
    };
    report.faults.extend(logs.iter().map(|difference| prepared.restore_ports(&describe(difference))));
    report
}

fn describe(difference: &Difference) -> String {
    let text = format!("{:?}: nginx {}, ours {}", difference.part, difference.nginx, difference.ours);
    text.replace('\n', "\\n")
}

#[test]
#[ignore = "needs nginx: .ci/nginx-scopes"]
fn imported_scopes_behave_as_nginx() {
    let setup = ComparisonSetup::start("nginx-scopes");
    let wanted = std::env::var("CASE").unwrap_or_default();
    let cases: Vec<ScopeCase> = ScopeCase::read_all().into_iter().filter(|case| case.name.contains(&wanted)).collect();
    let (mut requests, mut faults, mut green, mut listed) = (0, 0, 0, BTreeMap::new());
    println!("{:<34} {:>8} {:>6} {:>9}", "configuration", "requests", "listed", "differing");
    for case in &cases {
        let report = run_case(&setup, case);
        let here: usize = report.listed.values().sum();
        println!("{:<34} {:>8} {here:>6} {:>9}", case.name, report.requests, report.faults.len());
        let shown = if wanted.is_empty() { SHOWN_OF_A_CASE } else { usize::MAX };
        report.faults.iter().take(shown).for_each(|text| println!("    {text}"));
        requests += report.requests;
        faults += report.faults.len();
        green += usize::from(report.faults.is_empty());
        report.listed.into_iter().for_each(|(name, count)| *listed.entry(name).or_insert(0) += count);
    }
    println!("{} configurations, {requests} requests; {faults} differences in {}", cases.len(), cases.len() - green);
    for difference in &LISTED_DIFFERENCES {
        println!("{:>6}  {}: {}", listed.get(difference.name).unwrap_or(&0), difference.name, difference.reason);
    }
    assert_eq!(faults, 0, "differences that are not listed");
    let names = LISTED_DIFFERENCES.iter().map(|difference| difference.name);
    let never: Vec<&str> = names.filter(|name| wanted.is_empty() && !listed.contains_key(name)).collect();
    assert!(never.is_empty(), "listed and never seen: {never:?}");
}
