use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::*;
use crate::balance::Job;
use crate::config;
use crate::fleet::{Attempt, Beside, Fleet, Models, Progress};
use crate::prompt::{Request, survey};
use crate::replay;
use crate::units::Usage;

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("tokenweir-{}-record-{name}", std::process::id()));
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn prefix(text: &str) -> Arc<Prefix> {
    let body = format!("{{\"prompt\":\"{text}\"}}");
    Arc::new(survey(&Request::parse(body.as_bytes()).unwrap().text, &["m"]).1)
}

/// A fleet of one replica whose requests are recorded.
fn recorded(file: RecordFile) -> (Fleet, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::start(file, Arc::new(Metrics::new())).unwrap());
    let observer: Arc<dyn Observer> = recorder.clone();
    let specs = config::from_urls(&["http://10.0.0.1:8000".to_owned()], []).unwrap().settings.pools;
    let fleet = Fleet::new(specs, &observer, 1).unwrap();
    for replica in fleet.replicas() {
        replica.learn(Models::Unlisted);
    }
    (fleet, recorder)
}

fn ask(fleet: &Fleet, text: &str, usage: Option<Usage>, outcome: Outcome) {
    let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let prompt = Tokens(text.len() as u64 / 4);
    let job = Job { prompt, output: Tokens(0), key: b"", client, tried: &[] };
    let (prefix, tried, beside) = (Some(prefix(text)), Vec::new(), Beside::default());
    let attempt = Attempt { job, model: None, measured: None, prefix, pinned: None, tried, beside };
    let now = Moment::ZERO + Duration::from_micros(1_500);
    let mut lease = fleet.pools()[0].acquire(&attempt, now).unwrap();
    lease.progress(Progress { content_events: 3, usage }, now);
    lease.settle(outcome, now);
}

#[test]
fn what_is_recorded_can_be_replayed() {
    let path = folder("replay").join("trace.jsonl");
    let (fleet, recorder) = recorded(RecordFile { path: path.clone(), max_bytes: 1 << 20, keep: 1 });
    let (system, turn) = ("s".repeat(256 * 10), "t".repeat(256 * 4));
    let usage = Usage { prompt: Tokens(900), cached: None, completion: Tokens(70) };
    ask(&fleet, &system, Some(usage), Outcome::Completed);
    ask(&fleet, &format!("{system}{turn}"), None, Outcome::ClientGone);
    ask(&fleet, &turn, None, Outcome::Failed { phase: Phase::FirstByte });
    ask(&fleet, &turn, None, Outcome::Busy { retry_after: None });
    drop((fleet, recorder));
    let text = fs::read_to_string(&path).unwrap();
    // The second had three events, of as many tokens as those of the first.
    assert_eq!(
        text,
        concat!(
            "{\"timestamp_ms\":1.500,\"input_tokens\":900,\"output_tokens\":70,\"block_tokens\":64,\"block_runs\":[0,10]}\n",
            "{\"timestamp_ms\":1.500,\"input_tokens\":896,\"output_tokens\":69,\"block_tokens\":64,\"block_runs\":[0,14]}\n",
        )
    );
    let trace = replay::parse(text.as_bytes(), "trace").unwrap();
    let shared = |at: usize| trace.requests()[at].engine_blocks(Tokens(16));
    let same = shared(0).iter().zip(&shared(1)).take_while(|(a, b)| a == b).count();
    assert_eq!((trace.requests().len(), same), (2, 40));
}

#[test]
fn long_prompts_share_what_is_alike_and_blocks_never_exceed_the_prompt() {
    let mut names = Names::default();
    let long = |last: &str| prefix(&format!("{}{last}", "word ".repeat(20_000)));
    let (first, second) = (names.runs(&long(""), 10_000), names.runs(&long(&"other ".repeat(2_000)), 10_000));
    let units = |runs: &[(u64, u64)]| runs.iter().map(|run| run.1).sum::<u64>();
    assert_eq!((first.len(), units(&first)), (1, 388), "a number for each 256 bytes, as far as blocks go: {first:?}");
    assert_eq!((second[0].0, units(&second) > 430), (0, true), "{second:?}");
    assert_eq!(names.runs(&long(""), 100), [(0, 100)]);
    assert_eq!(names.runs(&prefix(&"x".repeat(600)), 10)[0].1, 2);
    assert_eq!(names.runs(&prefix("short"), 10), []);
}

#[test]
fn names_are_bounded_and_what_is_seen_again_stays_known() {
    let mut names = Names::default();
    let first = names.of(7, 1);
    for at in 0..3 * KNOWN as u64 {
        names.of(1_000 + at, 1);
        if at % 10_000 == 0 {
            assert_eq!(names.of(7, 1), first);
        }
    }
    assert!(names.young.len() <= KNOWN && names.old.len() <= KNOWN);
    assert_ne!(names.of(1_000, 1), 1, "long forgotten");
}

#[test]
fn full_files_make_room_and_the_oldest_go() {
    let path = folder("rotate").join("trace.jsonl");
    fs::write(&path, "from an earlier process\n").unwrap();
    let (fleet, recorder) = recorded(RecordFile { path: path.clone(), max_bytes: 1_000, keep: 2 });
    assert_eq!(fs::read_to_string(path.with_extension("jsonl.1")).unwrap(), "from an earlier process\n");
    (0..50).for_each(|_| ask(&fleet, &"a".repeat(600), None, Outcome::Completed));
    let lost = recorder.lost();
    drop((fleet, recorder));
    let mut names: Vec<String> = fs::read_dir(path.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!((names, lost), (["trace.jsonl", "trace.jsonl.1", "trace.jsonl.2"].map(str::to_owned).into(), 0));
    for older in ["jsonl", "jsonl.1", "jsonl.2"] {
        let text = fs::read(path.with_extension(older)).unwrap();
        assert!(text.len() <= 1_000 && !replay::parse(&*text, older).unwrap().requests().is_empty());
    }
}

#[test]
fn what_cannot_be_written_is_counted_and_stops_nobody() {
    let file = RecordFile { path: "/dev/full".into(), max_bytes: 1 << 20, keep: 0 };
    let (fleet, recorder) = recorded(file);
    ask(&fleet, &"a".repeat(600), None, Outcome::Completed);
    let clock = crate::clock::Clock::start();
    while recorder.lost() == 0 {
        assert!(clock.now() < Moment::ZERO + Duration::from_secs(15), "never counted");
        std::thread::yield_now();
    }
}
