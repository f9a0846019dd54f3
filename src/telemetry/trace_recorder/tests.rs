use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::*;
use crate::balance::PolicyRequest;
use crate::config;
use crate::fleet::{AcquireRequest, ChoiceObservers, Fleet, ReplicaModels, ResponseProgress};
use crate::prompt::{ParsedBody, fingerprint_and_count};
use crate::replay;
use crate::units::Usage;

fn create_folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("tokenweir-{}-record-{name}", std::process::id()));
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn fingerprint(text: &str) -> Arc<PromptFingerprint> {
    let body = format!("{{\"prompt\":\"{text}\"}}");
    Arc::new(fingerprint_and_count(&ParsedBody::parse(body.as_bytes()).unwrap().prompt, &["m"]).1)
}

/// A fleet of one replica whose requests are recorded.
fn recorded_fleet(file: TraceFile) -> (Fleet, Arc<TrafficRecorder>) {
    let recorder = Arc::new(TrafficRecorder::start(file, Arc::new(Metrics::new())).unwrap());
    let observer: Arc<dyn LeaseObserver> = recorder.clone();
    let specs = config::from_urls(&["http://10.0.0.1:8000".to_owned()], []).unwrap().settings.pools;
    let fleet = Fleet::new(specs, &observer, 1).unwrap();
    for replica in fleet.replicas() {
        replica.set_models(ReplicaModels::Listed(vec!["m".into()]));
    }
    (fleet, recorder)
}

fn record_request(fleet: &Fleet, text: &str, usage: Option<Usage>, outcome: Outcome) {
    let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let prompt = Tokens(text.len() as u64 / 4);
    let policy_request = PolicyRequest { prompt, output: Tokens(0), key: b"", client_addr: client, tried_slots: &[] };
    let request = AcquireRequest {
        policy_request,
        model: None,
        estimate: None,
        prefix: Some(fingerprint(text)),
        pin: None,
        tried: Vec::new(),
        observers: ChoiceObservers::default(),
    };
    let now = Moment::ZERO + Duration::from_micros(1_500);
    let mut lease = fleet.pools()[0].acquire(&request, now).unwrap();
    lease.record_progress(ResponseProgress { content_events: 3, usage }, now);
    lease.settle(outcome, now);
}

#[test]
fn recorded_traffic_can_be_replayed() {
    let path = create_folder("replay").join("trace.jsonl");
    let (fleet, recorder) = recorded_fleet(TraceFile { path: path.clone(), max_bytes: 1 << 20, max_files: 1 });
    let (system, turn) = ("s".repeat(256 * 10), "t".repeat(256 * 4));
    let usage = Usage { prompt: Tokens(900), cached: None, completion: Tokens(70) };
    record_request(&fleet, &system, Some(usage), Outcome::Completed);
    record_request(&fleet, &format!("{system}{turn}"), None, Outcome::ClientGone);
    record_request(&fleet, &turn, None, Outcome::Failed { phase: Phase::FirstByte });
    record_request(&fleet, &turn, None, Outcome::Busy { retry_after: None });
    drop((fleet, recorder));
    let text = fs::read_to_string(&path).unwrap();
    // The second request has three events, with as many tokens per event as the first.
    assert_eq!(
        text,
        concat!(
            "{\"timestamp_ms\":1.500,\"input_tokens\":900,\"output_tokens\":70,\"block_tokens\":64,\"block_runs\":[0,10]}\n",
            "{\"timestamp_ms\":1.500,\"input_tokens\":896,\"output_tokens\":69,\"block_tokens\":64,\"block_runs\":[0,14]}\n",
        )
    );
    let trace = replay::parse_trace(text.as_bytes(), "trace").unwrap();
    let blocks = |index: usize| trace.requests()[index].engine_block_hashes(Tokens(16));
    let same = blocks(0).iter().zip(&blocks(1)).take_while(|(a, b)| a == b).count();
    assert_eq!((trace.requests().len(), same), (2, 40));
}

#[test]
fn long_prompts_share_common_blocks_and_never_exceed_the_prompt() {
    let mut block_ids = BlockIds::default();
    let long = |last: &str| fingerprint(&format!("{}{last}", "word ".repeat(20_000)));
    let (first, second) =
        (block_ids.assign_runs(&long(""), 10_000), block_ids.assign_runs(&long(&"other ".repeat(2_000)), 10_000));
    let units = |runs: &[(u64, u64)]| runs.iter().map(|run| run.1).sum::<u64>();
    assert_eq!((first.len(), units(&first)), (1, 388), "an id for each 256 bytes of full blocks: {first:?}");
    assert_eq!((second[0].0, units(&second) > 430), (0, true), "{second:?}");
    assert_eq!(block_ids.assign_runs(&long(""), 100), [(0, 100)]);
    assert_eq!(block_ids.assign_runs(&fingerprint(&"x".repeat(600)), 10)[0].1, 2);
    assert_eq!(block_ids.assign_runs(&fingerprint("short"), 10), []);
}

#[test]
fn block_ids_are_bounded_and_recently_seen_blocks_stay_known() {
    let mut block_ids = BlockIds::default();
    let first = block_ids.assign_ids(7, 1);
    for id in 0..3 * MAX_KNOWN_BLOCKS as u64 {
        block_ids.assign_ids(1_000 + id, 1);
        if id % 10_000 == 0 {
            assert_eq!(block_ids.assign_ids(7, 1), first);
        }
    }
    assert!(block_ids.young.len() <= MAX_KNOWN_BLOCKS && block_ids.old.len() <= MAX_KNOWN_BLOCKS);
    assert_ne!(block_ids.assign_ids(1_000, 1), 1, "long forgotten");
}

#[test]
fn full_files_are_rotated_and_the_oldest_removed() {
    let path = create_folder("rotate").join("trace.jsonl");
    fs::write(&path, "from an earlier process\n").unwrap();
    let (fleet, recorder) = recorded_fleet(TraceFile { path: path.clone(), max_bytes: 1_000, max_files: 2 });
    assert_eq!(fs::read_to_string(path.with_extension("jsonl.1")).unwrap(), "from an earlier process\n");
    (0..50).for_each(|_| record_request(&fleet, &"a".repeat(600), None, Outcome::Completed));
    let lost = recorder.dropped_lines();
    drop((fleet, recorder));
    let mut names: Vec<String> = fs::read_dir(path.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!((names, lost), (["trace.jsonl", "trace.jsonl.1", "trace.jsonl.2"].map(str::to_owned).into(), 0));
    for older in ["jsonl", "jsonl.1", "jsonl.2"] {
        let text = fs::read(path.with_extension(older)).unwrap();
        assert!(text.len() <= 1_000 && !replay::parse_trace(&*text, older).unwrap().requests().is_empty());
    }
}

#[test]
fn full_disk_drops_lines_and_stops_no_request() {
    let file = TraceFile { path: "/dev/full".into(), max_bytes: 1 << 20, max_files: 0 };
    let (fleet, recorder) = recorded_fleet(file);
    record_request(&fleet, &"a".repeat(600), None, Outcome::Completed);
    let clock = crate::clock::Clock::start();
    while recorder.dropped_lines() == 0 {
        assert!(clock.now() < Moment::ZERO + Duration::from_secs(15), "never counted");
        std::thread::yield_now();
    }
}
