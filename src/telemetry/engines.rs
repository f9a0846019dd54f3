//! The metrics that follow what engines say of themselves, as Prometheus text.
//!
//! Written out for each scrape and not kept by the recorder, whose series stay once they are there: a value is absent
//! where its engine does not tell it, and goes when it is too old to be believed.

use std::fmt::Write;

use crate::fleet::{Fleet, Truth};
use crate::units::Moment;

/// A metric with a series for each replica of each pool.
pub(super) struct Family {
    pub(super) name: &'static str,
    /// Prometheus's `TYPE`.
    pub(super) kind: &'static str,
    pub(super) help: &'static str,
    /// `None` where the engine does not tell.
    pub(super) value: fn(&Truth) -> Option<f64>,
}

/// Appends what is known at `now`, family by family; nothing of a family without any value.
pub(super) fn render(families: &[Family], fleet: &Fleet, now: Moment, out: &mut String) {
    let mut known = Vec::new();
    for pool in fleet.pools() {
        for replica in pool.replicas() {
            let Some(truth) = replica.truth(now) else { continue };
            let labels = format!("pool=\"{}\",replica=\"{}\"", escaped(pool.name()), escaped(replica.name()));
            known.push((labels, truth));
        }
    }
    for Family { name, kind, help, value } in families {
        let mut values = known.iter().filter_map(|(labels, truth)| Some((labels, value(truth)?))).peekable();
        if values.peek().is_none() {
            continue;
        }
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(out, "{name}{{{labels}}} {value}");
        }
        out.push('\n');
    }
}

/// A label's value as the text format wants it.
pub(super) fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_end_its_label() {
        assert_eq!(escaped("a\"} 1\n\\"), "a\\\"} 1\\n\\\\");
    }
}
