use super::*;

/// A small seeded generator: splitmix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Uniform in (0, 1].
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}

const FAR: Moment = Moment::from_nanos(u64::MAX);

fn millis(ms: u64) -> Moment {
    Moment::ZERO + Duration::from_millis(ms)
}

fn work(id: u64, blocks: &[u64], prompt: u64, output: u64) -> Work {
    Work { id, blocks: blocks.to_vec(), prompt: Tokens(prompt), output: Tokens(output) }
}

fn run(engine: &mut Engine, until: Moment) -> Vec<Event> {
    let mut out = Vec::new();
    engine.advance(until, &mut out);
    out
}

/// A prompt of one of a few families, so that prefixes are shared: block `i` of family `f` hashes to `1000 f + i`.
fn random_work(id: u64, dice: &mut Dice, longest: u64) -> Work {
    let family = dice.below(6);
    let prompt = 1 + dice.below(longest);
    let blocks = (0..prompt / 16).map(|at| 1000 * family + at).collect();
    Work { id, blocks, prompt: Tokens(prompt), output: Tokens(dice.below(40)) }
}

/// Nothing runs, waits, is held or referenced.
fn assert_empty(engine: &Engine) {
    let stats = engine.stats();
    assert_eq!((stats.running, stats.waiting, stats.kv_usage), (0, 0, 0.0));
    assert_eq!(engine.blocks.free(), engine.blocks.count());
    assert!((0..engine.blocks.count()).all(|b| engine.blocks.is_free(b as u32)));
    assert!(engine.places.is_empty() && engine.ends.is_none());
    assert_eq!(engine.vacant.len(), engine.sequences.len());
}

fn tight() -> Constants {
    Constants { kv: Tokens(16 * 40), max_sequences: 12, step_tokens: Tokens(64), ..Constants::default() }
}

#[test]
fn idle_engine_has_first_token_after_a_step_and_its_prompt() {
    let mut engine = Engine::new(Constants::default());
    engine.submit(work(1, &[], 1000, 3), millis(5)).unwrap();
    let events = run(&mut engine, FAR);
    let first = millis(5) + Duration::from_micros(6_000 + 32 * 1000);
    let second = first + Duration::from_nanos(6_000_000 + 25_000 + 49 * 1001);
    let third = second + Duration::from_nanos(6_000_000 + 25_000 + 49 * 1002);
    let kinds = [EventKind::FirstToken { cached: Tokens(0) }, EventKind::Token, EventKind::Token, EventKind::Finished];
    let times = [first, second, third, third];
    let expected: Vec<_> = times.into_iter().zip(kinds).map(|(at, kind)| Event { at, id: 1, kind }).collect();
    assert_eq!(events, expected);
}

#[test]
fn attention_takes_the_same_time_in_one_chunk_or_many() {
    let attention = Duration::from_micros(1);
    let first = |step_tokens| {
        let constants = Constants { attention, step_tokens: Tokens(step_tokens), ..Constants::default() };
        let mut engine = Engine::new(constants);
        engine.submit(work(1, &[], 1000, 1), Moment::ZERO).unwrap();
        let steps = 1000u64.div_ceil(step_tokens);
        run(&mut engine, FAR)[0].at.as_nanos() - steps * 6_000_000 - 32_000 * 1000
    };
    // Each token attends to those before it.
    assert_eq!((first(8192), first(250)), (1000 * 999 / 2, 1000 * 999 / 2));
}

#[test]
fn a_cached_beginning_is_attended_to_and_costs_nothing_else() {
    let constants = Constants { attention: Duration::from_micros(1), ..Constants::default() };
    let mut engine = Engine::new(constants);
    engine.submit(work(1, &[7], 16, 1), Moment::ZERO).unwrap();
    run(&mut engine, FAR);
    engine.submit(work(2, &[7], 26, 1), millis(100)).unwrap();
    let took = run(&mut engine, FAR)[0].at.since(millis(100));
    assert_eq!(took, Duration::from_nanos(6_000_000 + 32_000 * 10 + 10 * 16 + 45));
}

#[test]
fn speed_divides_the_time_of_a_step() {
    let mut engine = Engine::new(Constants { speed: 2.0, ..Constants::default() });
    engine.submit(work(1, &[], 100, 1), Moment::ZERO).unwrap();
    assert_eq!(run(&mut engine, FAR)[0].at, Moment::ZERO + Duration::from_micros((6_000 + 3_200) / 2));
}

#[test]
fn long_prompts_are_computed_in_chunks_beside_decoding_sequences() {
    let mut engine = Engine::new(Constants { step_tokens: Tokens(100), ..Constants::default() });
    engine.submit(work(1, &[], 50, 10), Moment::ZERO).unwrap();
    engine.submit(work(2, &[], 250, 1), Moment::ZERO).unwrap();
    let events = run(&mut engine, FAR);
    let at = |id, nth| events.iter().filter(|e| e.id == id).nth(nth).unwrap().at;
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
    let mut engine = Engine::new(Constants::default());
    let blocks = [10, 11, 12];
    engine.submit(work(1, &blocks, 48, 1), Moment::ZERO).unwrap();
    run(&mut engine, FAR);
    engine.submit(work(2, &blocks, 48, 1), Moment::ZERO).unwrap();
    engine.submit(work(3, &blocks[..2], 47, 1), Moment::ZERO).unwrap();
    engine.submit(work(4, &[99, 11], 47, 1), Moment::ZERO).unwrap();
    let cached = run(&mut engine, FAR).into_iter().filter_map(|e| match e.kind {
        EventKind::FirstToken { cached } => Some((e.id, cached.0)),
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
    let mut engine = Engine::new(Constants { kv: Tokens(16 * BLOCKS as u64), ..Constants::default() });
    // Most recently used last; a prompt's end is older than its beginning.
    let mut list: Vec<u64> = Vec::new();
    let mut dice = Dice(7);
    for id in 0..5_000 {
        let mut work = random_work(id, &mut dice, 16 * 30);
        work.output = Tokens(1);
        let prompt = work.prompt.0 as usize;
        let usable = (prompt - 1) / 16;
        let hits = work.blocks.iter().take(usable).take_while(|h| list.contains(h)).count();
        list.retain(|h| !work.blocks[..hits].contains(h));
        let fresh = prompt.div_ceil(16) - hits;
        // The replica first takes what holds nothing, then the oldest.
        let spare = BLOCKS - hits - list.len();
        list.drain(..fresh.saturating_sub(spare).min(list.len()));
        let kept: Vec<u64> =
            work.blocks.iter().enumerate().filter(|(at, h)| *at < hits || !list.contains(h)).map(|(_, h)| *h).collect();
        list.extend(kept.iter().rev());

        engine.submit(work, Moment::ZERO).unwrap();
        let events = run(&mut engine, FAR);
        assert_eq!(events[0].kind, EventKind::FirstToken { cached: Tokens(16 * hits as u64) }, "request {id}");
    }
    assert!(engine.stats().cache_hits > Tokens(1000));
}

#[test]
fn every_request_gets_its_tokens_and_all_memory_comes_back() {
    for seed in 0..30 {
        let mut dice = Dice(seed);
        let mut engine = Engine::new(tight());
        let (mut now, mut events, mut wanted) = (Moment::ZERO, Vec::new(), BTreeMap::new());
        for id in 0..200 {
            now = now + Duration::from_micros(dice.below(60_000));
            let work = random_work(id, &mut dice, 400);
            wanted.insert(id, work.output.0);
            engine.submit(work, now).unwrap();
            if dice.below(8) == 0 {
                let gone = dice.below(id + 1);
                if engine.abort(gone, now) {
                    wanted.remove(&gone);
                }
            }
            if dice.below(3) == 0 {
                engine.advance(now, &mut events);
            }
        }
        assert_eq!(engine.advance(FAR, &mut events), None);
        let mut generated = 0;
        for (id, output) in wanted {
            let own: Vec<_> = events.iter().filter(|e| e.id == id).collect();
            assert_eq!(own.len() as u64, output + 1, "seed {seed}, request {id}");
            assert_eq!(own.last().unwrap().kind, EventKind::Finished);
            assert!(output == 0 || matches!(own[0].kind, EventKind::FirstToken { .. }));
            assert!(own.windows(2).all(|w| w[0].at <= w[1].at));
        }
        generated += events.iter().filter(|e| e.kind != EventKind::Finished).count() as u64;
        assert_eq!(engine.stats().generated, Tokens(generated));
        assert!(engine.stats().preemptions > 0, "seed {seed} never ran out of memory");
        assert_empty(&engine);
    }
}

#[test]
fn late_callers_get_the_events_of_exact_ones() {
    for seed in 0..10 {
        let mut dice = Dice(seed);
        let (mut exact, mut late) = (Engine::new(tight()), Engine::new(tight()));
        let (mut told, mut told_late) = (Vec::new(), Vec::new());
        let mut now = Moment::ZERO;
        for id in 0..100 {
            let next = now + Duration::from_millis(dice.below(40));
            while let Some(end) = exact.advance(now, &mut told).filter(|end| *end <= next) {
                now = end;
            }
            now = next;
            let work = random_work(id, &mut dice, 300);
            exact.submit(work.clone(), now).unwrap();
            late.submit(work, now).unwrap();
            let gone = dice.below(20 * (id + 1));
            assert_eq!(exact.abort(gone, now), late.abort(gone, now));
        }
        exact.advance(FAR, &mut told);
        late.advance(FAR, &mut told_late);
        assert_eq!(told, told_late, "seed {seed}");
        assert_eq!(exact.stats(), late.stats());
    }
}

#[test]
fn abort_frees_a_running_and_a_waiting_request() {
    let mut engine = Engine::new(Constants { max_sequences: 1, ..Constants::default() });
    engine.submit(work(1, &[], 160, 100), Moment::ZERO).unwrap();
    engine.submit(work(2, &[], 160, 100), Moment::ZERO).unwrap();
    run(&mut engine, millis(50));
    let stats = engine.stats();
    assert_eq!((stats.running, stats.waiting), (1, 1));
    assert!(stats.kv_usage > 0.0);
    assert!(engine.abort(2, millis(50)) && engine.abort(1, millis(50)));
    assert!(!engine.abort(1, millis(50)));
    assert_eq!(engine.stats().kv_usage, 0.0);
    assert_eq!(run(&mut engine, FAR), []);
    assert_empty(&engine);
}

#[test]
fn work_larger_than_memory_or_with_a_used_id_is_refused() {
    let mut engine = Engine::new(Constants { kv: Tokens(160), ..Constants::default() });
    let refused = engine.submit(work(1, &[], 100, 62), Moment::ZERO);
    assert_eq!(refused, Err(Refused::TooLarge { need: Tokens(161), kv: Tokens(160) }));
    assert_eq!(engine.submit(work(1, &[], 100, 61), Moment::ZERO), Ok(()));
    assert_eq!(engine.submit(work(1, &[], 1, 1), Moment::ZERO), Err(Refused::SameId));
    assert_eq!(run(&mut engine, FAR).len(), 62);
    assert_empty(&engine);
}

#[test]
fn youngest_is_preempted_and_keeps_its_tokens() {
    // Ten blocks; two requests of four blocks that grow to six each.
    let mut engine = Engine::new(Constants { kv: Tokens(160), ..Constants::default() });
    engine.submit(work(1, &[], 64, 32), Moment::ZERO).unwrap();
    engine.submit(work(2, &[], 64, 32), Moment::ZERO).unwrap();
    let events = run(&mut engine, FAR);
    let stats = engine.stats();
    assert_eq!(stats.preemptions, 1);
    assert_eq!((stats.prompt, stats.generated), (Tokens(128), Tokens(64)));
    let end = |id| events.iter().find(|e| e.id == id && e.kind == EventKind::Finished).unwrap().at;
    assert!(end(1) < end(2));
    assert_eq!(events.iter().filter(|e| e.id == 2).count(), 33);
}

#[test]
fn absurd_constants_and_work_end() {
    let zero = Constants {
        step: Duration::ZERO,
        prefill_token: Duration::ZERO,
        attention: Duration::ZERO,
        sequence: Duration::ZERO,
        context_token: Duration::ZERO,
        speed: f64::NAN,
        kv: Tokens(0),
        block: Tokens(0),
        max_sequences: 0,
        step_tokens: Tokens(0),
    };
    let mut engine = Engine::new(zero);
    engine.submit(work(1, &[1, 2, 3], 0, 0), Moment::ZERO).unwrap();
    assert_eq!(run(&mut engine, FAR).len(), 1);
    assert!(engine.submit(work(2, &[], u64::MAX, u64::MAX), Moment::ZERO).is_err());
}

/// One server, Poisson arrivals, constant service time: the mean wait is `rho s / (2 (1 - rho))` (Pollaczek-Khinchine).
#[test]
fn one_sequence_at_a_time_waits_like_an_m_d_1_queue() {
    const REQUESTS: u64 = 200_000;
    let service = Duration::from_micros(6_000 + 32 * 125).as_secs_f64();
    for load in [0.3, 0.6, 0.8] {
        let mut engine = Engine::new(Constants { max_sequences: 1, ..Constants::default() });
        let mut dice = Dice(42);
        let (mut now, mut arrivals, mut events) = (0.0, Vec::new(), Vec::new());
        for id in 0..REQUESTS {
            now += -dice.unit().ln() * service / load;
            let at = Moment::ZERO + Duration::from_secs_f64(now);
            arrivals.push(at);
            engine.submit(work(id, &[], 125, 1), at).unwrap();
        }
        engine.advance(FAR, &mut events);
        let firsts = events.iter().filter(|e| e.kind != EventKind::Finished);
        let waited: f64 = firsts.map(|e| e.at.since(arrivals[e.id as usize]).as_secs_f64() - service).sum();
        let (mean, expected) = (waited / REQUESTS as f64, load * service / (2.0 * (1.0 - load)));
        assert!((mean / expected - 1.0).abs() < 0.05, "load {load}: mean wait {mean} instead of {expected}");
    }
}
