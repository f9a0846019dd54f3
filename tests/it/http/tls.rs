//! TLS from clients and TLS to replicas.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crate::harness::scripted::{ScriptedReplica, respond_ok};
use crate::harness::tls::{
    CertificateAuthority, CertificateFiles, TlsTerminator, certificate_der, peer_certificate, protocol_version,
    tls_handshake,
};
use crate::harness::{
    TestRouter, chat_body, client::build_request, router_env, send_request, start_replica, unused_addr, wait_until,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ProtocolVersion;
use rustls::version::{TLS12, TLS13};
use tokenweir::config;
use tokenweir::routes::ListenAddr;

const CHAT_PATH: &str = "/v1/chat/completions";
const LOCKSTEP_HEADER: &str = "x-emulate-lockstep: 1\r\n";

/// Returns a configuration with a plain and a TLS listener.
fn listener_config(pair: &CertificateFiles, replicas: &str) -> String {
    format!(
        "listen = ['127.0.0.1:0', '127.0.0.1:0 ssl']\n{replicas}\n[tls]\ncertificate = {:?}\nkey = {:?}\n",
        pair.chain_path, pair.key_path
    )
}

/// Returns the address of a router's TLS listener.
fn tls_addr(router: &TestRouter) -> SocketAddr {
    let found = router.server.listen_addresses().iter().find(|listen| matches!(listen, ListenAddr::Tls(_)));
    found.and_then(ListenAddr::socket_addr).expect("the router has a TLS listener")
}

/// Starts a router that reloads its configuration from the text in the mutex.
fn start_reloadable_router(text: &str) -> (TestRouter, Arc<Mutex<String>>) {
    let (router, file) = (TestRouter::start(text).wait_until_ready(), Arc::new(Mutex::new(text.to_owned())));
    let source = file.clone();
    router.server.set_config_source(Box::new(move || {
        let text = source.lock().expect("no panic").clone();
        config::load(&text, "router.toml", router_env(&text)).map_err(|report| report.to_string())
    }));
    (router, file)
}

fn wait_for_log(path: &Path, what: &str) {
    let text = || fs::read_to_string(path).unwrap_or_default();
    wait_until(&format!("the log says {what:?}"), || text().contains(what));
}

#[test]
fn tls_stream_is_complete_and_forwarded_proto_is_https() {
    let authority = CertificateAuthority::new("whole");
    let pair = authority.issue_certificate("router", &["localhost"]);
    let (emulated, scripted) = (start_replica(&["m"]), ScriptedReplica::start(&["s"], respond_ok));
    let access = authority.file_path("whole.log");
    let text = listener_config(&pair, &format!("replicas = [{:?}, {:?}]", emulated.url(), scripted.url()));
    let format = "$scheme $https $ssl_protocol $ssl_cipher $server_port";
    let router =
        TestRouter::start(&format!("{text}[log]\naccess = {access:?}\nformat = '{format}'\n")).wait_until_ready();
    let mut client = authority.connect_client(tls_addr(&router));
    for _ in 0..2 {
        client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 20, true)));
        let reply = client.read_response();
        assert!(
            reply.status == 200 && reply.complete && reply.text().ends_with("data: [DONE]\n\n"),
            "{}",
            reply.text()
        );
    }
    client.send(build_request("POST", CHAT_PATH, "", chat_body("s", 2, false)));
    assert_eq!(client.read_response().status, 200);
    assert_eq!(scripted.last_request().header_values("x-forwarded-proto"), ["https"]);
    let port = tls_addr(&router).port();
    wait_for_log(&access, &format!("https on TLSv1.3 TLS_AES_256_GCM_SHA384 {port}\n"));

    assert_eq!(router.post(CHAT_PATH, chat_body("s", 2, false)).status, 200, "the plain listener still serves");
    assert_eq!(scripted.last_request().header_values("x-forwarded-proto"), ["http"]);
    wait_for_log(&access, &format!("http  - - {}\n", router.addr.port()));
}

#[test]
fn tls_1_2_and_1_3_negotiate_alpn() {
    let authority = CertificateAuthority::new("versions");
    let pair = authority.issue_certificate("router", &["localhost"]);
    let emulated = start_replica(&["m"]);
    let router =
        TestRouter::start(&listener_config(&pair, &format!("replicas = [{:?}]", emulated.url()))).wait_until_ready();
    for (offered, wanted) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        for alpn in ["h2", "http/1.1"] {
            let config = authority.client_config(&[offered], &[alpn]);
            let stream = tls_handshake(config, tls_addr(&router), "localhost").unwrap();
            assert_eq!((protocol_version(&stream), stream.conn.alpn_protocol()), (wanted, Some(alpn.as_bytes())));
        }
    }
    let mut unwilling = authority.connect(tls_addr(&router), "localhost", &[]);
    unwilling.write_all(&build_request("GET", "/livez", "connection: close\r\n", "")).unwrap();
    let mut answer = String::new();
    unwilling.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "a client without ALPN is served: {answer}");
    let spoken = tls_handshake(authority.client_config(&[&TLS13], &["smtp"]), tls_addr(&router), "localhost");
    assert!(spoken.is_err(), "a client without a common ALPN protocol is refused");
}

#[test]
fn reloaded_certificate_serves_new_connections_only() {
    let authority = CertificateAuthority::new("swapped");
    let pair = authority.issue_certificate("router", &["localhost"]);
    let emulated = start_replica(&["m"]);
    let (router, _file) =
        start_reloadable_router(&listener_config(&pair, &format!("replicas = [{:?}]", emulated.url())));
    let first = certificate_der(&pair);
    let mut stream = authority.connect_client(tls_addr(&router));
    stream.send(build_request(
        "POST",
        CHAT_PATH,
        &format!("x-request-id: s\r\n{LOCKSTEP_HEADER}"),
        chat_body("m", 4, true),
    ));
    assert_eq!(stream.read_head().status, 200);
    assert_eq!(peer_certificate(&authority.connect(tls_addr(&router), "localhost", &[])), first);

    let second = certificate_der(&authority.issue_certificate("router", &["localhost"]));
    let reply = send_request(router.admin_addr, "POST", "/reload", "", "");
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_ne!(first, second);
    assert_eq!(peer_certificate(&authority.connect(tls_addr(&router), "localhost", &[])), second);
    let mut body = Vec::new();
    while !String::from_utf8_lossy(&body).contains("[DONE]") {
        drop(send_request(emulated.addr(), "POST", "/emulate/next/s", "", ""));
        body.extend(stream.read_piece().expect("the stream continues"));
    }
}

#[test]
fn reload_turns_a_plain_port_into_tls() {
    let authority = CertificateAuthority::new("turned");
    let pair = authority.issue_certificate("router", &["localhost"]);
    let emulated = start_replica(&["m"]);
    let port = unused_addr();
    let text = |listen: &str| {
        listener_config(&pair, &format!("replicas = [{:?}]", emulated.url()))
            .replace("'127.0.0.1:0', '127.0.0.1:0 ssl'", listen)
    };
    let (router, file) = start_reloadable_router(&text(&format!("'{port}', '127.0.0.1:0 ssl'")));
    assert_eq!(send_request(port, "GET", "/livez", "", "").status, 200);
    *file.lock().unwrap() = text(&format!("'{port} ssl', '127.0.0.1:0 ssl'"));
    let reply = send_request(router.admin_addr, "POST", "/reload", "", "");
    assert_eq!(reply.status, 200, "{}", reply.text());
    wait_until("the port speaks TLS", || authority.can_handshake(port));
    let mut client = authority.connect_client(port);
    client.send(build_request("GET", "/livez", "", ""));
    assert_eq!(client.read_response().status, 200);
}

#[test]
fn bad_certificate_at_reload_changes_nothing_and_is_explained() {
    let authority = CertificateAuthority::new("bad");
    let (pair, other) =
        (authority.issue_certificate("router", &["localhost"]), authority.issue_certificate("other", &["localhost"]));
    let emulated = start_replica(&["m"]);
    let replicas = format!("replicas = [{:?}]", emulated.url());
    let (router, file) = start_reloadable_router(&listener_config(&pair, &replicas));
    let reload = |text: String| {
        *file.lock().unwrap() = text;
        let reply = send_request(router.admin_addr, "POST", "/reload", "", "");
        assert_eq!(reply.status, 400, "{}", reply.text());
        reply.json()["error"]["message"].as_str().unwrap().to_owned()
    };
    let mixed = format!(
        "x_upstream = false\n{}",
        listener_config(&CertificateFiles { key_path: other.key_path, ..pair.clone() }, &replicas)
    );
    let error = reload(mixed.clone());
    assert!(error.contains("router.toml:6:7: cannot use") && error.contains("it is not the key of"), "{error}");
    let error = reload(mixed.replace("other.key", "missing.key"));
    assert!(error.contains("router.toml:6:7: cannot use") && error.contains("No such file"), "{error}");
    let used = certificate_der(&pair);
    fs::write(&pair.chain_path, "nonsense").unwrap();
    let error = reload(listener_config(&pair, &replicas));
    assert!(error.contains("router.toml:4:15") && error.contains("there is no certificate in it"), "{error}");

    let stream = authority.connect(tls_addr(&router), "localhost", &[]);
    assert_eq!(peer_certificate(&stream), used);
    assert!(
        router.post(CHAT_PATH, chat_body("m", 2, false)).header("x-upstream").is_some(),
        "the rest of the configuration is unchanged"
    );
}

#[test]
fn certificate_is_selected_by_sni() {
    let authority = CertificateAuthority::new("names");
    let pairs = [
        authority.issue_certificate("a", &["a.test", "localhost"]),
        authority.issue_certificate("b", &["*.b.test", "b.test"]),
    ];
    let emulated = start_replica(&["m"]);
    let text = format!(
        "listen = '127.0.0.1:0 ssl'\nreplicas = [{:?}]\n[tls]\ncertificate = [{:?}, {:?}]\nkey = [{:?}, {:?}]\n",
        emulated.url(),
        pairs[0].chain_path,
        pairs[1].chain_path,
        pairs[0].key_path,
        pairs[1].key_path
    );
    let loaded = config::load(&text, "router.toml", router_env(&text)).unwrap();
    let server = tokenweir::server::Server::start(loaded.settings).unwrap();
    let addr = server.listen_addresses()[0].socket_addr().unwrap();
    for (name, pair) in [("a.test", 0), ("b.test", 1), ("x.b.test", 1)] {
        assert_eq!(peer_certificate(&authority.connect(addr, name, &[])), certificate_der(&pairs[pair]), "{name}");
    }
    // The first certificate is the default; a client that expects another name refuses it.
    let error = tls_handshake(authority.client_config(&[&TLS13], &[]), addr, "c.test").unwrap_err();
    assert!(error.to_string().contains("a.test"), "{error}");
}

#[test]
fn many_streams_share_one_http2_connection() {
    const STREAMS: usize = 8;
    let authority = CertificateAuthority::new("streams");
    let pair = authority.issue_certificate("router", &["localhost"]);
    let emulated = start_replica(&["m"]);
    let router =
        TestRouter::start(&listener_config(&pair, &format!("replicas = [{:?}]", emulated.url()))).wait_until_ready();
    let config = authority.client_config(&[&TLS13], &["h2"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(tls_addr(&router)).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut answers = Vec::new();
        for i in 0..STREAMS {
            let request = http::Request::post(format!("https://localhost{CHAT_PATH}"))
                .header("x-request-id", format!("h{i}"))
                .header("x-emulate-lockstep", "1")
                .body(Full::new(Bytes::from(chat_body("m", 3, true))))
                .unwrap();
            answers.push(sender.clone().send_request(request).await.unwrap().into_body());
        }
        assert_eq!(router.in_flight() as usize, STREAMS);
        for (i, mut answer) in answers.into_iter().enumerate() {
            let mut body = Vec::new();
            while !String::from_utf8_lossy(&body).contains("[DONE]") {
                let addr = emulated.addr();
                let next = move || drop(send_request(addr, "POST", &format!("/emulate/next/h{i}"), "", ""));
                tokio::task::spawn_blocking(next).await.unwrap();
                body.extend(answer.frame().await.expect("the stream continues").unwrap().into_data().unwrap());
            }
        }
    });
    wait_until("no lease is left", || router.in_flight() == 0);
}

/// Returns an HTTP/2 frame.
fn encode_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

#[test]
fn rapid_resets_end_the_http2_connection() {
    let authority = CertificateAuthority::new("rapid");
    let pair = authority.issue_certificate("router", &["localhost"]);
    let emulated = start_replica(&["m"]);
    let router =
        TestRouter::start(&listener_config(&pair, &format!("replicas = [{:?}]", emulated.url()))).wait_until_ready();
    let mut stream = authority.connect(tls_addr(&router), "localhost", &["h2"]);
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    flood.extend(encode_frame(4, 0, 0, &[]));
    for i in 0..200 {
        // :method GET, :scheme https, :path /, :authority a; then CANCEL.
        flood.extend(encode_frame(1, 5, 2 * i + 1, &[0x82, 0x87, 0x84, 0x41, 1, b'a']));
        flood.extend(encode_frame(3, 0, 2 * i + 1, &8u32.to_be_bytes()));
    }
    stream.write_all(&flood).unwrap();
    let mut came = Vec::new();
    // The connection may end abruptly, and then data after the last frame read is lost.
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
    assert_eq!(authority.connect_client(tls_addr(&router)).get_status("/livez"), 200, "other clients are served");
}

impl crate::harness::client::TestClient<crate::harness::tls::TlsClientStream> {
    fn get_status(&mut self, path: &str) -> u16 {
        self.send(build_request("GET", path, "", ""));
        self.read_response().status
    }
}

#[test]
fn client_without_handshake_is_closed_by_the_header_timeout() {
    let authority = CertificateAuthority::new("silent");
    let pair = authority.issue_certificate("router", &["localhost"]);
    let emulated = start_replica(&["m"]);
    let errors = authority.file_path("silent.log");
    let text = listener_config(&pair, &format!("replicas = [{:?}]", emulated.url()));
    let text = format!("{text}[timeouts]\nclient_header = '300ms'\n[log]\nerror = {errors:?}\n");
    let router = TestRouter::start(&text).wait_until_ready();
    let mut silent = crate::harness::client::TestClient::connect(tls_addr(&router));
    let mut plain = crate::harness::client::TestClient::connect(tls_addr(&router));
    plain.send(build_request("GET", "/livez", "", ""));
    assert_eq!(authority.connect_client(tls_addr(&router)).get_status("/livez"), 200, "other clients are not delayed");
    assert!(silent.wait_for_close(), "a silent client is closed");
    wait_for_log(&errors, "failed: not finished within 300ms (`timeouts.client_header`)");
    wait_for_log(&errors, "TLS handshake with 127.0.0.1 failed: received corrupt message of type InvalidContentType");
    assert_eq!(router.sum_metric("tokenweir_tls_handshakes_failed_total", &[]), 2.0);
    let mut idle = authority.connect_client(tls_addr(&router));
    assert!(idle.wait_for_close(), "the head timeout holds after a handshake");
}

#[test]
fn tls_upstream_connections_are_reused() {
    let authority = CertificateAuthority::new("replica");
    let emulated = start_replica(&["m"]);
    let front = TlsTerminator::start(&authority.issue_certificate("replica", &["127.0.0.1"]), emulated.addr());
    let router = TestRouter::start(&format!(
        "workers = 1\nengine_metrics = \"1h\"\ntls_ca = {:?}\nreplicas = [{:?}]",
        authority.ca_path(),
        front.url("127.0.0.1")
    ));
    let router = router.wait_until_ready();
    wait_until("the engine's metrics are scraped", || router.sum_metric("tokenweir_engine_kv_tokens", &[]) > 0.0);
    for i in 0..5 {
        let reply = router.post(CHAT_PATH, chat_body("m", 5, i % 2 == 0));
        assert!(reply.status == 200 && reply.complete, "{}", reply.text());
    }
    // One connection for the list of models, one for the engine's metrics, one for the five requests.
    assert_eq!(front.handshakes.load(Ordering::Relaxed), 3);
    let state = send_request(router.admin_addr, "GET", "/pools", "", "").json()[0]["replicas"][0]["url"].clone();
    assert_eq!(state, front.url("127.0.0.1"));
}

#[test]
fn unclean_close_of_an_idle_tls_connection_is_no_failure() {
    let authority = CertificateAuthority::new("cut");
    let request_count = AtomicU32::new(0);
    let scripted = ScriptedReplica::start(&["m"], move |received, to| {
        request_count.fetch_add(1, Ordering::Relaxed) != 1 && respond_ok(received, to)
    });
    let front = TlsTerminator::start(&authority.issue_certificate("replica", &["localhost"]), scripted.addr);
    let text = format!("workers = 1\ntls_ca = {:?}\nreplicas = [{:?}]", authority.ca_path(), front.url("localhost"));
    let router = TestRouter::start(&text).wait_until_ready();
    for _ in 0..2 {
        assert_eq!(router.post(CHAT_PATH, chat_body("m", 2, false)).status, 200);
    }
    assert_eq!(scripted.received_requests().len(), 3, "the second request is re-sent once");
    assert_eq!(router.sum_metric("tokenweir_attempts_total", &["failed"]), 0.0);
    assert_eq!(router.sum_metric("tokenweir_attempts_total", &["completed"]), 2.0);
}

#[test]
fn unverified_replica_gets_no_request_and_is_logged() {
    let (authority, stranger) = (CertificateAuthority::new("proof"), CertificateAuthority::new("stranger"));
    let (scripted, plain) = (ScriptedReplica::start(&["m"], respond_ok), start_replica(&["m"]));
    let front = |authority: &CertificateAuthority, name| {
        TlsTerminator::start(&authority.issue_certificate(name, &[name]), scripted.addr)
    };
    let (named, strange) = (front(&authority, "replicas.test"), front(&stranger, "localhost"));
    let ca = format!("tls_ca = {:?}\n", authority.ca_path());
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
        let errors = authority.file_path(&format!("{test}.log"));
        let router =
            TestRouter::start(&format!("{tls}paths = 'any'\nreplicas = [{url:?}]\n[log]\nerror = {errors:?}\n"));
        let reply = router.post(CHAT_PATH, chat_body("m", 2, false));
        assert_eq!((reply.status, reply.openai_error()["code"].as_str()), (503, Some("no_replica")), "{test}");
        assert!(!reply.text().contains("certificate"), "clients see no certificate details");
        wait_for_log(&errors, why);
        wait_for_log(&errors, "failed at connect");
    }
    let verified = format!("{ca}tls_name = 'replicas.test'\nreplicas = [{:?}]", named.url("127.0.0.1"));
    let blind = format!("tls_verify = false\nreplicas = [{:?}]", strange.url("127.0.0.1"));
    for text in [verified, blind] {
        let reply = TestRouter::start(&text).wait_until_ready().post(CHAT_PATH, chat_body("m", 2, false));
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    assert_eq!(scripted.received_requests().len(), 2, "the other replicas received nothing");
}

#[test]
fn self_signed_certificate_is_trusted_unless_it_is_a_ca() {
    let authority = CertificateAuthority::new("own");
    let emulated = start_replica(&["m"]);
    let errors = authority.file_path("own.log");
    for is_ca in [false, true] {
        let pair = authority.issue_self_signed(&format!("own-{is_ca}"), "localhost", is_ca);
        let front = TlsTerminator::start(&pair, emulated.addr());
        let router = TestRouter::start(&format!(
            "paths = 'any'\ntls_ca = {:?}\nreplicas = [{:?}]\n[log]\nerror = {errors:?}\n",
            pair.chain_path,
            front.url("localhost")
        ));
        assert_eq!(router.post(CHAT_PATH, chat_body("m", 2, false)).status, if is_ca { 503 } else { 200 });
    }
    wait_for_log(&errors, "its certificate is an issuer's own: make one for the server");
}

#[test]
fn replica_without_handshake_fails_at_the_connect_timeout() {
    let authority = CertificateAuthority::new("mute");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = ScriptedReplica::start(&["m"], respond_ok);
    let errors = authority.file_path("mute.log");
    let router = TestRouter::start(&format!(
        "policy = 'round_robin'\npaths = 'any'\ntls_verify = false\nreplicas = ['https://{}', {:?}]\n\
         [timeouts]\nconnect = '200ms'\n[log]\nerror = {errors:?}\n",
        silent.local_addr().unwrap(),
        other.url()
    ));
    let reply = router.post(CHAT_PATH, chat_body("m", 2, false));
    assert_eq!((reply.status, reply.header("x-upstream")), (200, Some(other.addr.to_string().as_str())));
    wait_for_log(&errors, "failed at connect: connection failed: timed out after 200ms");
}

#[test]
fn replica_added_by_the_admin_api_is_verified() {
    let authority = CertificateAuthority::new("added");
    let (plain, behind) = (start_replica(&["m"]), start_replica(&["m"]));
    let front = TlsTerminator::start(&authority.issue_certificate("replica", &["localhost"]), behind.addr());
    let text = format!("tls_ca = {:?}\npolicy = 'round_robin'\nreplicas = [{:?}]", authority.ca_path(), plain.url());
    let router = TestRouter::start(&text).wait_until_ready();
    let words = format!("{{\"replica\":{:?}}}", front.url("localhost"));
    let added =
        send_request(router.admin_addr, "POST", "/pools/default/replicas", "content-type: application/json\r\n", words);
    assert_eq!(added.status, 200, "{}", added.text());
    let states = || send_request(router.admin_addr, "GET", "/pools", "", "").json();
    wait_until("the second replica is admitted", || states()[0]["replicas"][1]["state"] == "admitted");
    let used: Vec<_> = (0..2)
        .map(|_| router.post(CHAT_PATH, chat_body("m", 1, false)).header("x-upstream").unwrap().to_owned())
        .collect();
    assert!(used.contains(&format!("localhost:{}", front.addr.port())), "{used:?}");
}

#[test]
fn reload_to_tls_replicas_loses_no_request() {
    let authority = CertificateAuthority::new("brought");
    let (plain, behind) = (start_replica(&["m"]), start_replica(&["m"]));
    let front = TlsTerminator::start(&authority.issue_certificate("replica", &["localhost"]), behind.addr());
    let before = format!("replicas = [{:?}]", plain.url());
    let after = format!("tls_ca = {:?}\nreplicas = [{:?}]", authority.ca_path(), front.url("localhost"));
    let (router, file) = start_reloadable_router(&before);
    for text in [&after, &before, &after] {
        text.clone_into(&mut file.lock().unwrap());
        let reply = send_request(router.admin_addr, "POST", "/reload", "", "");
        assert_eq!(reply.status, 200, "{}", reply.text());
        let reply = router.post(CHAT_PATH, chat_body("m", 1, false));
        let secure = reply.header("x-upstream").is_some_and(|name| name.starts_with("localhost"));
        assert_eq!((reply.status, secure), (200, text == &after), "{}", reply.text());
    }
    *file.lock().unwrap() = after.replace("ca.pem", "none.pem");
    let reply = send_request(router.admin_addr, "POST", "/reload", "", "");
    let message = reply.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(reply.status == 400 && message.contains("router.toml:1:10: cannot use"), "{message}");
    assert_eq!(router.post(CHAT_PATH, chat_body("m", 1, false)).status, 200);
}
