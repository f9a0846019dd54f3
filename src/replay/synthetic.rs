//! Synthetic traces.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::f64::consts::TAU;
use std::str::FromStr;
use std::time::Duration;

use crate::balance::SeededRng;
use crate::units::Tokens;

use super::scenario::sample_unit;
use super::trace::{BlockRun, Trace, TraceRequest};

/// Tokens of a block.
const BLOCK_TOKENS: u64 = 64;
/// Longest prompt; a conversation ends before it.
const MAX_PROMPT_TOKENS: u64 = 60_000;
/// Block ids reserved for one shared prefix or one session.
const BLOCK_ID_RANGE: u64 = 1 << 20;
/// Seconds before the trace in which sessions may start.
const LEAD_IN_SECONDS: f64 = 300.0;

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

/// A log-normal distribution.
#[derive(Clone, Copy)]
struct LogNormal {
    median: f64,
    /// Standard deviation of the logarithm.
    sigma: f64,
    max: f64,
}

/// The distribution of sessions of a kind.
struct TrafficProfile {
    /// Sessions started per second.
    sessions_per_second: f64,
    /// Lengths of the shared prefixes. The frequency of the n-th is in proportion to 1 / n.
    shared_prefix_tokens: &'static [u64],
    /// Probability of a further turn.
    next_turn_probability: f64,
    /// Tokens that a turn adds to the prompt.
    turn_tokens: LogNormal,
    /// Probability that the session starts with a document, and the tokens of the document.
    document: (f64, LogNormal),
    answer_tokens: LogNormal,
    /// Seconds from the end of a turn to the next.
    think_seconds: LogNormal,
    closed_loop: bool,
}

const ZERO_LOG_NORMAL: LogNormal = LogNormal { median: 0.0, sigma: 0.0, max: 0.0 };

const CHAT_PROFILE: TrafficProfile = TrafficProfile {
    sessions_per_second: 4.0,
    shared_prefix_tokens: &[450, 1_200, 2_600, 700],
    next_turn_probability: 0.8,
    turn_tokens: LogNormal { median: 120.0, sigma: 1.2, max: 8_000.0 },
    document: (0.2, LogNormal { median: 9_000.0, sigma: 0.8, max: 48_000.0 }),
    answer_tokens: LogNormal { median: 220.0, sigma: 0.9, max: 2_000.0 },
    think_seconds: LogNormal { median: 30.0, sigma: 0.8, max: 240.0 },
    closed_loop: false,
};

const TOOLS_PROFILE: TrafficProfile = TrafficProfile {
    sessions_per_second: 24.0,
    shared_prefix_tokens: &[6_100, 2_500, 4_200, 1_300, 3_000, 5_200, 1_900, 800],
    next_turn_probability: 0.0,
    turn_tokens: LogNormal { median: 500.0, sigma: 1.3, max: 32_000.0 },
    document: (0.0, ZERO_LOG_NORMAL),
    answer_tokens: LogNormal { median: 40.0, sigma: 1.0, max: 1_000.0 },
    think_seconds: ZERO_LOG_NORMAL,
    closed_loop: false,
};

const AGENTS_PROFILE: TrafficProfile = TrafficProfile {
    sessions_per_second: 1.0,
    shared_prefix_tokens: &[17_000, 12_000, 21_000],
    next_turn_probability: 0.95,
    turn_tokens: LogNormal { median: 700.0, sigma: 1.1, max: 16_000.0 },
    document: (0.0, ZERO_LOG_NORMAL),
    answer_tokens: LogNormal { median: 180.0, sigma: 0.9, max: 4_000.0 },
    think_seconds: LogNormal { median: 4.0, sigma: 1.0, max: 60.0 },
    closed_loop: true,
};

const UNIFORM_PROFILE: TrafficProfile = TrafficProfile {
    sessions_per_second: 60.0,
    shared_prefix_tokens: &[0],
    next_turn_probability: 0.0,
    turn_tokens: LogNormal { median: 1_000.0, sigma: 0.4, max: 4_000.0 },
    document: (0.0, ZERO_LOG_NORMAL),
    answer_tokens: LogNormal { median: 150.0, sigma: 0.4, max: 600.0 },
    think_seconds: ZERO_LOG_NORMAL,
    closed_loop: false,
};

/// Returns a trace of `requests` requests; the same one for the same seed.
///
/// *Shape*: the arrivals of a period with sessions in progress at both its ends; a closed loop has whole sessions except the
/// last. The rates of the open loops keep eight replicas of the default model busy, not overloaded.
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
    let mut now = if profile.think_seconds.median > 0.0 && !profile.closed_loop { -LEAD_IN_SECONDS } else { 0.0 };
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

impl TrafficProfile {
    /// Returns the turns of a session that starts at second `start`; turns before second 0 are left out.
    fn sample_session(&self, session: u64, start: f64, rng: &mut SeededRng) -> Vec<TraceRequest> {
        let (prefix, prefix_tokens) = self.sample_shared_prefix(rng);
        let mut prompt = prefix_tokens;
        if sample_unit(rng) <= self.document.0 {
            prompt += self.document.1.sample_tokens(rng);
        }
        let (mut turns, mut sent_at, mut pause) = (Vec::new(), start, 0.0);
        for turn in 0.. {
            prompt += self.turn_tokens.sample_tokens(rng);
            let output = self.answer_tokens.sample_tokens(rng);
            if prompt > MAX_PROMPT_TOKENS {
                break;
            }
            let think_time = self.closed_loop.then(|| Duration::from_secs_f64(pause));
            let shared_blocks = prefix_tokens / BLOCK_TOKENS;
            let own_blocks = prompt / BLOCK_TOKENS - shared_blocks;
            // Shared prefixes have the first ids.
            let first_own_id = (session + self.shared_prefix_tokens.len() as u64) * BLOCK_ID_RANGE;
            let block_runs = vec![
                BlockRun { first_id: prefix * BLOCK_ID_RANGE, count: shared_blocks },
                BlockRun { first_id: first_own_id, count: own_blocks },
            ];
            if sent_at >= 0.0 {
                turns.push(TraceRequest {
                    sent_at: Duration::from_secs_f64(sent_at),
                    prompt: Tokens(prompt),
                    output: Tokens(output),
                    block_size: Tokens(BLOCK_TOKENS),
                    block_runs,
                    session: Some(session),
                    turn,
                    think_time,
                });
            }
            prompt += output;
            pause = self.think_seconds.sample(rng);
            sent_at += pause;
            if sample_unit(rng) > self.next_turn_probability {
                break;
            }
        }
        turns
    }

    /// Returns the index of a shared prefix and its tokens.
    fn sample_shared_prefix(&self, rng: &mut SeededRng) -> (u64, u64) {
        let weights = || (1..=self.shared_prefix_tokens.len()).map(|rank| 1.0 / rank as f64);
        let mut remaining = sample_unit(rng) * weights().sum::<f64>();
        for ((prefix, tokens), weight) in (0u64..).zip(self.shared_prefix_tokens).zip(weights()) {
            remaining -= weight;
            if remaining <= 0.0 {
                return (prefix, *tokens);
            }
        }
        (0, self.shared_prefix_tokens.first().copied().unwrap_or_default())
    }
}

impl LogNormal {
    fn sample(self, rng: &mut SeededRng) -> f64 {
        // Box-Muller transform.
        let normal = (-2.0 * sample_unit(rng).ln()).sqrt() * (TAU * sample_unit(rng)).cos();
        (self.median * (self.sigma * normal).exp()).min(self.max)
    }

    /// Returns a sample of at least 1.
    fn sample_tokens(self, rng: &mut SeededRng) -> u64 {
        self.sample(rng).round().max(1.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        for (at, request) in trace.requests().iter().enumerate() {
            let Some((next, _)) = trace.next_turn(at) else { continue };
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
