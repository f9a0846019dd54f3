//! Results as text, CSV and JSON.

use std::fmt::Write;

use super::result::ReplayResult;

/// The columns of the CSV, in the order of [`ReplayResult`].
const CSV_COLUMNS: &str =
    "policy,ttft_mean_s,ttft_p50_s,ttft_p99_s,tpot_mean_s,e2e_mean_s,hit_pct,imbalance,goodput_pct";

/// Returns a text table with a row per result.
pub fn format_text(rows: &[ReplayResult]) -> String {
    let width = rows.iter().map(|row| row.policy.chars().count()).max().unwrap_or(0).max("policy".len());
    let mut out = format!(
        "{:<width$}  {:>9}  {:>8}  {:>8}  {:>7}  {:>7}  {:>6}  {:>9}  {:>9}\n",
        "policy", "TTFT mean", "p50", "p99", "TPOT", "e2e", "hits", "imbalance", "goodput"
    );
    for row in rows {
        let tpot = format!("{:.1} ms", row.tpot_mean_s * 1_000.0);
        let _ = writeln!(
            out,
            "{:<width$}  {:>7.3} s  {:>6.3} s  {:>6.2} s  {tpot:>7}  {:>5.2} s  {:>4.1} %  {:>9.3}  {:>7.1} %",
            row.policy,
            row.ttft_mean_s,
            row.ttft_p50_s,
            row.ttft_p99_s,
            row.e2e_mean_s,
            row.hit_pct,
            row.imbalance,
            row.goodput_pct,
        );
    }
    out
}

/// Returns CSV with a header.
pub fn format_csv(rows: &[ReplayResult]) -> String {
    let mut out = format!("{CSV_COLUMNS}\n");
    for row in rows {
        let ReplayResult { policy, ttft_mean_s, ttft_p50_s, ttft_p99_s, tpot_mean_s, e2e_mean_s, .. } = row;
        let _ = writeln!(
            out,
            "{policy},{ttft_mean_s:.6},{ttft_p50_s:.6},{ttft_p99_s:.6},{tpot_mean_s:.6},{e2e_mean_s:.6},{:.3},{:.4},{:.3}",
            row.hit_pct, row.imbalance, row.goodput_pct,
        );
    }
    out
}

/// Returns a JSON array with an object per result.
pub fn format_json(rows: &[ReplayResult]) -> String {
    let text = serde_json::to_string_pretty(rows);
    text.expect("names and numbers can be written as JSON") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_formats_have_the_same_columns() {
        let row =
            ReplayResult { policy: "hash $session consistent".to_owned(), hit_pct: 12.5, ..ReplayResult::default() };
        let rows = [row];
        let parsed: Vec<serde_json::Map<String, serde_json::Value>> =
            serde_json::from_str(&format_json(&rows)).unwrap();
        let csv = format_csv(&rows);
        let (names, values) = csv.trim_end().split_once('\n').unwrap();
        let mut names: Vec<&str> = names.split(',').collect();
        assert_eq!(values.split(',').count(), names.len());
        names.sort_unstable();
        assert_eq!(parsed[0].keys().map(String::as_str).collect::<Vec<_>>(), names);
        let text = format_text(&rows);
        let (names, values) = text.trim_end().split_once('\n').unwrap();
        assert_eq!(names.chars().count(), values.chars().count());
        assert!(values.starts_with("hash $session consistent  ") && values.contains("12.5 %"));
    }
}
