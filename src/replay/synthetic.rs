//! Made-up traces, for those who have recorded none.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::f64::consts::TAU;
use std::str::FromStr;
use std::time::Duration;

use crate::balance::Dice;
use crate::units::Tokens;

use super::scenario::chance;
use super::trace::{Request, Run, Trace};

/// Tokens of a block.
const BLOCK: u64 = 64;
/// A conversation ends before a prompt gets longer.
const LONGEST: u64 = 60_000;
/// Ids of one shared beginning or one session's text.
const IDS: u64 = 1 << 20;
/// Seconds before the trace in which sessions have begun that go on in it.
const BEFORE: f64 = 300.0;

/// Kinds of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Conversations of some five turns with one of four system prompts; a few begin with a document.
    Chat,
    /// Single calls with one of eight long descriptions of tools and short answers; a few carry much.
    Tools,
    /// Coding agents, a closed loop: long shared beginnings, dozens of turns, each soon after the last.
    Agents,
    /// Single requests without anything in common, all of moderate length.
    Uniform,
}

impl FromStr for Kind {
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

/// Lengths that are log-normal: half of them below `median`, with a long tail above.
#[derive(Clone, Copy)]
struct Spread {
    median: f64,
    /// Standard deviation of the logarithm.
    sigma: f64,
    most: f64,
}

/// What the sessions of a kind are like.
struct Habits {
    /// Sessions begun per second.
    rate: f64,
    /// Lengths of the shared beginnings. The first is the most frequent: the n-th has a share in proportion to 1 / n.
    shared: &'static [u64],
    /// How likely another turn follows.
    again: f64,
    /// What a turn adds to the prompt.
    asked: Spread,
    /// How likely the session begins with a document, and how long it is.
    document: (f64, Spread),
    answer: Spread,
    /// Seconds from one turn to the next.
    pause: Spread,
    closed: bool,
}

const NOTHING: Spread = Spread { median: 0.0, sigma: 0.0, most: 0.0 };

const CHAT: Habits = Habits {
    rate: 4.0,
    shared: &[450, 1_200, 2_600, 700],
    again: 0.8,
    asked: Spread { median: 120.0, sigma: 1.2, most: 8_000.0 },
    document: (0.2, Spread { median: 9_000.0, sigma: 0.8, most: 48_000.0 }),
    answer: Spread { median: 220.0, sigma: 0.9, most: 2_000.0 },
    pause: Spread { median: 30.0, sigma: 0.8, most: 240.0 },
    closed: false,
};

const TOOLS: Habits = Habits {
    rate: 24.0,
    shared: &[6_100, 2_500, 4_200, 1_300, 3_000, 5_200, 1_900, 800],
    again: 0.0,
    asked: Spread { median: 500.0, sigma: 1.3, most: 32_000.0 },
    document: (0.0, NOTHING),
    answer: Spread { median: 40.0, sigma: 1.0, most: 1_000.0 },
    pause: NOTHING,
    closed: false,
};

const AGENTS: Habits = Habits {
    rate: 1.0,
    shared: &[17_000, 12_000, 21_000],
    again: 0.95,
    asked: Spread { median: 700.0, sigma: 1.1, most: 16_000.0 },
    document: (0.0, NOTHING),
    answer: Spread { median: 180.0, sigma: 0.9, most: 4_000.0 },
    pause: Spread { median: 4.0, sigma: 1.0, most: 60.0 },
    closed: true,
};

const UNIFORM: Habits = Habits {
    rate: 60.0,
    shared: &[0],
    again: 0.0,
    asked: Spread { median: 1_000.0, sigma: 0.4, most: 4_000.0 },
    document: (0.0, NOTHING),
    answer: Spread { median: 150.0, sigma: 0.4, most: 600.0 },
    pause: NOTHING,
    closed: false,
};

/// Makes up `requests` requests; the same ones for the same seed.
///
/// *Shape*: what arrives in a stretch of time with sessions under way at both its ends; a closed loop has whole sessions
/// but for the last. The rates of the open loops keep eight replicas of the default
/// constants busy, not overloaded.
pub fn synthetic(kind: Kind, requests: usize, seed: u64) -> Trace {
    let habits = match kind {
        Kind::Chat => &CHAT,
        Kind::Tools => &TOOLS,
        Kind::Agents => &AGENTS,
        Kind::Uniform => &UNIFORM,
    };
    let mut dice = Dice::seeded(seed);
    let mut made = Vec::with_capacity(requests);
    // Turns of the sessions so far, by time.
    let mut to_come = BinaryHeap::new();
    let mut now = if habits.pause.median > 0.0 && !habits.closed { -BEFORE } else { 0.0 };
    for session in 1.. {
        if made.len() >= requests {
            break;
        }
        now -= chance(&mut dice).ln() / habits.rate;
        let turns = habits.session(session, now, &mut dice);
        if habits.closed {
            made.extend(turns);
            continue;
        }
        to_come.extend(turns.into_iter().map(|turn| Reverse((turn.at, session, turn.turn, Waiting(turn)))));
        // All later sessions begin after `now`.
        while to_come.peek().is_some_and(|Reverse((at, ..))| at.as_secs_f64() < now) {
            made.extend(to_come.pop().map(|Reverse((.., Waiting(turn)))| turn));
        }
    }
    made.truncate(requests);
    Trace::new(made)
}

/// A request in a heap, where what stands before it in the tuple has decided.
struct Waiting(Request);

impl PartialEq for Waiting {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl Habits {
    /// The turns of a session that begins at second `start`; those before second 0 are left out of an open loop.
    fn session(&self, session: u64, start: f64, dice: &mut Dice) -> Vec<Request> {
        let (which, shared) = self.beginning(dice);
        let mut prompt = shared;
        if chance(dice) <= self.document.0 {
            prompt += self.document.1.tokens(dice);
        }
        let (mut turns, mut at, mut pause) = (Vec::new(), start, 0.0);
        for turn in 0.. {
            prompt += self.asked.tokens(dice);
            let output = self.answer.tokens(dice);
            if prompt > LONGEST {
                break;
            }
            let think = self.closed.then(|| Duration::from_secs_f64(pause));
            let alike = shared / BLOCK;
            let own = prompt / BLOCK - alike;
            // Beginnings have the first ids, sessions those behind.
            let own_ids = (session + self.shared.len() as u64) * IDS;
            let blocks = vec![Run { first: which * IDS, count: alike }, Run { first: own_ids, count: own }];
            if at >= 0.0 {
                turns.push(Request {
                    at: Duration::from_secs_f64(at),
                    prompt: Tokens(prompt),
                    output: Tokens(output),
                    block: Tokens(BLOCK),
                    blocks,
                    session: Some(session),
                    turn,
                    think,
                });
            }
            prompt += output;
            pause = self.pause.throw(dice);
            at += pause;
            if chance(dice) > self.again {
                break;
            }
        }
        turns
    }

    /// Which of the shared beginnings, and its length.
    fn beginning(&self, dice: &mut Dice) -> (u64, u64) {
        let weights = || (1..=self.shared.len()).map(|rank| 1.0 / rank as f64);
        let mut left = chance(dice) * weights().sum::<f64>();
        for ((which, length), weight) in (0u64..).zip(self.shared).zip(weights()) {
            left -= weight;
            if left <= 0.0 {
                return (which, *length);
            }
        }
        (0, self.shared.first().copied().unwrap_or_default())
    }
}

impl Spread {
    fn throw(self, dice: &mut Dice) -> f64 {
        // Box and Muller.
        let normal = (-2.0 * chance(dice).ln()).sqrt() * (TAU * chance(dice)).cos();
        (self.median * (self.sigma * normal).exp()).min(self.most)
    }

    /// At least 1.
    fn tokens(self, dice: &mut Dice) -> u64 {
        self.throw(dice).round().max(1.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [&str; 4] = ["chat", "tools", "agents", "uniform"];

    /// The share of the prompts' tokens that a cache of any size would know.
    fn repeated(trace: &Trace) -> f64 {
        let mut seen = std::collections::BTreeSet::new();
        let (mut known, mut all) = (0, 0);
        for request in trace.requests() {
            known += request.ids().take_while(|id| seen.contains(id)).count() as u64 * request.block.0;
            seen.extend(request.ids());
            all += request.prompt.0;
        }
        known as f64 / all as f64
    }

    #[test]
    fn a_seed_makes_one_trace_of_each_kind() {
        for kind in KINDS {
            let kind: Kind = kind.parse().unwrap();
            let trace = synthetic(kind, 500, 3);
            assert_eq!(trace.requests().len(), 500);
            assert_eq!(trace, synthetic(kind, 500, 3));
            assert_ne!(trace, synthetic(kind, 500, 4));
            assert_eq!(trace.is_closed(), kind == Kind::Agents);
            for request in trace.requests() {
                assert!(request.prompt.0 <= LONGEST && request.output.0 > 0, "{request:?}");
                assert_eq!(request.block_tokens(), request.prompt.0 / BLOCK * BLOCK);
            }
        }
        assert_eq!("Chat".parse::<Kind>(), Err("not one of chat, tools, agents, uniform".to_owned()));
    }

    #[test]
    fn a_turn_begins_with_the_turn_before_it() {
        let trace = synthetic(Kind::Agents, 300, 1);
        let mut pairs = 0;
        for (at, request) in trace.requests().iter().enumerate() {
            let Some((next, _)) = trace.after(at) else { continue };
            let next = &trace.requests()[next];
            assert!(next.prompt >= request.prompt + request.output);
            assert!(request.ids().zip(next.ids()).all(|(a, b)| a == b));
            pairs += 1;
        }
        assert!(pairs > 200, "{pairs}");
    }

    #[test]
    fn kinds_differ_in_how_much_is_repeated() {
        let [chat, tools, agents, uniform] = KINDS.map(|kind| repeated(&synthetic(kind.parse().unwrap(), 2_000, 1)));
        assert!((0.4..0.9).contains(&chat), "{chat}");
        assert!((0.6..0.9).contains(&tools), "{tools}");
        assert!((0.8..1.0).contains(&agents), "{agents}");
        assert_eq!(uniform, 0.0);
    }
}
