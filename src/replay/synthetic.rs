//! Synthetic traces.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::str::FromStr;

use super::scenario::sample_unit;
use super::trace::{Trace, TraceRequest};
use super::traffic_profile::{AGENTS_PROFILE, CHAT_PROFILE, TOOLS_PROFILE, UNIFORM_PROFILE};
use crate::balance::SeededRng;

/// Kinds of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyntheticKind {
    /// Conversations of some five turns with one of four system prompts; some start with a document.
    Chat,
    /// Single calls with one of eight long tool descriptions and short answers; a few are long.
    Tools,
    /// Coding agents, a closed loop: long shared prefixes and dozens of turns in quick succession.
    Agents,
    /// Single requests of moderate length without shared prefixes.
    Uniform,
}

impl FromStr for SyntheticKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "chat" => Ok(Self::Chat),
            "tools" => Ok(Self::Tools),
            "agents" => Ok(Self::Agents),
            "uniform" => Ok(Self::Uniform),
            _ => Err("not one of chat, tools, agents, uniform".to_owned()),
        }
    }
}

/// Returns a trace of `requests` requests; the same one for the same seed.
///
/// *Shape*: the arrivals of a period with sessions in progress at both its ends; a closed loop has whole sessions
/// except the last. The rates of the open loops keep eight replicas of the default model busy, not overloaded.
pub fn synthesize_trace(kind: SyntheticKind, requests: usize, seed: u64) -> Trace {
    let profile = match kind {
        SyntheticKind::Chat => &CHAT_PROFILE,
        SyntheticKind::Tools => &TOOLS_PROFILE,
        SyntheticKind::Agents => &AGENTS_PROFILE,
        SyntheticKind::Uniform => &UNIFORM_PROFILE,
    };
    let mut rng = SeededRng::from_seed(seed);
    let mut generated = Vec::with_capacity(requests);
    // Turns of the sessions so far, by time.
    let mut pending = BinaryHeap::new();
    let mut now = -profile.lead_in_seconds();
    for session in 1.. {
        if generated.len() >= requests {
            break;
        }
        now -= sample_unit(&mut rng).ln() / profile.sessions_per_second;
        let turns = profile.sample_session(session, now, &mut rng);
        if profile.closed_loop {
            generated.extend(turns);
            continue;
        }
        pending.extend(turns.into_iter().map(|turn| Reverse((turn.sent_at, session, turn.turn, PendingTurn(turn)))));
        // All later sessions start after `now`.
        while pending.peek().is_some_and(|Reverse((sent_at, ..))| sent_at.as_secs_f64() < now) {
            generated.extend(pending.pop().map(|Reverse((.., PendingTurn(turn)))| turn));
        }
    }
    generated.truncate(requests);
    Trace::new(generated)
}

/// A request in a heap whose order is that of the tuple members before it.
struct PendingTurn(TraceRequest);

impl PartialEq for PendingTurn {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for PendingTurn {}

impl PartialOrd for PendingTurn {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PendingTurn {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::traffic_profile::{BLOCK_TOKENS, MAX_PROMPT_TOKENS};

    const KIND_NAMES: [&str; 4] = ["chat", "tools", "agents", "uniform"];

    /// Returns the share of prompt tokens that an unlimited cache would have.
    fn repeated_share(trace: &Trace) -> f64 {
        let mut seen = std::collections::BTreeSet::new();
        let (mut known, mut all) = (0, 0);
        for request in trace.requests() {
            known += request.block_ids().take_while(|id| seen.contains(id)).count() as u64 * request.block_size.0;
            seen.extend(request.block_ids());
            all += request.prompt.0;
        }
        known as f64 / all as f64
    }

    #[test]
    fn same_seed_gives_the_same_trace_of_each_kind() {
        for kind in KIND_NAMES {
            let kind: SyntheticKind = kind.parse().unwrap();
            let trace = synthesize_trace(kind, 500, 3);
            assert_eq!(trace.requests().len(), 500);
            assert_eq!(trace, synthesize_trace(kind, 500, 3));
            assert_ne!(trace, synthesize_trace(kind, 500, 4));
            assert_eq!(trace.is_closed_loop(), kind == SyntheticKind::Agents);
            for request in trace.requests() {
                assert!(request.prompt.0 <= MAX_PROMPT_TOKENS && request.output.0 > 0, "{request:?}");
                assert_eq!(request.block_tokens(), request.prompt.0 / BLOCK_TOKENS * BLOCK_TOKENS);
            }
        }
        assert_eq!("Chat".parse::<SyntheticKind>(), Err("not one of chat, tools, agents, uniform".to_owned()));
    }

    #[test]
    fn turn_starts_with_the_previous_turn() {
        let trace = synthesize_trace(SyntheticKind::Agents, 300, 1);
        let mut pairs = 0;
        for (index, request) in trace.requests().iter().enumerate() {
            let Some((next, _)) = trace.next_turn(index) else { continue };
            let next = &trace.requests()[next];
            assert!(next.prompt >= request.prompt + request.output);
            assert!(request.block_ids().zip(next.block_ids()).all(|(a, b)| a == b));
            pairs += 1;
        }
        assert!(pairs > 200, "{pairs}");
    }

    #[test]
    fn kinds_differ_in_their_repeated_share() {
        let [chat, tools, agents, uniform] =
            KIND_NAMES.map(|kind| repeated_share(&synthesize_trace(kind.parse().unwrap(), 2_000, 1)));
        assert!((0.4..0.9).contains(&chat), "{chat}");
        assert!((0.6..0.9).contains(&tools), "{tools}");
        assert!((0.8..1.0).contains(&agents), "{agents}");
        assert_eq!(uniform, 0.0);
    }
}
