//! The token ledger: the load of the requests on a replica, at every moment.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::balance::TokenLoad;
use crate::units::{Moment, Tokens, Usage};

/// A stream updates the ledger once it has this many unreported tokens,
const FLUSH_TOKENS: u64 = 16;
/// or when its last update is this old.
const FLUSH_INTERVAL: Duration = Duration::from_millis(20);
/// Fixed-point unit of the learned tokens per event.
const PARTS_PER_TOKEN: u64 = 1024;
/// A stream has weight 1/8 in the learned tokens per event.
const SCALE_EWMA_DIVISOR: u64 = 8;
/// Upper bound of the tokens per event, whatever a replica reports.
const MAX_TOKENS_PER_EVENT: u64 = 64;

/// The counters of one replica. Each is the sum over its live [`LoadReservation`]s, and zero without any.
#[derive(Debug, Default)]
pub(in crate::fleet) struct LoadLedger {
    counters: CachePadded<LedgerCounters>,
    /// Learned tokens per event, in parts; 0 before the first stream that reported usage.
    tokens_per_event: AtomicU64,
}

#[derive(Debug, Default)]
struct LedgerCounters {
    in_flight: AtomicU32,
    decoding: AtomicU32,
    prefill: AtomicU64,
    resident: AtomicU64,
    /// Prompt tokens whose first generated token has come, since the start.
    prefilled_total: AtomicU64,
    /// Generated tokens since the start.
    generated_total: AtomicU64,
}

/// One request's load on its replica. [`LoadReservation::release`] takes back exactly what was added.
#[derive(Debug, Default)]
pub(in crate::fleet) struct LoadReservation {
    /// Prompt tokens not yet prefilled; zero from the first token on.
    prefill: u64,
    decoding: bool,
    /// Resident tokens as counted in the ledger.
    resident: u64,
    /// Prompt tokens, first estimated, then as reported.
    prompt: u64,
    /// Generated tokens by the replica's last report.
    reported_output: u64,
    /// Content events since that report.
    events_since_report: u64,
    /// Content events of the whole stream.
    total_events: u64,
    /// Generated tokens as counted in the ledger's total.
    counted_output: u64,
    flushed_at: Moment,
}

impl LoadLedger {
    /// Adds a request: `prompt` tokens resident, `uncached` of them to be prefilled.
    pub(in crate::fleet) fn reserve(&self, prompt: Tokens, uncached: Tokens, now: Moment) -> LoadReservation {
        let LedgerCounters { in_flight, prefill, resident, .. } = &*self.counters;
        in_flight.fetch_add(1, Ordering::Relaxed);
        prefill.fetch_add(uncached.0, Ordering::Relaxed);
        resident.fetch_add(prompt.0, Ordering::Relaxed);
        LoadReservation {
            prefill: uncached.0,
            resident: prompt.0,
            prompt: prompt.0,
            flushed_at: now,
            ..LoadReservation::default()
        }
    }

    /// Returns the number of requests on the replica.
    pub(in crate::fleet) fn in_flight(&self) -> u32 {
        self.counters.in_flight.load(Ordering::Relaxed)
    }

    /// Returns the current load of the replica.
    pub(in crate::fleet) fn load(&self) -> TokenLoad {
        let decoding = self.counters.decoding.load(Ordering::Relaxed);
        TokenLoad {
            prefill: Tokens(self.counters.prefill.load(Ordering::Relaxed)),
            // The two counters are not read at once.
            waiting_requests: self.in_flight().saturating_sub(decoding),
            decoding_streams: decoding,
            resident: Tokens(self.counters.resident.load(Ordering::Relaxed)),
        }
    }

    /// Returns the prompt tokens prefilled and the tokens generated since the start. Streams under way count as they grow.
    pub(in crate::fleet) fn token_totals(&self) -> (Tokens, Tokens) {
        let LedgerCounters { prefilled_total, generated_total, .. } = &*self.counters;
        (Tokens(prefilled_total.load(Ordering::Relaxed)), Tokens(generated_total.load(Ordering::Relaxed)))
    }

    /// Updates the tokens per event from a stream that has reported its usage.
    fn learn_tokens_per_event(&self, generated: u64, events: u64) {
        if events == 0 || generated == 0 {
            return;
        }
        let measured = (generated.saturating_mul(PARTS_PER_TOKEN) / events)
            .clamp(PARTS_PER_TOKEN / 8, MAX_TOKENS_PER_EVENT * PARTS_PER_TOKEN);
        let average = self.tokens_per_event.load(Ordering::Relaxed);
        let next = if average == 0 {
            measured
        } else {
            average - average / SCALE_EWMA_DIVISOR + measured / SCALE_EWMA_DIVISOR
        };
        // Of two streams that end at once, one sample may be lost; no counter depends on it.
        self.tokens_per_event.store(next, Ordering::Relaxed);
    }

    fn estimate_tokens(&self, events: u64) -> u64 {
        let scale = self.tokens_per_event.load(Ordering::Relaxed);
        if scale == 0 { events } else { events.saturating_mul(scale) / PARTS_PER_TOKEN }
    }
}

impl LoadReservation {
    /// Records the first token: the prompt is prefilled, one more stream decodes.
    pub(in crate::fleet) fn record_first_token(&mut self, ledger: &LoadLedger) {
        if !self.decoding {
            self.decoding = true;
            ledger.counters.decoding.fetch_add(1, Ordering::Relaxed);
            self.release_prefill(ledger);
            ledger.counters.prefilled_total.fetch_add(self.prompt, Ordering::Relaxed);
        }
    }

    /// Adds `events` more content events.
    pub(in crate::fleet) fn add_output(&mut self, ledger: &LoadLedger, events: u32, now: Moment) {
        self.events_since_report += u64::from(events);
        self.total_events += u64::from(events);
        let due = self.tokens_held(ledger).abs_diff(self.resident);
        if due >= FLUSH_TOKENS || due > 0 && now.since(self.flushed_at) >= FLUSH_INTERVAL {
            self.flush(ledger, now);
        }
    }

    /// Applies the token counts that the replica has reported.
    pub(in crate::fleet) fn apply_usage(&mut self, ledger: &LoadLedger, usage: Usage, now: Moment) {
        // A report at the start of a stream may count the prompt only.
        let prompt = if usage.prompt.0 == 0 { self.prompt } else { usage.prompt.0 };
        if (prompt, usage.completion.0) != (self.prompt, self.reported_output) {
            (self.prompt, self.reported_output, self.events_since_report) = (prompt, usage.completion.0, 0);
            self.flush(ledger, now);
        }
    }

    /// Removes the request from the ledger. `completed`: the stream ended whole, so its counts can be learned from.
    pub(in crate::fleet) fn release(mut self, ledger: &LoadLedger, completed: bool) {
        self.count_output(ledger);
        if !self.decoding && self.counted_output > 0 {
            // A plain answer has no first token.
            ledger.counters.prefilled_total.fetch_add(self.prompt, Ordering::Relaxed);
        }
        if completed && self.events_since_report == 0 {
            ledger.learn_tokens_per_event(self.reported_output, self.total_events);
        }
        let LedgerCounters { in_flight, decoding, prefill, resident, .. } = &*ledger.counters;
        subtract(prefill, self.prefill);
        subtract(resident, self.resident);
        if self.decoding {
            decoding.fetch_sub(1, Ordering::Relaxed);
        }
        let before = in_flight.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a reservation is released once");
    }

    /// Returns the request's resident tokens, reported or estimated.
    pub(in crate::fleet) fn tokens_held(&self, ledger: &LoadLedger) -> u64 {
        self.prompt.saturating_add(self.output_tokens(ledger))
    }

    /// Returns the request's generated tokens, reported or estimated.
    pub(in crate::fleet) fn output_tokens(&self, ledger: &LoadLedger) -> u64 {
        self.reported_output.saturating_add(ledger.estimate_tokens(self.events_since_report))
    }

    fn release_prefill(&mut self, ledger: &LoadLedger) {
        subtract(&ledger.counters.prefill, std::mem::take(&mut self.prefill));
    }

    fn flush(&mut self, ledger: &LoadLedger, now: Moment) {
        let held = self.tokens_held(ledger);
        if held >= self.resident {
            ledger.counters.resident.fetch_add(held - self.resident, Ordering::Relaxed);
        } else {
            subtract(&ledger.counters.resident, self.resident - held);
        }
        self.resident = held;
        self.flushed_at = now;
        self.count_output(ledger);
    }

    /// Adds the tokens generated since the last call to the total. A report below the estimate takes none back.
    fn count_output(&mut self, ledger: &LoadLedger) {
        let output = self.output_tokens(ledger);
        if output > self.counted_output {
            ledger.counters.generated_total.fetch_add(output - self.counted_output, Ordering::Relaxed);
            self.counted_output = output;
        }
    }
}

fn subtract(sum: &AtomicU64, amount: u64) {
    let before = sum.fetch_sub(amount, Ordering::Relaxed);
    debug_assert!(before >= amount, "a reservation takes back what it added");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at_millis(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    /// The load of one request.
    fn load(prefill: u64, decoding: u32, resident: u64) -> TokenLoad {
        TokenLoad {
            prefill: Tokens(prefill),
            waiting_requests: 1u32.saturating_sub(decoding),
            decoding_streams: decoding,
            resident: Tokens(resident),
        }
    }

    fn usage(prompt: u64, completion: u64) -> Usage {
        Usage { prompt: Tokens(prompt), cached: None, completion: Tokens(completion) }
    }

    #[test]
    fn request_counts_its_prompt_then_its_stream_then_nothing() {
        let ledger = LoadLedger::default();
        let mut reservation = ledger.reserve(Tokens(100), Tokens(80), at_millis(0));
        assert_eq!((ledger.in_flight(), ledger.load()), (1, load(80, 0, 100)));
        reservation.record_first_token(&ledger);
        reservation.record_first_token(&ledger);
        assert_eq!(ledger.load(), load(0, 1, 100));
        reservation.add_output(&ledger, 3, at_millis(1));
        assert_eq!(ledger.load(), load(0, 1, 100), "few tokens are not flushed");
        reservation.add_output(&ledger, 13, at_millis(2));
        assert_eq!(ledger.load(), load(0, 1, 116));
        reservation.add_output(&ledger, 1, at_millis(30));
        assert_eq!(ledger.load(), load(0, 1, 117), "until the interval is over");
        reservation.apply_usage(&ledger, usage(90, 30), at_millis(31));
        assert_eq!(ledger.load(), load(0, 1, 120));
        reservation.release(&ledger, true);
        assert_eq!((ledger.in_flight(), ledger.load()), (0, TokenLoad::default()));
    }

    #[test]
    fn events_are_scaled_by_tokens_per_event_of_earlier_streams() {
        let ledger = LoadLedger::default();
        let mut first = ledger.reserve(Tokens(10), Tokens(10), at_millis(0));
        first.add_output(&ledger, 10, at_millis(1));
        first.apply_usage(&ledger, usage(10, 40), at_millis(2));
        first.release(&ledger, true);
        let mut second = ledger.reserve(Tokens(10), Tokens(10), at_millis(3));
        second.add_output(&ledger, 10, at_millis(4));
        assert_eq!(ledger.load().resident, Tokens(50));
        second.release(&ledger, false);
        assert_eq!(ledger.load(), TokenLoad::default());
    }

    #[test]
    fn broken_stream_is_not_learned_from_and_leaves_no_load() {
        let ledger = LoadLedger::default();
        let mut reservation = ledger.reserve(Tokens(10), Tokens(10), at_millis(0));
        reservation.add_output(&ledger, 5, at_millis(1));
        reservation.apply_usage(&ledger, usage(0, 500), at_millis(1));
        assert_eq!(ledger.load(), load(10, 0, 510));
        reservation.release(&ledger, false);
        assert_eq!((ledger.load(), ledger.estimate_tokens(3)), (TokenLoad::default(), 3));
    }

    /// Returns the sum of the reservations, which the ledger must equal.
    fn sum_reservations(reservations: &[LoadReservation]) -> (u32, TokenLoad) {
        let all = |part: fn(&LoadReservation) -> u64| reservations.iter().map(part).sum();
        let decoding = reservations.iter().filter(|reservation| reservation.decoding).count();
        let sums =
            load(all(|reservation| reservation.prefill), decoding as u32, all(|reservation| reservation.resident));
        (reservations.len() as u32, TokenLoad { waiting_requests: (reservations.len() - decoding) as u32, ..sums })
    }

    proptest! {
        #[test]
        fn counters_are_the_sum_of_the_reservations(
            steps in prop::collection::vec((0u8..6, any::<prop::sample::Index>(), 0u64..100_000, 0u64..300), 1..200),
        ) {
            let (ledger, mut reservations, mut now) = (LoadLedger::default(), Vec::<LoadReservation>::new(), Moment::ZERO);
            for (step, target, tokens, millis) in steps {
                now = now + Duration::from_millis(millis / 10);
                if step == 0 || reservations.is_empty() {
                    reservations.push(ledger.reserve(Tokens(tokens), Tokens(tokens.min(millis)), now));
                } else {
                    let index = target.index(reservations.len());
                    let reservation = &mut reservations[index];
                    match step {
                        1 => reservation.record_first_token(&ledger),
                        2 => reservation.add_output(&ledger, millis as u32, now),
                        3 => reservation.apply_usage(&ledger, usage(tokens % 1_000, millis), now),
                        _ => reservations.swap_remove(index).release(&ledger, step == 4),
                    }
                }
                prop_assert_eq!((ledger.in_flight(), ledger.load()), sum_reservations(&reservations));
            }
            reservations.into_iter().for_each(|reservation| reservation.release(&ledger, true));
            prop_assert_eq!((ledger.in_flight(), ledger.load()), (0, TokenLoad::default()));
        }
    }
}
