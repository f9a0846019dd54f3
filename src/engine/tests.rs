use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::units::{Moment, Tokens};

/// A small seeded generator, splitmix64.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// Uniform in (0, 1].
    fn next_unit(&mut self) -> f64 {
        ((self.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}

const END_OF_TIME: Moment = Moment::from_nanos(u64::MAX);

fn at_millis(ms: u64) -> Moment {
    Moment::ZERO + Duration::from_millis(ms)
}

fn new_request(id: u64, blocks: &[u64], prompt: u64, output: u64) -> EngineRequest {
    EngineRequest { id, block_hashes: blocks.to_vec(), prompt: Tokens(prompt), output: Tokens(output) }
}

fn collect_events(engine: &mut SimulatedEngine, deadline: Moment) -> Vec<EngineEvent> {
    let mut events = Vec::new();
    engine.advance(deadline, &mut events);
    events
}

/// Returns a prompt of one of six families, so that prefixes are shared: block `i` of family `f` hashes to `1000 f +
/// i`.
fn random_request(id: u64, rng: &mut SplitMix64, max_prompt: u64) -> EngineRequest {
    let family = rng.below(6);
    let prompt = 1 + rng.below(max_prompt);
    let blocks = (0..prompt / 16).map(|at| 1000 * family + at).collect();
    EngineRequest { id, block_hashes: blocks, prompt: Tokens(prompt), output: Tokens(rng.below(40)) }
}

fn assert_empty(engine: &SimulatedEngine) {
    engine.scheduler.assert_empty();
    assert!(engine.step_end.is_none());
}

fn small_model() -> EngineModel {
    EngineModel {
        kv_capacity: Tokens(16 * 40),
        max_sequences: 12,
        max_step_tokens: Tokens(64),
        ..EngineModel::default()
    }
}

#[test]
fn idle_engine_has_first_token_after_a_step_and_the_prompt() {
    let mut engine = SimulatedEngine::new(EngineModel::default());
    engine.submit(new_request(1, &[], 1000, 3), at_millis(5)).unwrap();
    let events = collect_events(&mut engine, END_OF_TIME);
    let first = at_millis(5) + Duration::from_micros(6_000 + 32 * 1000);
    let second = first + Duration::from_nanos(6_000_000 + 25_000 + 49 * 1001);
    let third = second + Duration::from_nanos(6_000_000 + 25_000 + 49 * 1002);
    let kinds = [
        EngineEventKind::FirstToken { cached: Tokens(0) },
        EngineEventKind::Token,
        EngineEventKind::Token,
        EngineEventKind::Finished,
    ];
    let times = [first, second, third, third];
    let expected: Vec<_> =
        times.into_iter().zip(kinds).map(|(at, kind)| EngineEvent { moment: at, request_id: 1, kind }).collect();
    assert_eq!(events, expected);
}

#[test]
fn attention_takes_the_same_time_in_one_chunk_or_many() {
    let attention = Duration::from_micros(1);
    let first = |step_tokens| {
        let model =
            EngineModel { attention_time: attention, max_step_tokens: Tokens(step_tokens), ..EngineModel::default() };
        let mut engine = SimulatedEngine::new(model);
        engine.submit(new_request(1, &[], 1000, 1), Moment::ZERO).unwrap();
        let steps = 1000u64.div_ceil(step_tokens);
        collect_events(&mut engine, END_OF_TIME)[0].moment.as_nanos() - steps * 6_000_000 - 32_000 * 1000
    };
    // Each token attends to those before it.
    assert_eq!((first(8192), first(250)), (1000 * 999 / 2, 1000 * 999 / 2));
}

#[test]
fn cached_prefix_costs_attention_only() {
    let model = EngineModel { attention_time: Duration::from_micros(1), ..EngineModel::default() };
    let mut engine = SimulatedEngine::new(model);
    engine.submit(new_request(1, &[7], 16, 1), Moment::ZERO).unwrap();
    collect_events(&mut engine, END_OF_TIME);
    engine.submit(new_request(2, &[7], 26, 1), at_millis(100)).unwrap();
    let took = collect_events(&mut engine, END_OF_TIME)[0].moment.since(at_millis(100));
    assert_eq!(took, Duration::from_nanos(6_000_000 + 32_000 * 10 + 10 * 16 + 45));
}

#[test]
fn speed_divides_the_time_of_a_step() {
    let mut engine = SimulatedEngine::new(EngineModel { speed: 2.0, ..EngineModel::default() });
    engine.submit(new_request(1, &[], 100, 1), Moment::ZERO).unwrap();
    assert_eq!(
        collect_events(&mut engine, END_OF_TIME)[0].moment,
        Moment::ZERO + Duration::from_micros((6_000 + 3_200) / 2)
    );
}

#[test]
fn long_prompts_are_computed_in_chunks_while_others_decode() {
    let mut engine = SimulatedEngine::new(EngineModel { max_step_tokens: Tokens(100), ..EngineModel::default() });
    engine.submit(new_request(1, &[], 50, 10), Moment::ZERO).unwrap();
    engine.submit(new_request(2, &[], 250, 1), Moment::ZERO).unwrap();
    let events = collect_events(&mut engine, END_OF_TIME);
    let at = |id, nth| events.iter().filter(|e| e.request_id == id).nth(nth).unwrap().moment;
    // Step 1: 50 of the first alone; steps 2 to 4: one decode and 99, 99, 52 of the second.
    let steps: Vec<u64> = (0..4).map(|nth| at(1, nth).as_nanos()).collect();
    let decode = |context: u64| 25_000 + 49 * context;
    assert_eq!(steps[0], 6_000_000 + 32_000 * 50);
    assert_eq!(steps[1] - steps[0], 6_000_000 + 32_000 * 99 + decode(51));
    assert_eq!(steps[3] - steps[2], 6_000_000 + 32_000 * 52 + decode(53));
    assert_eq!(at(2, 0), at(1, 3));
}

#[test]
fn equal_prefix_is_computed_once_and_a_cached_prompt_computes_its_last_block() {
    let mut engine = SimulatedEngine::new(EngineModel::default());
    let blocks = [10, 11, 12];
    engine.submit(new_request(1, &blocks, 48, 1), Moment::ZERO).unwrap();
    collect_events(&mut engine, END_OF_TIME);
    engine.submit(new_request(2, &blocks, 48, 1), Moment::ZERO).unwrap();
    engine.submit(new_request(3, &blocks[..2], 47, 1), Moment::ZERO).unwrap();
    engine.submit(new_request(4, &[99, 11], 47, 1), Moment::ZERO).unwrap();
    let cached = collect_events(&mut engine, END_OF_TIME).into_iter().filter_map(|e| match e.kind {
        EngineEventKind::FirstToken { cached } => Some((e.request_id, cached.0)),
        _ => None,
    });
    let cached: Vec<_> = cached.collect();
    assert_eq!(cached, [(2, 32), (3, 32), (4, 0)]);
    let stats = engine.stats();
    assert_eq!((stats.cache_queries, stats.cache_hits), (Tokens(48 + 48 + 47 + 47), Tokens(64)));
    assert_eq!((stats.prompt, stats.generated), (Tokens(190), Tokens(4)));
}

#[test]
fn hits_equal_those_of_a_plain_lru_list() {
    const BLOCKS: usize = 40;
    let mut engine =
        SimulatedEngine::new(EngineModel { kv_capacity: Tokens(16 * BLOCKS as u64), ..EngineModel::default() });
    // Most recently used last; a prompt's end is older than its beginning.
    let mut list: Vec<u64> = Vec::new();
    let mut rng = SplitMix64(7);
    for id in 0..5_000 {
        let mut request = random_request(id, &mut rng, 16 * 30);
        request.output = Tokens(1);
        let prompt = request.prompt.0 as usize;
        let usable = (prompt - 1) / 16;
        let hits = request.block_hashes.iter().take(usable).take_while(|h| list.contains(h)).count();
        list.retain(|h| !request.block_hashes[..hits].contains(h));
        let fresh = prompt.div_ceil(16) - hits;
        // The replica first takes empty blocks, then the oldest.
        let spare = BLOCKS - hits - list.len();
        list.drain(..fresh.saturating_sub(spare).min(list.len()));
        let kept: Vec<u64> = request
            .block_hashes
            .iter()
            .enumerate()
            .filter(|(at, h)| *at < hits || !list.contains(h))
            .map(|(_, h)| *h)
            .collect();
        list.extend(kept.iter().rev());

        engine.submit(request, Moment::ZERO).unwrap();
        let events = collect_events(&mut engine, END_OF_TIME);
        assert_eq!(events[0].kind, EngineEventKind::FirstToken { cached: Tokens(16 * hits as u64) }, "request {id}");
    }
    assert!(engine.stats().cache_hits > Tokens(1000));
}

#[test]
fn every_request_gets_its_tokens_and_all_memory_is_freed() {
    for seed in 0..30 {
        let mut rng = SplitMix64(seed);
        let mut engine = SimulatedEngine::new(small_model());
        let (mut now, mut events, mut wanted) = (Moment::ZERO, Vec::new(), BTreeMap::new());
        for id in 0..200 {
            now = now + Duration::from_micros(rng.below(60_000));
            let request = random_request(id, &mut rng, 400);
            wanted.insert(id, request.output.0);
            engine.submit(request, now).unwrap();
            if rng.below(8) == 0 {
                let aborted = rng.below(id + 1);
                if engine.abort(aborted, now) {
                    wanted.remove(&aborted);
                }
            }
            if rng.below(3) == 0 {
                engine.advance(now, &mut events);
            }
        }
        assert_eq!(engine.advance(END_OF_TIME, &mut events), None);
        let mut generated = 0;
        for (id, output) in wanted {
            let own: Vec<_> = events.iter().filter(|e| e.request_id == id).collect();
            assert_eq!(own.len() as u64, output + 1, "seed {seed}, request {id}");
            assert_eq!(own.last().unwrap().kind, EngineEventKind::Finished);
            assert!(output == 0 || matches!(own[0].kind, EngineEventKind::FirstToken { .. }));
            assert!(own.windows(2).all(|w| w[0].moment <= w[1].moment));
        }
        generated += events.iter().filter(|e| e.kind != EngineEventKind::Finished).count() as u64;
        assert_eq!(engine.stats().generated, Tokens(generated));
        assert!(engine.stats().preemptions > 0, "seed {seed} never ran out of memory");
        assert_empty(&engine);
    }
}

#[test]
fn late_callers_get_the_same_events_as_exact_ones() {
    for seed in 0..10 {
        let mut rng = SplitMix64(seed);
        let (mut exact, mut late) = (SimulatedEngine::new(small_model()), SimulatedEngine::new(small_model()));
        let (mut exact_events, mut late_events) = (Vec::new(), Vec::new());
        let mut now = Moment::ZERO;
        for id in 0..100 {
            let next = now + Duration::from_millis(rng.below(40));
            while let Some(end) = exact.advance(now, &mut exact_events).filter(|end| *end <= next) {
                now = end;
            }
            now = next;
            let request = random_request(id, &mut rng, 300);
            exact.submit(request.clone(), now).unwrap();
            late.submit(request, now).unwrap();
            let aborted = rng.below(20 * (id + 1));
            assert_eq!(exact.abort(aborted, now), late.abort(aborted, now));
        }
        exact.advance(END_OF_TIME, &mut exact_events);
        late.advance(END_OF_TIME, &mut late_events);
        assert_eq!(exact_events, late_events, "seed {seed}");
        assert_eq!(exact.stats(), late.stats());
    }
}

#[test]
fn abort_frees_a_running_and_a_waiting_request() {
    let mut engine = SimulatedEngine::new(EngineModel { max_sequences: 1, ..EngineModel::default() });
    engine.submit(new_request(1, &[], 160, 100), Moment::ZERO).unwrap();
    engine.submit(new_request(2, &[], 160, 100), Moment::ZERO).unwrap();
    collect_events(&mut engine, at_millis(50));
    let stats = engine.stats();
    assert_eq!((stats.running, stats.waiting), (1, 1));
    assert!(stats.kv_usage > 0.0);
    assert!(engine.abort(2, at_millis(50)) && engine.abort(1, at_millis(50)));
    assert!(!engine.abort(1, at_millis(50)));
    assert_eq!(engine.stats().kv_usage, 0.0);
    assert_eq!(collect_events(&mut engine, END_OF_TIME), []);
    assert_empty(&engine);
}

#[test]
fn request_larger_than_memory_or_with_a_used_id_is_refused() {
    let mut engine = SimulatedEngine::new(EngineModel { kv_capacity: Tokens(160), ..EngineModel::default() });
    let refused = engine.submit(new_request(1, &[], 100, 62), Moment::ZERO);
    assert_eq!(refused, Err(SubmitError::TooLarge { needed: Tokens(161), kv_capacity: Tokens(160) }));
    assert_eq!(engine.submit(new_request(1, &[], 100, 61), Moment::ZERO), Ok(()));
    assert_eq!(engine.submit(new_request(1, &[], 1, 1), Moment::ZERO), Err(SubmitError::DuplicateId));
    assert_eq!(collect_events(&mut engine, END_OF_TIME).len(), 62);
    assert_empty(&engine);
}

#[test]
fn youngest_is_preempted_and_keeps_its_tokens() {
    // Ten blocks; two requests of four blocks that grow to six each.
    let mut engine = SimulatedEngine::new(EngineModel { kv_capacity: Tokens(160), ..EngineModel::default() });
    engine.submit(new_request(1, &[], 64, 32), Moment::ZERO).unwrap();
    engine.submit(new_request(2, &[], 64, 32), Moment::ZERO).unwrap();
    let events = collect_events(&mut engine, END_OF_TIME);
    let stats = engine.stats();
    assert_eq!(stats.preemptions, 1);
    assert_eq!((stats.prompt, stats.generated), (Tokens(128), Tokens(64)));
    let end = |id| events.iter().find(|e| e.request_id == id && e.kind == EngineEventKind::Finished).unwrap().moment;
    assert!(end(1) < end(2));
    assert_eq!(events.iter().filter(|e| e.request_id == 2).count(), 33);
}

#[test]
fn zero_model_and_huge_request_terminate() {
    let zero = EngineModel {
        step_time: Duration::ZERO,
        prefill_token_time: Duration::ZERO,
        attention_time: Duration::ZERO,
        sequence_time: Duration::ZERO,
        context_token_time: Duration::ZERO,
        speed: f64::NAN,
        kv_capacity: Tokens(0),
        block_size: Tokens(0),
        max_sequences: 0,
        max_step_tokens: Tokens(0),
    };
    let mut engine = SimulatedEngine::new(zero);
    engine.submit(new_request(1, &[1, 2, 3], 0, 0), Moment::ZERO).unwrap();
    assert_eq!(collect_events(&mut engine, END_OF_TIME).len(), 1);
    assert!(engine.submit(new_request(2, &[], u64::MAX, u64::MAX), Moment::ZERO).is_err());
}

/// One server, Poisson arrivals, constant service time: the mean wait is `rho s / (2 (1 - rho))` (Pollaczek-Khinchine).
#[test]
fn one_sequence_at_a_time_waits_as_an_m_d_1_queue() {
    const REQUESTS: u64 = 200_000;
    let service = Duration::from_micros(6_000 + 32 * 125).as_secs_f64();
    for load in [0.3, 0.6, 0.8] {
        let mut engine = SimulatedEngine::new(EngineModel { max_sequences: 1, ..EngineModel::default() });
        let mut rng = SplitMix64(42);
        let (mut now, mut arrivals, mut events) = (0.0, Vec::new(), Vec::new());
        for id in 0..REQUESTS {
            now += -rng.next_unit().ln() * service / load;
            let at = Moment::ZERO + Duration::from_secs_f64(now);
            arrivals.push(at);
            engine.submit(new_request(id, &[], 125, 1), at).unwrap();
        }
        engine.advance(END_OF_TIME, &mut events);
        let firsts = events.iter().filter(|e| e.kind != EngineEventKind::Finished);
        let waited: f64 = firsts.map(|e| e.moment.since(arrivals[e.request_id as usize]).as_secs_f64() - service).sum();
        let (mean, expected) = (waited / REQUESTS as f64, load * service / (2.0 * (1.0 - load)));
        assert!((mean / expected - 1.0).abs() < 0.05, "load {load}: mean wait {mean} instead of {expected}");
    }
}

#[test]
fn speed_changes_from_the_next_step_on() {
    let mut engine = SimulatedEngine::new(EngineModel::default());
    engine.submit(new_request(1, &[], 1000, 3), at_millis(0)).unwrap();
    engine.set_speed(0.5);
    let events = collect_events(&mut engine, END_OF_TIME);
    let first = at_millis(0) + Duration::from_micros(6_000 + 32 * 1000);
    let second = first + 2 * Duration::from_nanos(6_000_000 + 25_000 + 49 * 1001);
    let times: Vec<Moment> = events.iter().map(|event| event.moment).collect();
    assert!(times.contains(&first) && times.contains(&second), "{times:?}");
}
