//! The gaps of all streams of one series, as a histogram of Prometheus.
//!
//! A stream's gaps come counted by class already, thousands at a time; the recorder would take them one by one and keep
//! each until it is next read.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fleet::{GAP_SECONDS, Gaps};

const HELP: &str = "Between two arrivals of generated content in a stream; each may bring several tokens.";

/// Gaps by class.
#[derive(Debug, Default)]
pub(super) struct AllGaps {
    classes: [AtomicU64; GAP_SECONDS.len() + 1],
    nanos: AtomicU64,
}

impl AllGaps {
    /// Adds those of a stream.
    pub(super) fn add(&self, gaps: &Gaps) {
        for (class, (gaps, seconds)) in self.classes.iter().zip(gaps.classes()).filter(|(_, (gaps, _))| *gaps > 0) {
            class.fetch_add(gaps.into(), Ordering::Relaxed);
            self.nanos.fetch_add((seconds * 1e9) as u64, Ordering::Relaxed);
        }
    }

    /// Appends the series; one that has counted nothing has none.
    fn write(&self, name: &str, labels: &str, out: &mut String) {
        let counts = self.classes.each_ref().map(|class| class.load(Ordering::Relaxed));
        let all: u64 = counts.iter().sum();
        if all == 0 {
            return;
        }
        let mut so_far = 0;
        // Writing to a string cannot fail.
        for (bound, count) in GAP_SECONDS.iter().zip(counts) {
            so_far += count;
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {so_far}");
        }
        let sum = self.nanos.load(Ordering::Relaxed) as f64 / 1e9;
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {all}");
        let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {all}");
    }
}

/// Appends all of them, each with its labels.
pub(super) fn render<'a>(name: &str, all: impl Iterator<Item = (String, &'a AllGaps)>, out: &mut String) {
    let mut series = String::new();
    all.for_each(|(labels, gaps)| gaps.write(name, &labels, &mut series));
    if !series.is_empty() {
        let _ = writeln!(out, "# HELP {name} {HELP}\n# TYPE {name} histogram\n{series}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_of_nothing_and_an_empty_class_counts_what_is_below() {
        let (all, mut text) = (AllGaps::default(), String::new());
        render("x", [("a=\"b\"".to_owned(), &all)].into_iter(), &mut text);
        assert_eq!(text, "");
        all.classes[0].store(2, Ordering::Relaxed);
        all.classes[20].store(1, Ordering::Relaxed);
        all.nanos.store(7_500_000_000, Ordering::Relaxed);
        render("x", [("a=\"b\"".to_owned(), &all)].into_iter(), &mut text);
        for line in ["# TYPE x histogram", "x_bucket{a=\"b\",le=\"0.001\"} 2", "x_bucket{a=\"b\",le=\"5\"} 2"] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        assert!(text.ends_with("le=\"+Inf\"} 3\nx_sum{a=\"b\"} 7.5\nx_count{a=\"b\"} 3\n\n"), "{text}");
    }
}
