//! The replay: a queue of events in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::balance::{PolicySpec, SeededRng};
use crate::engine::{EngineEvent, EngineEventKind, EngineRequest, SimulatedEngine};
use crate::fleet::{Lease, Outcome, ResponseProgress};
use crate::units::{Moment, Tokens, Usage};

use super::result::{ReplayCounts, ReplayResult};
use super::routers::ReplayRouters;
use super::scenario::{ReplayError, Scenario};
use super::stats::{AnswerTimes, StatsCollector};
use super::trace::Trace;

/// An event. At the same moment they run in this order, so that a router knows all earlier tokens when it chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SimEvent {
    /// A step of the engine with this index ends.
    EngineStep(usize),
    /// The routers restart.
    RouterRestart,
    /// The request of the trace with this index is sent.
    SendRequest(usize),
}

/// A request in flight.
struct InFlightRequest {
    request_index: usize,
    engine_index: usize,
    lease: Lease,
    measured: bool,
    answer: AnswerTimes,
}

struct ReplaySimulation<'a> {
    trace: &'a Trace,
    routers: ReplayRouters,
    engines: Vec<SimulatedEngine>,
    /// A step of each busy engine, the requests to send and the restart.
    event_queue: BinaryHeap<Reverse<(Moment, SimEvent)>>,
    engine_busy: Vec<bool>,
    /// By the request id in the engine.
    in_flight: Vec<Option<InFlightRequest>>,
    free_ids: Vec<usize>,
    engine_events: Vec<EngineEvent>,
    stats: StatsCollector,
}

/// Replays a trace under one policy.
///
/// The same trace, policy and scenario give the same result. `on_progress` is called after each request with the number
/// of requests that have ended.
///
/// *Errors*: the policy does not support the number of replicas, or the speed is not positive. *Cost*: that of the
/// engines' steps, some 15 ns per running request and some 100 ns per token.
pub fn replay_trace(
    trace: &Trace,
    policy: &PolicySpec,
    scenario: &Scenario,
    on_progress: &mut dyn FnMut(usize),
) -> Result<ReplayResult, ReplayError> {
    if !(scenario.speed.is_finite() && scenario.speed > 0.0) {
        return Err(ReplayError::Speed(scenario.speed));
    }
    // Arrivals have a generator of their own, so that all policies meet the same ones.
    let mut rng = SeededRng::from_seed(scenario.seed);
    let (mut arrival_rng, router_rng) = (SeededRng::from_seed(rng.next_u64()), SeededRng::from_seed(rng.next_u64()));
    let mut replay = ReplaySimulation::new(trace, scenario, ReplayRouters::new(policy, scenario, router_rng)?);
    let starts = scenario.schedule_starts(trace, &mut arrival_rng);
    replay
        .event_queue
        .extend(starts.into_iter().map(|(sent_at, request)| Reverse((sent_at, SimEvent::SendRequest(request)))));
    if let Some(restart_at) = scenario.restart_at {
        replay.event_queue.push(Reverse((Moment::ZERO + restart_at, SimEvent::RouterRestart)));
    }
    let mut done = 0;
    while let Some(Reverse((now, event))) = replay.event_queue.pop() {
        let finished = match event {
            SimEvent::EngineStep(engine) => replay.advance_engine(engine, now),
            SimEvent::RouterRestart => {
                replay.routers.restart()?;
                0
            }
            SimEvent::SendRequest(request) => replay.send_request(request, now),
        };
        for _ in 0..finished {
            done += 1;
            on_progress(done);
        }
    }
    Ok(replay.into_result(policy.to_string()))
}

impl<'a> ReplaySimulation<'a> {
    fn new(trace: &'a Trace, scenario: &Scenario, routers: ReplayRouters) -> Self {
        let engines: Vec<SimulatedEngine> =
            (0..scenario.replicas.max(1)).map(|index| SimulatedEngine::new(scenario.replica_model(index))).collect();
        Self {
            trace,
            routers,
            engine_busy: vec![false; engines.len()],
            engines,
            event_queue: BinaryHeap::new(),
            in_flight: Vec::new(),
            free_ids: Vec::new(),
            engine_events: Vec::new(),
            stats: StatsCollector::new(trace.requests().len(), scenario),
        }
    }

    /// Routes and submits a request. Returns the number of requests that ended: 1 if it was refused.
    fn send_request(&mut self, index: usize, now: Moment) -> usize {
        let Some(request) = self.trace.requests().get(index) else { return 0 };
        let measured = self.stats.record_arrival(now);
        let Ok((lease, engine)) = self.routers.acquire(request, now) else { return self.refuse_request(index, now) };
        let id = self.free_ids.pop().unwrap_or_else(|| {
            self.in_flight.push(None);
            self.in_flight.len() - 1
        });
        let blocks = request.engine_block_hashes(self.engines[engine].model().block_size);
        let engine_request =
            EngineRequest { id: id as u64, block_hashes: blocks, prompt: request.prompt, output: request.output };
        if self.engines[engine].submit(engine_request, now).is_err() {
            self.free_ids.push(id);
            lease.settle(Outcome::Refused, now);
            return self.refuse_request(index, now);
        }
        let prompt = request.prompt.0;
        let answer = AnswerTimes {
            sent_at: now,
            first_token_at: now,
            last_token_at: now,
            prompt_tokens: prompt,
            cached_tokens: 0,
            output_tokens: 0,
        };
        self.in_flight[id] =
            Some(InFlightRequest { request_index: index, engine_index: engine, lease, measured, answer });
        self.stats.add_in_flight(engine, prompt, now);
        if !self.engine_busy[engine] {
            self.advance_engine(engine, now);
        }
        0
    }

    /// Advances an engine to `now`. Returns the number of requests that ended.
    fn advance_engine(&mut self, engine: usize, now: Moment) -> usize {
        let mut events = std::mem::take(&mut self.engine_events);
        let step_end = self.engines[engine].advance(now, &mut events);
        self.engine_busy[engine] = step_end.is_some();
        self.event_queue.extend(step_end.map(|end| Reverse((end, SimEvent::EngineStep(engine)))));
        let finished = events.drain(..).filter(|event| self.on_engine_event(event)).count();
        self.engine_events = events;
        finished
    }

    /// Applies an event to its request. Returns whether the request ended.
    fn on_engine_event(&mut self, event: &EngineEvent) -> bool {
        let id = usize::try_from(event.request_id).unwrap_or(usize::MAX);
        let Some(entry) = self.in_flight.get_mut(id) else { return false };
        let Some(flight) = entry else { return false };
        match event.kind {
            EngineEventKind::FirstToken { cached } => {
                (flight.answer.first_token_at, flight.answer.cached_tokens) = (event.moment, cached.0);
            }
            EngineEventKind::Token => {}
            EngineEventKind::Finished => {
                let flight = entry.take();
                self.free_ids.push(id);
                if let Some(flight) = flight {
                    self.finish_request(flight, event.moment);
                }
                return true;
            }
        }
        flight.answer.last_token_at = event.moment;
        flight.answer.output_tokens += 1;
        flight.lease.record_progress(ResponseProgress { content_events: 1, usage: None }, event.moment);
        self.stats.add_in_flight(flight.engine_index, 1, event.moment);
        false
    }

    fn finish_request(&mut self, mut flight: InFlightRequest, now: Moment) {
        let AnswerTimes { prompt_tokens: prompt, cached_tokens: cached, output_tokens: output, .. } = flight.answer;
        let usage = Usage { prompt: Tokens(prompt), cached: Some(Tokens(cached)), completion: Tokens(output) };
        flight.lease.record_progress(ResponseProgress { content_events: 0, usage: Some(usage) }, now);
        flight.lease.settle(Outcome::Completed, now);
        self.stats.remove_in_flight(flight.engine_index, prompt + output, now);
        if flight.measured {
            self.stats.record_answer(&flight.answer);
        }
        self.schedule_next_turn(flight.request_index, now);
    }

    fn refuse_request(&mut self, index: usize, now: Moment) -> usize {
        self.stats.record_refusal();
        self.schedule_next_turn(index, now);
        1
    }

    /// Schedules the next turn of the session, if it waits for this one.
    fn schedule_next_turn(&mut self, index: usize, now: Moment) {
        if let Some((next, think_time)) = self.trace.next_turn(index) {
            self.event_queue.push(Reverse((now + think_time, SimEvent::SendRequest(next))));
        }
    }

    fn into_result(self, policy: String) -> ReplayResult {
        let mut counts = ReplayCounts { requests: self.trace.requests().len() as u64, ..ReplayCounts::default() };
        for engine in &self.engines {
            let stats = engine.stats();
            counts.prompt += stats.prompt;
            counts.cached += stats.cache_hits;
            counts.output += stats.generated;
        }
        let computed = |engine: &SimulatedEngine| {
            let stats = engine.stats();
            stats.prompt - stats.cache_hits + stats.generated
        };
        let replica_work = self.engines.iter().map(computed).collect();
        ReplayResult { replica_work, ..self.stats.into_result(policy, counts) }
    }
}
