//! The result of a member's health checks.

use crate::fleet::HealthCheck;

/// Whether a member passes its health checks, by `rise` and `fall`.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::fleet) struct CheckState {
    unhealthy: bool,
    /// Consecutive results that contradict `unhealthy`.
    contrary_results: u32,
}

impl CheckState {
    /// Returns whether the checks have ejected the member.
    pub(in crate::fleet) const fn is_unhealthy(&self) -> bool {
        self.unhealthy
    }

    /// Records a result. Returns whether it changed the state.
    pub(super) fn record(&mut self, passed: bool, check: &HealthCheck) -> bool {
        self.contrary_results = if passed == self.unhealthy { self.contrary_results + 1 } else { 0 };
        let changed = self.contrary_results >= if self.unhealthy { check.rise } else { check.fall };
        if changed {
            (self.unhealthy, self.contrary_results) = (!self.unhealthy, 0);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_eject_after_fall_and_readmit_after_rise() {
        let mut state = CheckState::default();
        let check = HealthCheck { rise: 2, fall: 3, ..HealthCheck::default() };
        let mut changes = String::new();
        for passed in "++--+---+-++".chars() {
            let changed = state.record(passed == '+', &check);
            changes.push(if changed { '!' } else { '.' });
            changes.push(if state.is_unhealthy() { 'o' } else { 'i' });
        }
        assert_eq!(changes, ".i.i.i.i.i.i.i!o.o.o.o!i");
    }
}
