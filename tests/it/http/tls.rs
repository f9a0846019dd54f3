//! TLS on both sides: clients that come by https, and replicas that are reached by it.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crate::harness::scripted::{Scripted, friendly};
use crate::harness::tls::{Authority, Front, Pair, der, shake, shown, version};
use crate::harness::{Router, ask, chat, client::request, env, nowhere, replica, wait_until};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ProtocolVersion;
use rustls::version::{TLS12, TLS13};
use tokenweir::config::{self, Listen};

const CHAT: &str = "/v1/chat/completions";
const LOCKSTEP: &str = "x-emulate-lockstep: 1\r\n";

/// A configuration with a plain and a TLS listener.
fn listening(pair: &Pair, replicas: &str) -> String {
    format!(
        "listen = ['127.0.0.1:0', '127.0.0.1:0 ssl']\n{replicas}\n[tls]\ncertificate = {:?}\nkey = {:?}\n",
        pair.chain, pair.key
    )
}

/// Where a router speaks TLS.
fn secure(router: &Router) -> SocketAddr {
    let found = router.server.listening().iter().find(|listen| matches!(listen, Listen::Tls(_)));
    found.and_then(Listen::address).expect("it listens with TLS")
}

/// A router whose configuration is read again from the text in the mutex.
fn reloading(text: &str) -> (Router, Arc<Mutex<String>>) {
    let (router, file) = (Router::start(text).ready(), Arc::new(Mutex::new(text.to_owned())));
    let source = file.clone();
    router.server.reloads_from(Box::new(move || {
        let text = source.lock().expect("no panic").clone();
        config::load(&text, "router.toml", env(&text)).map_err(|report| report.to_string())
    }));
    (router, file)
}

fn told(path: &Path, what: &str) {
    let said = || fs::read_to_string(path).unwrap_or_default();
    wait_until(&format!("the log says {what:?}"), || said().contains(what));
}

#[test]
fn a_stream_over_tls_is_whole_and_the_replica_is_told_of_https() {
    let authority = Authority::new("whole");
    let pair = authority.issue("router", &["localhost"]);
    let (emulated, scripted) = (replica(&["m"]), Scripted::start(&["s"], friendly));
    let access = authority.file("whole.log");
    let text = listening(&pair, &format!("replicas = [{:?}, {:?}]", emulated.url(), scripted.url()));
    let format = "$scheme $https $ssl_protocol $ssl_cipher $server_port";
    let router = Router::start(&format!("{text}[log]\naccess = {access:?}\nformat = '{format}'\n")).ready();
    let mut client = authority.client(secure(&router));
    for _ in 0..2 {
        client.send(request("POST", CHAT, "", chat("m", 20, true)));
        let reply = client.reply();
        assert!(reply.status == 200 && reply.whole && reply.text().ends_with("data: [DONE]\n\n"), "{}", reply.text());
    }
    client.send(request("POST", CHAT, "", chat("s", 2, false)));
    assert_eq!(client.reply().status, 200);
    assert_eq!(scripted.last().headers("x-forwarded-proto"), ["https"]);
    let port = secure(&router).port();
    told(&access, &format!("https on TLSv1.3 TLS_AES_256_GCM_SHA384 {port}\n"));

    assert_eq!(router.post(CHAT, chat("s", 2, false)).status, 200, "the plain listener serves beside it");
    assert_eq!(scripted.last().headers("x-forwarded-proto"), ["http"]);
    told(&access, &format!("http  - - {}\n", router.addr.port()));
}

#[test]
fn versions_1_2_and_1_3_are_spoken_and_the_protocol_is_negotiated() {
    let authority = Authority::new("versions");
    let pair = authority.issue("router", &["localhost"]);
    let emulated = replica(&["m"]);
    let router = Router::start(&listening(&pair, &format!("replicas = [{:?}]", emulated.url()))).ready();
    for (offered, wanted) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        for alpn in ["h2", "http/1.1"] {
            let config = authority.trusting(&[offered], &[alpn]);
            let stream = shake(config, secure(&router), "localhost").unwrap();
            assert_eq!((version(&stream), stream.conn.alpn_protocol()), (wanted, Some(alpn.as_bytes())));
        }
    }
    let mut unwilling = authority.connect(secure(&router), "localhost", &[]);
    unwilling.write_all(&request("GET", "/livez", "connection: close\r\n", "")).unwrap();
    let mut answer = String::new();
    unwilling.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "a client without ALPN is served: {answer}");
    let spoken = shake(authority.trusting(&[&TLS13], &["smtp"]), secure(&router), "localhost");
    assert!(spoken.is_err(), "a client that wants neither HTTP is not");
}

#[test]
fn a_swapped_certificate_is_shown_to_new_connections_and_open_streams_go_on() {
    let authority = Authority::new("swapped");
    let pair = authority.issue("router", &["localhost"]);
    let emulated = replica(&["m"]);
    let (router, _file) = reloading(&listening(&pair, &format!("replicas = [{:?}]", emulated.url())));
    let first = der(&pair);
    let mut stream = authority.client(secure(&router));
    stream.send(request("POST", CHAT, &format!("x-request-id: s\r\n{LOCKSTEP}"), chat("m", 4, true)));
    assert_eq!(stream.head().status, 200);
    assert_eq!(shown(&authority.connect(secure(&router), "localhost", &[])), first);

    let second = der(&authority.issue("router", &["localhost"]));
    let reply = ask(router.admin, "POST", "/reload", "", "");
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_ne!(first, second);
    assert_eq!(shown(&authority.connect(secure(&router), "localhost", &[])), second);
    let mut body = Vec::new();
    while !String::from_utf8_lossy(&body).contains("[DONE]") {
        drop(ask(emulated.addr(), "POST", "/emulate/next/s", "", ""));
        body.extend(stream.piece().expect("the stream goes on"));
    }
}

#[test]
fn a_port_goes_from_plain_to_tls_by_a_reload() {
    let authority = Authority::new("turned");
    let pair = authority.issue("router", &["localhost"]);
    let emulated = replica(&["m"]);
    let port = nowhere();
    let text = |listen: &str| {
        listening(&pair, &format!("replicas = [{:?}]", emulated.url()))
            .replace("'127.0.0.1:0', '127.0.0.1:0 ssl'", listen)
    };
    let (router, file) = reloading(&text(&format!("'{port}', '127.0.0.1:0 ssl'")));
    assert_eq!(ask(port, "GET", "/livez", "", "").status, 200);
    *file.lock().unwrap() = text(&format!("'{port} ssl', '127.0.0.1:0 ssl'"));
    let reply = ask(router.admin, "POST", "/reload", "", "");
    assert_eq!(reply.status, 200, "{}", reply.text());
    wait_until("the port speaks TLS", || authority.handshakes(port));
    let mut client = authority.client(port);
    client.send(request("GET", "/livez", "", ""));
    assert_eq!(client.reply().status, 200);
}

#[test]
fn a_bad_certificate_at_reload_changes_nothing_and_says_where_and_why() {
    let authority = Authority::new("bad");
    let (pair, other) = (authority.issue("router", &["localhost"]), authority.issue("other", &["localhost"]));
    let emulated = replica(&["m"]);
    let replicas = format!("replicas = [{:?}]", emulated.url());
    let (router, file) = reloading(&listening(&pair, &replicas));
    let reload = |text: String| {
        *file.lock().unwrap() = text;
        let reply = ask(router.admin, "POST", "/reload", "", "");
        assert_eq!(reply.status, 400, "{}", reply.text());
        reply.json()["error"]["message"].as_str().unwrap().to_owned()
    };
    let mixed = format!("x_upstream = false\n{}", listening(&Pair { key: other.key, ..pair.clone() }, &replicas));
    let said = reload(mixed.clone());
    assert!(said.contains("router.toml:6:7: cannot use") && said.contains("it is not the key of"), "{said}");
    let said = reload(mixed.replace("other.key", "missing.key"));
    assert!(said.contains("router.toml:6:7: cannot use") && said.contains("No such file"), "{said}");
    let used = der(&pair);
    fs::write(&pair.chain, "nonsense").unwrap();
    let said = reload(listening(&pair, &replicas));
    assert!(said.contains("router.toml:4:15") && said.contains("there is no certificate in it"), "{said}");

    let stream = authority.connect(secure(&router), "localhost", &[]);
    assert_eq!(shown(&stream), used);
    assert!(router.post(CHAT, chat("m", 2, false)).header("x-upstream").is_some(), "nothing else has changed");
}

#[test]
fn the_certificate_is_chosen_by_the_name_that_the_client_asks_for() {
    let authority = Authority::new("names");
    let pairs = [authority.issue("a", &["a.test", "localhost"]), authority.issue("b", &["*.b.test", "b.test"])];
    let emulated = replica(&["m"]);
    let text = format!(
        "listen = '127.0.0.1:0 ssl'\nreplicas = [{:?}]\n[tls]\ncertificate = [{:?}, {:?}]\nkey = [{:?}, {:?}]\n",
        emulated.url(),
        pairs[0].chain,
        pairs[1].chain,
        pairs[0].key,
        pairs[1].key
    );
    let loaded = config::load(&text, "router.toml", env(&text)).unwrap();
    let server = tokenweir::serve::Server::start(loaded.settings).unwrap();
    let addr = server.listening()[0].address().unwrap();
    for (name, pair) in [("a.test", 0), ("b.test", 1), ("x.b.test", 1)] {
        assert_eq!(shown(&authority.connect(addr, name, &[])), der(&pairs[pair]), "{name}");
    }
    // The first is for everybody else; a client that looks for another name in it refuses it.
    let error = shake(authority.trusting(&[&TLS13], &[]), addr, "c.test").unwrap_err();
    assert!(error.to_string().contains("a.test"), "{error}");
}

#[test]
fn many_streams_run_at_once_on_one_http2_connection() {
    const STREAMS: usize = 8;
    let authority = Authority::new("streams");
    let pair = authority.issue("router", &["localhost"]);
    let emulated = replica(&["m"]);
    let router = Router::start(&listening(&pair, &format!("replicas = [{:?}]", emulated.url()))).ready();
    let config = authority.trusting(&[&TLS13], &["h2"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(secure(&router)).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut answers = Vec::new();
        for i in 0..STREAMS {
            let request = http::Request::post(format!("https://localhost{CHAT}"))
                .header("x-request-id", format!("h{i}"))
                .header("x-emulate-lockstep", "1")
                .body(Full::new(Bytes::from(chat("m", 3, true))))
                .unwrap();
            answers.push(sender.clone().send_request(request).await.unwrap().into_body());
        }
        assert_eq!(router.in_flight() as usize, STREAMS);
        for (i, mut answer) in answers.into_iter().enumerate() {
            let mut body = Vec::new();
            while !String::from_utf8_lossy(&body).contains("[DONE]") {
                let addr = emulated.addr();
                let next = move || drop(ask(addr, "POST", &format!("/emulate/next/h{i}"), "", ""));
                tokio::task::spawn_blocking(next).await.unwrap();
                body.extend(answer.frame().await.expect("the stream goes on").unwrap().into_data().unwrap());
            }
        }
    });
    wait_until("nothing is charged any more", || router.in_flight() == 0);
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

#[test]
fn requests_that_are_taken_back_at_once_end_the_http2_connection() {
    let authority = Authority::new("rapid");
    let pair = authority.issue("router", &["localhost"]);
    let emulated = replica(&["m"]);
    let router = Router::start(&listening(&pair, &format!("replicas = [{:?}]", emulated.url()))).ready();
    let mut stream = authority.connect(secure(&router), "localhost", &["h2"]);
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    flood.extend(frame(4, 0, 0, &[]));
    for i in 0..200 {
        // :method GET, :scheme https, :path /, :authority a; then CANCEL.
        flood.extend(frame(1, 5, 2 * i + 1, &[0x82, 0x87, 0x84, 0x41, 1, b'a']));
        flood.extend(frame(3, 0, 2 * i + 1, &8u32.to_be_bytes()));
    }
    stream.write_all(&flood).unwrap();
    let mut came = Vec::new();
    // The end may be an abrupt one: what was sent behind the last frame that was read is not.
    drop(stream.read_to_end(&mut came));
    let mut rest = &came[..];
    let mut farewell = None;
    while let [a, b, c, kind, _, _, _, _, _, after @ ..] = rest {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        if *kind == 7 {
            farewell = Some(after[4..8].to_vec());
        }
        rest = &after[length.min(after.len())..];
    }
    assert_eq!(farewell, Some(11u32.to_be_bytes().to_vec()), "GOAWAY, ENHANCE_YOUR_CALM");
    assert_eq!(authority.client(secure(&router)).get("/livez"), 200, "others are served");
}

impl crate::harness::client::Client<crate::harness::tls::Secured> {
    fn get(&mut self, path: &str) -> u16 {
        self.send(request("GET", path, "", ""));
        self.reply().status
    }
}

#[test]
fn a_client_that_does_not_shake_hands_is_closed_in_the_time_of_a_head() {
    let authority = Authority::new("silent");
    let pair = authority.issue("router", &["localhost"]);
    let emulated = replica(&["m"]);
    let errors = authority.file("silent.log");
    let text = listening(&pair, &format!("replicas = [{:?}]", emulated.url()));
    let text = format!("{text}[timeouts]\nheader = '300ms'\n[log]\nerror = {errors:?}\n");
    let router = Router::start(&text).ready();
    let mut silent = crate::harness::client::Client::connect(secure(&router));
    let mut plain = crate::harness::client::Client::connect(secure(&router));
    plain.send(request("GET", "/livez", "", ""));
    assert_eq!(authority.client(secure(&router)).get("/livez"), 200, "nobody waits for them");
    assert!(silent.closes(), "a client that says nothing");
    told(&errors, "failed: it was not over within 300ms (`timeouts.header`)");
    told(&errors, "TLS handshake with 127.0.0.1 failed: received corrupt message of type InvalidContentType");
    assert_eq!(router.metric("tokenweir_tls_handshakes_failed_total", &[]), 2.0);
    let mut idle = authority.client(secure(&router));
    assert!(idle.closes(), "a head is waited for no longer behind a handshake");
}

#[test]
fn a_replica_is_reached_by_tls_on_connections_that_are_kept() {
    let authority = Authority::new("replica");
    let emulated = replica(&["m"]);
    let front = Front::start(&authority.issue("replica", &["127.0.0.1"]), emulated.addr());
    let router = Router::start(&format!(
        "workers = 1\nengine_metrics = \"1h\"\ntls_ca = {:?}\nreplicas = [{:?}]",
        authority.ca(),
        front.url("127.0.0.1")
    ));
    let router = router.ready();
    wait_until("its engine has told of itself", || router.metric("tokenweir_engine_kv_tokens", &[]) > 0.0);
    for i in 0..5 {
        let reply = router.post(CHAT, chat("m", 5, i % 2 == 0));
        assert!(reply.status == 200 && reply.whole, "{}", reply.text());
    }
    // One for the list of models, one for the engine's metrics, one for the five requests.
    assert_eq!(front.shaken.load(Ordering::Relaxed), 3);
    let state = ask(router.admin, "GET", "/pools", "", "").json()[0]["replicas"][0]["url"].clone();
    assert_eq!(state, front.url("127.0.0.1"));
}

#[test]
fn a_kept_connection_that_is_cut_without_a_farewell_is_replaced_and_is_no_failure() {
    let authority = Authority::new("cut");
    let asked = AtomicU32::new(0);
    let scripted =
        Scripted::start(&["m"], move |heard, to| asked.fetch_add(1, Ordering::Relaxed) != 1 && friendly(heard, to));
    let front = Front::start(&authority.issue("replica", &["localhost"]), scripted.addr);
    let text = format!("workers = 1\ntls_ca = {:?}\nreplicas = [{:?}]", authority.ca(), front.url("localhost"));
    let router = Router::start(&text).ready();
    for _ in 0..2 {
        assert_eq!(router.post(CHAT, chat("m", 2, false)).status, 200);
    }
    assert_eq!(scripted.heard().len(), 3, "the second one was sent twice");
    assert_eq!(router.metric("tokenweir_attempts_total", &["failed"]), 0.0);
    assert_eq!(router.metric("tokenweir_attempts_total", &["completed"]), 2.0);
}

#[test]
fn a_replica_that_cannot_prove_who_it_is_gets_no_request_and_the_log_says_why() {
    let (authority, stranger) = (Authority::new("proof"), Authority::new("stranger"));
    let (scripted, plain) = (Scripted::start(&["m"], friendly), replica(&["m"]));
    let front = |authority: &Authority, name| Front::start(&authority.issue(name, &[name]), scripted.addr);
    let (named, strange) = (front(&authority, "replicas.test"), front(&stranger, "localhost"));
    let ca = format!("tls_ca = {:?}\n", authority.ca());
    for (test, tls, url, why) in [
        ("named", ca.clone(), named.url("127.0.0.1"), "its certificate is for replicas.test, not for 127.0.0.1"),
        (
            "strange",
            ca.clone(),
            strange.url("localhost"),
            "issuer that is not trusted: name the issuer's file in the pool's `tls_ca`",
        ),
        ("default", String::new(), strange.url("localhost"), "issuer that is not trusted"),
        ("plain", ca.clone(), format!("https://{}", plain.addr()), "it does not speak TLS"),
    ] {
        let errors = authority.file(&format!("{test}.log"));
        let router = Router::start(&format!("{tls}paths = 'any'\nreplicas = [{url:?}]\n[log]\nerror = {errors:?}\n"));
        let reply = router.post(CHAT, chat("m", 2, false));
        assert_eq!((reply.status, reply.error()["code"].as_str()), (503, Some("no_replica")), "{test}");
        assert!(!reply.text().contains("certificate"), "that is the operator's business");
        told(&errors, why);
        told(&errors, "failed at connect");
    }
    let verified = format!("{ca}tls_name = 'replicas.test'\nreplicas = [{:?}]", named.url("127.0.0.1"));
    let blind = format!("tls_verify = false\nreplicas = [{:?}]", strange.url("127.0.0.1"));
    for text in [verified, blind] {
        let reply = Router::start(&text).ready().post(CHAT, chat("m", 2, false));
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    assert_eq!(scripted.heard().len(), 2, "the others have seen nothing");
}

#[test]
fn a_self_signed_certificate_is_trusted_by_itself_unless_it_is_an_issuers() {
    let authority = Authority::new("own");
    let emulated = replica(&["m"]);
    let errors = authority.file("own.log");
    for is_ca in [false, true] {
        let pair = authority.own(&format!("own-{is_ca}"), "localhost", is_ca);
        let front = Front::start(&pair, emulated.addr());
        let router = Router::start(&format!(
            "paths = 'any'\ntls_ca = {:?}\nreplicas = [{:?}]\n[log]\nerror = {errors:?}\n",
            pair.chain,
            front.url("localhost")
        ));
        assert_eq!(router.post(CHAT, chat("m", 2, false)).status, if is_ca { 503 } else { 200 });
    }
    told(&errors, "its certificate is an issuer's own: make one for the server");
}

#[test]
fn a_replica_that_does_not_shake_hands_is_given_the_time_of_a_connection() {
    let authority = Authority::new("mute");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = Scripted::start(&["m"], friendly);
    let errors = authority.file("mute.log");
    let router = Router::start(&format!(
        "policy = 'round_robin'\npaths = 'any'\ntls_verify = false\nreplicas = ['https://{}', {:?}]\n\
         [timeouts]\nconnect = '200ms'\n[log]\nerror = {errors:?}\n",
        silent.local_addr().unwrap(),
        other.url()
    ));
    let reply = router.post(CHAT, chat("m", 2, false));
    assert_eq!((reply.status, reply.header("x-upstream")), (200, Some(other.addr.to_string().as_str())));
    told(&errors, "failed at connect: no connection: nothing within 200ms");
}

#[test]
fn a_replica_added_by_hand_is_verified_as_its_pool_says() {
    let authority = Authority::new("added");
    let (plain, behind) = (replica(&["m"]), replica(&["m"]));
    let front = Front::start(&authority.issue("replica", &["localhost"]), behind.addr());
    let text = format!("tls_ca = {:?}\npolicy = 'round_robin'\nreplicas = [{:?}]", authority.ca(), plain.url());
    let router = Router::start(&text).ready();
    let words = format!("{{\"replica\":{:?}}}", front.url("localhost"));
    let added = ask(router.admin, "POST", "/pools/default/replicas", "content-type: application/json\r\n", words);
    assert_eq!(added.status, 200, "{}", added.text());
    let states = || ask(router.admin, "GET", "/pools", "", "").json();
    wait_until("it is asked", || states()[0]["replicas"][1]["state"] == "admitted");
    let used: Vec<_> =
        (0..2).map(|_| router.post(CHAT, chat("m", 1, false)).header("x-upstream").unwrap().to_owned()).collect();
    assert!(used.contains(&format!("localhost:{}", front.addr.port())), "{used:?}");
}

#[test]
fn a_reload_brings_replicas_behind_tls_without_losing_a_request() {
    let authority = Authority::new("brought");
    let (plain, behind) = (replica(&["m"]), replica(&["m"]));
    let front = Front::start(&authority.issue("replica", &["localhost"]), behind.addr());
    let before = format!("replicas = [{:?}]", plain.url());
    let after = format!("tls_ca = {:?}\nreplicas = [{:?}]", authority.ca(), front.url("localhost"));
    let (router, file) = reloading(&before);
    for text in [&after, &before, &after] {
        text.clone_into(&mut file.lock().unwrap());
        let reply = ask(router.admin, "POST", "/reload", "", "");
        assert_eq!(reply.status, 200, "{}", reply.text());
        let reply = router.post(CHAT, chat("m", 1, false));
        let secure = reply.header("x-upstream").is_some_and(|name| name.starts_with("localhost"));
        assert_eq!((reply.status, secure), (200, text == &after), "{}", reply.text());
    }
    *file.lock().unwrap() = after.replace("ca.pem", "none.pem");
    let reply = ask(router.admin, "POST", "/reload", "", "");
    let said = reply.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(reply.status == 400 && said.contains("router.toml:1:10: cannot use"), "{said}");
    assert_eq!(router.post(CHAT, chat("m", 1, false)).status, 200);
}
