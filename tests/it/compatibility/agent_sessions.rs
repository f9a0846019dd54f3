//! Sessions of coding agents stay on their replica, whatever the agent puts in front of the prompt.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tokenweir::emulate::EmulatedReplica;

use crate::harness::scripted::{ScriptedReplica, respond_ok};
use crate::harness::{TestRouter, start_replica};

const SESSIONS: usize = 9;
const TURNS: usize = 8;
/// Turns after the first of each session.
const LATER_TURNS: usize = SESSIONS * (TURNS - 1);
/// Later turns that must reach the replica of the session's turn before.
const MIN_STAYING: usize = 46;
/// The difference that the changing block may make.
const MAX_DIFFERENCE: usize = 4;

/// The shapes of an agent's requests.
#[derive(Clone, Copy, Debug)]
enum AgentDialect {
    Messages,
    Chat,
    Responses,
}

impl AgentDialect {
    const ALL: [Self; 3] = [Self::Messages, Self::Chat, Self::Responses];

    const fn path(self) -> &'static str {
        match self {
            Self::Messages => "/v1/messages",
            Self::Chat => "/v1/chat/completions",
            Self::Responses => "/v1/responses",
        }
    }

    /// Returns a body with these turns. `header` is the block that changes; it stands in front of the system prompt.
    ///
    /// Without tools: engines read them first, and under light load all sessions would follow the replica that has them.
    fn build_body(self, header: Option<&str>, turns: &[Value]) -> String {
        let system = "You are an agent. Be brief. ".repeat(80);
        let joined = header.map_or(system.clone(), |header| format!("{header}\n{system}"));
        let body = match self {
            Self::Messages => {
                let blocks = header.into_iter().chain([&*system]);
                let blocks: Vec<Value> = blocks.map(|text| json!({"type": "text", "text": text})).collect();
                json!({"model": "m", "max_tokens": 4, "system": blocks, "messages": turns})
            }
            Self::Chat => {
                let system = json!({"role": "system", "content": joined});
                let messages: Vec<&Value> = [&system].into_iter().chain(turns).collect();
                json!({"model": "m", "max_tokens": 4, "messages": messages})
            }
            Self::Responses => {
                json!({"model": "m", "max_output_tokens": 4, "instructions": joined, "input": turns})
            }
        };
        body.to_string()
    }
}

/// A generator of numbers that are the same for the same seed.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

/// Runs the sessions turn by turn, in a random order each time, on a new router. Returns the later turns that reached
/// the replica of the turn before.
fn count_staying_turns(router: &str, dialect: AgentDialect, seed: u64, has_header: bool) -> usize {
    let router = TestRouter::start(router).wait_until_ready();
    let mut client = router.connect();
    let mut numbers = Numbers(seed);
    let mut turns: Vec<Vec<Value>> = vec![Vec::new(); SESSIONS];
    let mut places: BTreeMap<usize, String> = BTreeMap::new();
    let mut staying = 0;
    for _ in 0..TURNS {
        let mut order: Vec<usize> = (0..SESSIONS).collect();
        (1..SESSIONS).for_each(|at| order.swap(at, numbers.next() as usize % (at + 1)));
        for session in order {
            let question = format!("{seed}.{session}.{} ", numbers.next()).repeat(20);
            turns[session].push(json!({"role": "user", "content": question}));
            let header = format!(
                "x-anthropic-billing-header: cc_version=2.1.100.{:03x}; cc_entrypoint=cli; cch={:05x};",
                numbers.next() % 4_096,
                numbers.next() % 1_048_576
            );
            let body = dialect.build_body(has_header.then_some(&*header), &turns[session]);
            client.send(crate::harness::client::build_request("POST", dialect.path(), "", body));
            let response = client.read_response();
            assert_eq!(response.status, 200, "{}", response.text());
            turns[session].push(json!({"role": "assistant", "content": "Done."}));
            let place = response.header("x-upstream").unwrap().to_owned();
            staying += usize::from(places.insert(session, place.clone()) == Some(place));
        }
    }
    staying
}

fn check_sessions_stay(policy: &str) {
    let replicas: Vec<EmulatedReplica> = (0..3).map(|_| start_replica(&["m"])).collect();
    let urls: Vec<String> = replicas.iter().map(|replica| format!("http://{}", replica.addr())).collect();
    let router = format!("policy = \"{policy}\"\nreplicas = {urls:?}\nengine_metrics = \"off\"");
    for dialect in AgentDialect::ALL {
        for seed in 1..=3 {
            let without = count_staying_turns(&router, dialect, seed, false);
            let with = count_staying_turns(&router, dialect, seed, true);
            let result = format!("{policy}, {dialect:?}, seed {seed}: {with} of {LATER_TURNS} stay, {without} without");
            assert!(with.abs_diff(without) <= MAX_DIFFERENCE && with >= MIN_STAYING, "{result}");
        }
    }
}

#[test]
fn sessions_stay_by_token_cost_with_a_block_that_changes_each_request() {
    check_sessions_stay("token_cost");
}

#[test]
fn sessions_stay_by_prefix_hash_with_a_block_that_changes_each_request() {
    check_sessions_stay("prefix_hash");
}

#[test]
fn sessions_stay_by_one_of_several_routers_with_a_block_that_changes_each_request() {
    check_sessions_stay("token_cost routers=4");
}

/// Starts a router over three replicas that record what they get.
fn start_router(keys: &str) -> (Vec<ScriptedReplica>, TestRouter) {
    let replicas: Vec<ScriptedReplica> = (0..3).map(|_| ScriptedReplica::start(&["m"], respond_ok)).collect();
    let urls: Vec<String> = replicas.iter().map(ScriptedReplica::url).collect();
    let router = TestRouter::start(&format!("{keys}\nreplicas = {urls:?}")).wait_until_ready();
    (replicas, router)
}

/// Returns the replicas that a session's requests reach, which differ in everything but the session.
fn replicas_of_session(router: &TestRouter, header: &str, member: &str) -> BTreeSet<String> {
    let request = |turn: usize| {
        let body = format!(r#"{{"model":"m",{member}"messages":[{{"role":"user","content":"turn {turn}"}}]}}"#);
        let response = router.send_request("POST", "/v1/chat/completions", header, body);
        assert_eq!(response.status, 200, "{}", response.text());
        response.header("x-upstream").unwrap().to_owned()
    };
    (0..6).map(request).collect()
}

#[test]
fn session_that_an_agent_names_stays_under_any_key_and_sticky() {
    for keys in [
        "policy = \"hash $session consistent\"\nsession_headers = \"x-own\"",
        "policy = \"hash $cache_key consistent\"\nsession_headers = [\"x-own\"]",
        "policy = \"round_robin\"\nsticky = { session = true }\nsession_headers = \"x-own\"",
    ] {
        let (_replicas, router) = start_router(keys);
        for (header, member) in [
            ("X-Claude-Code-Session-Id: 6a1f\r\n", ""),
            ("session-id: 6a1f\r\n", ""),
            ("session_id: 6a1f\r\n", ""),
            ("x-session-affinity: ses_6a1f\r\n", ""),
            ("x-own: 6a1f\r\n", ""),
            ("", r#""prompt_cache_key":"6a1f","#),
            ("", r#""metadata":{"user_id":"user_1_account_2_session_6a1f"},"#),
            ("", r#""metadata":{"user_id":"{\"session_id\":\"6a1f\"}"},"#),
        ] {
            assert_eq!(replicas_of_session(&router, header, member).len(), 1, "{keys}: {header}{member}");
        }
        let too_long = format!("session-id: {}\r\n", "x".repeat(300));
        assert!(replicas_of_session(&router, &too_long, "").len() > 1, "{keys}: an id that is too long names nothing");
        assert!(replicas_of_session(&router, "", "").len() > 1, "{keys}: no session");
    }
}

#[test]
fn agents_without_a_session_are_spread_though_they_share_their_tools() {
    for policy in ["prefix_hash", "hash $cache_key consistent"] {
        let (replicas, router) = start_router(&format!("policy = \"{policy}\""));
        for session in 0..24 {
            let turns = [json!({"role": "user", "content": format!("task {session}")})];
            let tools = json!([{"name": "read", "description": "Reads a file. ".repeat(500)}]);
            let body = json!({"model": "m", "messages": turns, "tools": tools}).to_string();
            assert_eq!(router.post("/v1/chat/completions", body).status, 200);
        }
        let counts: Vec<usize> = replicas.iter().map(|replica| replica.received_requests().len()).collect();
        assert!(counts.iter().all(|count| *count >= 2), "{policy}: {counts:?}");
    }
}

#[test]
fn session_ids_are_in_no_log() {
    let folder = std::env::temp_dir().join(format!("tokenweir-sessions-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let [access, error] = ["access.log", "error.log"].map(|name| folder.join(name).to_str().unwrap().to_owned());
    let keys = "policy = \"hash $session consistent\"\nexplain_header = true\nsticky = { session = true }";
    let log = format!("[log]\naccess = {access:?}\nerror = {error:?}\nlevel = \"debug\"");
    let replica = ScriptedReplica::start(&["m"], respond_ok);
    let router = TestRouter::start(&format!("{keys}\nreplicas = [{:?}]\n{log}", replica.url())).wait_until_ready();
    let request = r#"{"model":"m","metadata":{"session_id":"secret-two"},"messages":[]}"#;
    let response = router.send_request("POST", "/v1/chat/completions", "session-id: secret-one\r\n", request);
    assert_eq!(response.status, 200);
    let id = response.header("x-request-id").unwrap().to_owned();
    let decision = crate::harness::send_request(router.admin_addr, "GET", &format!("/explain/{id}"), "", "");
    let shown = format!("{}{}", decision.text(), response.head);
    crate::harness::wait_until("the line is written", || {
        std::fs::read_to_string(&access).is_ok_and(|log| log.contains(&id))
    });
    let logs = [&access, &error].map(|path| std::fs::read_to_string(path).unwrap_or_default()).concat();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(decision.status == 200 && !shown.contains("secret-") && !logs.contains("secret-"), "{shown}\n{logs}");
}
