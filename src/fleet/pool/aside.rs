//! What a pool does for those who look on: keeps what there was to choose from.

use std::sync::Arc;

use super::{Inner, Pool};
use crate::balance::Candidate;
use crate::fleet::decisions::{Decision, Decisions, End, Seen};
use crate::fleet::member::Member;
use crate::fleet::screening::Screening;
use crate::fleet::seat::Held;
use crate::fleet::standing::Standing;
use crate::fleet::{Attempt, NoReplica};
use crate::units::{Moment, Slot};

/// What follows a request beside its charge.
#[derive(Debug)]
pub(in crate::fleet) struct Aside {
    kept: Option<(Arc<Decisions>, u64)>,
}

/// A choice as it came about.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    pub(super) chosen: Option<Slot>,
    pub(super) pinned: bool,
    pub(super) now: Moment,
}

impl Aside {
    /// The decision in a line, if it is kept.
    pub(in crate::fleet) fn line(&self) -> Option<String> {
        let (decisions, number) = self.kept.as_ref()?;
        decisions.line(*number)
    }

    /// The request has ended.
    pub(in crate::fleet) fn end(self, end: End) {
        if let Some((decisions, number)) = self.kept {
            decisions.end(number, end);
        }
    }
}

impl Pool {
    /// What there was to choose from, if anybody looks on. Copied under the lock; nothing is worked out.
    pub(super) fn seen(
        &self,
        inner: &Inner,
        attempt: &Attempt<'_>,
        held: Option<&Held<'_>>,
        choice: Choice,
    ) -> Option<Seen> {
        attempt.beside.kept.as_ref()?;
        let candidate = |at: Slot| -> Option<Candidate> {
            let (member, standing) = (self.members.get(at.index())?, inner.standings.get(at.index())?);
            Some(member.candidate(at, standing, held, choice.now))
        };
        let mut seen = Seen::new(choice.pinned);
        match choice.chosen {
            Some(at) if choice.pinned => seen.offered.extend(candidate(at)),
            Some(_) => seen.offered.clone_from(&inner.offered),
            None => {}
        }
        if !choice.pinned {
            seen.passed = self.passed_over(inner, attempt, &seen.offered, choice.now);
        }
        Some(seen)
    }

    /// Who was not offered, and why.
    fn passed_over(
        &self,
        inner: &Inner,
        attempt: &Attempt<'_>,
        offered: &[Candidate],
        now: Moment,
    ) -> Vec<(Slot, &'static str)> {
        let mut passed = Vec::new();
        for (slot, (member, standing)) in (0u32..).zip(self.members.iter().zip(&inner.standings)) {
            if offered.binary_search_by_key(&Slot(slot), |c| c.at).is_err() {
                passed.push((Slot(slot), self.reason(member, standing, attempt, now)));
            }
        }
        passed
    }

    fn reason(&self, member: &Member, standing: &Standing, attempt: &Attempt<'_>, now: Moment) -> &'static str {
        let mut screening = Screening::at(now);
        match (self.eligible(member, standing, attempt, &mut screening), &screening) {
            (true, _) if !member.takes_new() => "draining",
            (true, _) if attempt.is_bound() => "not the replica that the request belongs to",
            (true, _) => "a backup",
            (false, Screening { tried: true, .. }) => "has failed this request",
            (false, Screening { not_ready: true, .. }) => "not ready",
            (false, Screening { full: true, .. }) => "full",
            (false, Screening { ejected_until: Some(_), .. }) => "ejected",
            (false, _) if member.spec.down => "down",
            (false, _) if member.replica.is_drained() => "drained",
            (false, _) => "without the model",
        }
    }

    /// Hands what was seen to those who look on.
    pub(super) fn tell(
        &self,
        seen: Option<Seen>,
        attempt: &Attempt<'_>,
        chosen: Result<Slot, NoReplica>,
        now: Moment,
    ) -> Option<Box<Aside>> {
        let (seen, (decisions, id)) = seen.zip(attempt.beside.kept.as_ref())?;
        let decision = Decision::new(id, &self.described, &attempt.job(), (seen, chosen), now);
        Some(Box::new(Aside { kept: Some((decisions.clone(), decisions.keep(decision))) }))
    }
}
