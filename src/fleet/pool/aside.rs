//! What a pool does for those who look on, its decisions' record and its shadow policy; and what it asks of requests for
//! both.

use std::sync::Arc;

use super::{Inner, Pool};
use crate::balance::{Candidate, Key, Load};
use crate::eject::Cause;
use crate::fleet::decisions::{Decision, Decisions, End, Seen, Way};
use crate::fleet::member::Member;
use crate::fleet::screening::Screening;
use crate::fleet::seat::Held;
use crate::fleet::shadow::{Happened, Imagined};
use crate::fleet::standing::Standing;
use crate::fleet::{Attempt, NoReplica, Progress, Shadowed};
use crate::units::{Moment, Slot};

/// What follows a request beside its charge.
#[derive(Debug)]
pub(in crate::fleet) struct Aside {
    kept: Option<(Arc<Decisions>, u64)>,
    imagined: Option<Imagined>,
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

    /// The answer goes on.
    pub(in crate::fleet) fn follow(&mut self, seen: Progress, now: Moment) {
        if let Some(imagined) = &mut self.imagined {
            imagined.follow(seen, now);
        }
    }

    /// What the shadow policy would have done.
    pub(in crate::fleet) fn shadowed(&self) -> Option<Shadowed> {
        self.imagined.as_ref()?.told()
    }

    /// The request has ended, on the replica at `at`.
    pub(in crate::fleet) fn end(self, at: Slot, end: End) {
        if let Some(imagined) = self.imagined {
            imagined.end(end.outcome, at, end.first_token.is_some());
        }
        if let Some((decisions, number)) = self.kept {
            decisions.end(number, end);
        }
    }
}

impl Pool {
    /// What the shadow policy wants to know requests by.
    pub fn shadow_key(&self) -> Option<&Key> {
        self.spec.shadow.as_ref()?.key()
    }

    /// Whether the policy, or the shadow policy, wants to know a request by what its body says.
    pub fn asks_body(&self) -> bool {
        [self.key(), self.shadow_key()].into_iter().flatten().any(Key::asks_body)
    }

    /// Whether requests' fingerprints are of use here: to the policy, to the shadow policy or to their keys.
    pub fn asks_prefix(&self) -> bool {
        let policies = [Some(&self.spec.policy), self.spec.shadow.as_ref()];
        policies.into_iter().flatten().any(|policy| policy.asks_prefix() || policy.key().is_some_and(Key::asks_prefix))
    }

    /// Requests and tokens that would be on each replica if the shadow policy had its way; empty without one.
    pub fn imagined(&self) -> Vec<(u32, Load)> {
        self.shadow.as_ref().map(|shadow| shadow.loads()).unwrap_or_default()
    }

    /// What there was to choose from, if anybody looks on. Copied under the lock; nothing is worked out.
    pub(super) fn seen(
        &self,
        inner: &Inner,
        attempt: &Attempt<'_>,
        held: Option<&Held<'_>>,
        choice: Choice,
    ) -> Option<Seen> {
        let kept = attempt.beside.kept.is_some();
        if !kept && self.shadow.is_none() {
            return None;
        }
        let candidate = |at: Slot| -> Option<Candidate> {
            let (member, standing) = (self.members.get(at.index())?, inner.standings.get(at.index())?);
            Some(member.candidate(at, standing, held, choice.now))
        };
        let way = match choice.chosen {
            _ if choice.pinned => Way::Pinned,
            Some(_) if inner.offered.is_empty() => Way::FirstFree,
            _ => Way::Asked,
        };
        let mut seen = Seen::new(way);
        match choice.chosen {
            Some(_) if way == Way::Asked => seen.offered.clone_from(&inner.offered),
            Some(at) => seen.offered.extend(candidate(at)),
            None => {}
        }
        if kept && !choice.pinned {
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
        if offered.len() == self.members.len() {
            return passed;
        }
        let screened = self.screen(inner, now);
        for (slot, (member, standing)) in (0u32..).zip(self.members.iter().zip(&inner.standings)) {
            if offered.binary_search_by_key(&Slot(slot), |c| c.at).is_err() {
                passed.push((Slot(slot), self.reason(member, standing, attempt, screened.clone())));
            }
        }
        passed
    }

    fn reason(
        &self,
        member: &Member,
        standing: &Standing,
        attempt: &Attempt<'_>,
        mut screening: Screening,
    ) -> &'static str {
        match (self.eligible(member, standing, attempt, &mut screening), &screening) {
            (true, _) if !member.takes_new() => "draining",
            (true, _) if attempt.is_bound() => "not the replica that the request belongs to",
            (true, _) if standing.busy.is_now(screening.now) => "busy",
            (true, _) => "a backup",
            (false, Screening { tried: true, .. }) => "has failed this request",
            (false, Screening { not_ready: true, .. }) => "not ready",
            (false, Screening { full: true, .. }) => "full",
            (false, Screening { ejected_until: Some(_), .. }) => match standing.out_for() {
                Some(Cause::Refused) => "ejected: refused a connection",
                Some(Cause::Failed) => "ejected: failed",
                Some(Cause::Stalled) => "ejected: stalled",
                Some(Cause::Check) | None => "ejected: failed its check",
            },
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
        let seen = seen?;
        let imagined = self.shadow.as_ref().zip(chosen.ok()).and_then(|(shadow, chosen)| {
            let (members, offered, pinned) = (&*self.members, &*seen.offered, seen.way != Way::Asked);
            shadow.imagine(attempt, &Happened { members, offered, chosen, pinned, now })
        });
        let kept = attempt.beside.kept.as_ref().map(|(decisions, id)| {
            let decision = Decision::new(id, &self.described, &attempt.job(), (seen, chosen), now);
            (decisions.clone(), decisions.keep(decision))
        });
        Some(Box::new(Aside { kept, imagined }))
    }
}
