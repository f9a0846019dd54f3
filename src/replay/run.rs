//! The replay itself: what happens next, until nothing does.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::balance::Dice;
use crate::engine::{Engine, Event, EventKind, Work};
use crate::fleet::{Lease, Outcome, PolicySpec, Progress};
use crate::units::{Moment, Tokens, Usage};

use super::figures::{Counts, Figures};
use super::routers::Routers;
use super::scenario::{Problem, Scenario};
use super::tally::{Answer, Tally};
use super::trace::Trace;

/// What happens at a moment, in this order if at the same one: a router knows of all that has come before it chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Occasion {
    /// A step of this engine ends.
    Step(usize),
    /// The routers are begun anew.
    Restart,
    /// This request of the trace is sent.
    Send(usize),
}

/// A request on its way.
struct Flight {
    request: usize,
    engine: usize,
    lease: Lease,
    measured: bool,
    answer: Answer,
}

struct Replay<'a> {
    trace: &'a Trace,
    routers: Routers,
    engines: Vec<Engine>,
    /// One step of each engine that is not idle, and all that is to be sent.
    occasions: BinaryHeap<Reverse<(Moment, Occasion)>>,
    busy: Vec<bool>,
    /// By the name that they have in their engine.
    flights: Vec<Option<Flight>>,
    vacant: Vec<usize>,
    events: Vec<Event>,
    tally: Tally,
}

/// Replays a trace under one policy.
///
/// The same trace, policy and scenario give the same figures. `ended` is told how many requests have come to their end,
/// each time one does. *Errors*: the policy cannot be made for so many replicas. *Cost*: that of the engines' steps, some
/// 15 ns a running request, and some 100 ns a token.
pub fn run(
    trace: &Trace,
    policy: &PolicySpec,
    scenario: &Scenario,
    ended: &mut dyn FnMut(usize),
) -> Result<Figures, Problem> {
    if !(scenario.speed.is_finite() && scenario.speed > 0.0) {
        return Err(Problem::Speed(scenario.speed));
    }
    // Each from dice of its own, so that all policies meet the same arrivals.
    let mut dice = Dice::seeded(scenario.seed);
    let (mut arrivals, routers) = (Dice::seeded(dice.bits()), Dice::seeded(dice.bits()));
    let mut replay = Replay::new(trace, scenario, Routers::new(policy, scenario, routers)?);
    let starts = scenario.starts(trace, &mut arrivals);
    replay.occasions.extend(starts.into_iter().map(|(at, request)| Reverse((at, Occasion::Send(request)))));
    if let Some(after) = scenario.restart_at {
        replay.occasions.push(Reverse((Moment::ZERO + after, Occasion::Restart)));
    }
    let mut done = 0;
    while let Some(Reverse((now, occasion))) = replay.occasions.pop() {
        let finished = match occasion {
            Occasion::Step(engine) => replay.step(engine, now),
            Occasion::Restart => {
                replay.routers.restart()?;
                0
            }
            Occasion::Send(request) => replay.send(request, now),
        };
        for _ in 0..finished {
            done += 1;
            ended(done);
        }
    }
    Ok(replay.finish(policy.to_string()))
}

impl<'a> Replay<'a> {
    fn new(trace: &'a Trace, scenario: &Scenario, routers: Routers) -> Self {
        let engines: Vec<Engine> = (0..scenario.replicas.max(1)).map(|at| Engine::new(scenario.engine(at))).collect();
        Self {
            trace,
            routers,
            busy: vec![false; engines.len()],
            engines,
            occasions: BinaryHeap::new(),
            flights: Vec::new(),
            vacant: Vec::new(),
            events: Vec::new(),
            tally: Tally::new(trace.requests().len(), scenario),
        }
    }

    /// Routes a request; returns how many have come to their end by that.
    fn send(&mut self, at: usize, now: Moment) -> usize {
        let Some(request) = self.trace.requests().get(at) else { return 0 };
        let measured = self.tally.arrive(now);
        let Ok((lease, engine)) = self.routers.acquire(request, now) else { return self.refuse(at, now) };
        let id = self.vacant.pop().unwrap_or_else(|| {
            self.flights.push(None);
            self.flights.len() - 1
        });
        let blocks = request.engine_blocks(self.engines[engine].constants().block);
        let work = Work { id: id as u64, blocks, prompt: request.prompt, output: request.output };
        if self.engines[engine].submit(work, now).is_err() {
            self.vacant.push(id);
            lease.settle(Outcome::Refused, now);
            return self.refuse(at, now);
        }
        let prompt = request.prompt.0;
        let answer = Answer { sent: now, first: now, last: now, prompt, cached: 0, output: 0 };
        self.flights[id] = Some(Flight { request: at, engine, lease, measured, answer });
        self.tally.grow(engine, prompt, now);
        if !self.busy[engine] {
            self.step(engine, now);
        }
        0
    }

    /// Follows what an engine has done by `now`; returns how many requests have come to their end.
    fn step(&mut self, engine: usize, now: Moment) -> usize {
        let mut events = std::mem::take(&mut self.events);
        let ends = self.engines[engine].advance(now, &mut events);
        self.busy[engine] = ends.is_some();
        self.occasions.extend(ends.map(|end| Reverse((end, Occasion::Step(engine)))));
        let finished = events.drain(..).filter(|event| self.follow(event)).count();
        self.events = events;
        finished
    }

    /// Shows an event to the request's router; returns whether it is the last.
    fn follow(&mut self, event: &Event) -> bool {
        let id = usize::try_from(event.id).unwrap_or(usize::MAX);
        let Some(place) = self.flights.get_mut(id) else { return false };
        let Some(flight) = place else { return false };
        match event.kind {
            EventKind::FirstToken { cached } => {
                (flight.answer.first, flight.answer.cached) = (event.at, cached.0);
            }
            EventKind::Token => {}
            EventKind::Finished => {
                let flight = place.take();
                self.vacant.push(id);
                if let Some(flight) = flight {
                    self.end(flight, event.at);
                }
                return true;
            }
        }
        flight.answer.last = event.at;
        flight.answer.output += 1;
        flight.lease.progress(Progress { content_events: 1, usage: None }, event.at);
        self.tally.grow(flight.engine, 1, event.at);
        false
    }

    fn end(&mut self, mut flight: Flight, now: Moment) {
        let Answer { prompt, cached, output, .. } = flight.answer;
        let usage = Usage { prompt: Tokens(prompt), cached: Some(Tokens(cached)), completion: Tokens(output) };
        flight.lease.progress(Progress { content_events: 0, usage: Some(usage) }, now);
        flight.lease.settle(Outcome::Completed, now);
        self.tally.shrink(flight.engine, prompt + output, now);
        if flight.measured {
            self.tally.answer(&flight.answer);
        }
        self.go_on(flight.request, now);
    }

    fn refuse(&mut self, at: usize, now: Moment) -> usize {
        self.tally.refuse();
        self.go_on(at, now);
        1
    }

    /// Lets the session's next turn come.
    fn go_on(&mut self, at: usize, now: Moment) {
        if let Some((next, think)) = self.trace.after(at) {
            self.occasions.push(Reverse((now + think, Occasion::Send(next))));
        }
    }

    fn finish(self, policy: String) -> Figures {
        let mut counts = Counts { requests: self.trace.requests().len() as u64, ..Counts::default() };
        for engine in &self.engines {
            let stats = engine.stats();
            counts.prompt += stats.prompt;
            counts.cached += stats.cache_hits;
            counts.output += stats.generated;
        }
        let computed = |engine: &Engine| {
            let stats = engine.stats();
            stats.prompt - stats.cache_hits + stats.generated
        };
        let work = self.engines.iter().map(computed).collect();
        Figures { work, ..self.tally.finish(policy, counts) }
    }
}
