use super::*;
use crate::balance::{Load, Pace};
use crate::fleet::{Failing, MemberSpec, Metering, Paths, PolicySpec, Route, Tls};
use crate::units::Weight;

fn pool(replicas: u16) -> Arc<PoolSpec> {
    let member = |port: u16| MemberSpec::new(format!("http://10.0.0.1:{port}").parse().unwrap());
    Arc::new(PoolSpec {
        name: "chat".into(),
        models: Vec::new(),
        policy: PolicySpec::default(),
        shadow: None,
        members: (0..replicas).map(|at| member(8_000 + at)).collect(),
        route: Route::default(),
        paths: Paths::Any,
        fallback: None,
        failing: Failing::default(),
        metering: Metering::default(),
        api_key: None,
        sticky: None,
        tls: Tls::default(),
    })
}

fn candidate(at: u32) -> Candidate {
    Candidate {
        at: Slot(at),
        weight: Weight::new(2_000).unwrap(),
        in_flight: 1,
        load: Load { prefill: Tokens(40), waiting: 0, decoding: 2, resident: Tokens(400) },
        cached: Tokens(60),
        pace: Pace::default(),
        first_byte: Duration::ZERO,
        last_byte: Duration::ZERO,
    }
}

fn decision(id: &str, replicas: u16, chosen: u32) -> Decision {
    let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let job = Job { prompt: Tokens(100), output: Tokens(0), key: b"", client, tried: &[] };
    let offered = (0..u32::from(replicas)).map(candidate).collect();
    let seen = Seen { offered, ..Seen::default() };
    Decision::new(&id.into(), &pool(replicas), &job, (seen, Ok(Slot(chosen))), Moment::ZERO)
}

#[test]
fn a_decision_is_told_in_the_policys_words_with_its_end() {
    let decisions = Decisions::new(10);
    let number = decisions.keep(decision("a", 2, 1));
    assert_eq!(decisions.of("a")[0].end, None);
    let outcome = Outcome::Completed;
    let end = End { outcome, took: Duration::from_secs(2), first_token: Some(Duration::from_secs(1)), usage: None };
    decisions.end(number, end);
    let told = decisions.of("a");
    let [told] = &told[..] else { panic!("{told:?}") };
    assert_eq!((&*told.pool, &*told.policy, told.why, told.end), ("chat", "token_cost", "policy", Some(end)));
    assert_eq!((told.chosen.as_deref(), told.cached), (Ok("10.0.0.1:8001"), Some(Tokens(60))));
    let load = [("waiting", 40.0), ("uncached", 40.0), ("streams", 2.0), ("resident", 400.0)];
    let price = [("prefill_pace", 1.0), ("decode_pace", 1.0), ("cost", 280.0), ("weight", 2.0)];
    let wanted = [&load[..], &price].concat();
    assert_eq!(told.candidates[1].terms, wanted);
    assert_eq!(
        decisions.line(number).as_deref(),
        Some("pool=chat policy=token_cost replica=10.0.0.1:8001 of=2 why=policy prompt=100 cached=60")
    );
}

#[test]
fn the_oldest_go_first_by_number_and_by_replicas() {
    let decisions = Decisions::new(3);
    let numbers: Vec<u64> = ["a", "b", "c", "d"].map(|id| decisions.keep(decision(id, 2, 0))).into();
    assert_eq!(numbers, [0, 1, 2, 3]);
    assert_eq!((decisions.of("a").len(), decisions.of("b").len(), decisions.ring().replicas), (0, 1, 6));
    decisions.resize(1);
    assert_eq!((decisions.of("c").len(), decisions.of("d").len()), (0, 1));
    // Whoever ended late ends nothing of anybody else's.
    let ours = End { outcome: Outcome::Ours, took: Duration::ZERO, first_token: None, usage: None };
    decisions.end(0, ours);
    assert_eq!(decisions.of("d")[0].end, None);
    decisions.resize(0);
    decisions.keep(decision("e", 2, 0));
    assert_eq!((decisions.of("d").len(), decisions.of("e").len(), decisions.ring().replicas), (0, 0, 0));
    decisions.resize(100_000);
    for _ in 0..300 {
        decisions.keep(decision("f", 1_000, 0));
    }
    assert_eq!((decisions.of("f").len(), decisions.ring().replicas), (16, 16_000));
}

#[test]
fn of_too_many_replicas_the_chosen_one_is_told_of() {
    let decisions = Decisions::new(1);
    decisions.keep(decision("a", 3_000, 2_999));
    let told = decisions.of("a").remove(0);
    assert_eq!((told.candidates.len(), told.left_out, told.why), (1_024, 1_976, "policy"));
    assert_eq!(told.candidates.last().unwrap().name, told.chosen.unwrap());
}
