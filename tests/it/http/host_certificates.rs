//! Certificates of hosts: which one a client gets, resumption, reload. The choices are those of nginx 1.22.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};

use crate::harness::client::{TestClient, build_request};
use crate::harness::tls::{
    CertificateAuthority, CertificateFiles, TlsClientStream, accept_any_certificate, certificate_der, peer_certificate,
    tls_handshake,
};
use crate::harness::{TestRouter, send_request, start_reloadable_router, start_replica, unused_addr};

/// One host of a configuration: its names, addresses and certificate.
type HostRow<'a> = (&'a str, &'a [String], Option<&'a CertificateFiles>);

/// Returns a configuration of these hosts, each of which answers with its names; `top` is the certificate in `[tls]`.
fn host_config(hosts: &[HostRow<'_>], top: Option<&CertificateFiles>, replica: &str) -> String {
    let files = |pair: &CertificateFiles| format!("certificate = {:?}\nkey = {:?}\n", pair.chain_path, pair.key_path);
    let mut text = format!("listen = '127.0.0.1:0'\n[[pool]]\nname = 'p'\nreplicas = [{replica:?}]\n");
    for (names, listens, certificate) in hosts {
        let certificate = certificate.map(files).unwrap_or_default();
        let _ = write!(
            text,
            "[[host]]\nname = [{names}]\nlisten = {listens:?}\n{certificate}[[host.route]]\npath = '/'\n\
             answer = {{ status = 200, text = \"{names}\" }}\n"
        );
    }
    text + &top.map(|pair| format!("[tls]\n{}", files(pair))).unwrap_or_default()
}

/// Returns a client that accepts every certificate, and sends no server name if it is not `sends_name`.
fn any_client(authority: &CertificateAuthority, sends_name: bool) -> ClientConfig {
    let mut config = authority.client_config(&[&TLS13], &[]);
    config.dangerous().set_certificate_verifier(accept_any_certificate());
    config.enable_sni = sends_name;
    config
}

fn connect(client: &Arc<ClientConfig>, addr: SocketAddr, name: &str) -> TlsClientStream {
    let socket = std::net::TcpStream::connect(addr).unwrap();
    socket.set_read_timeout(Some(crate::harness::TEST_TIMEOUT)).unwrap();
    let name = name.to_owned().try_into().unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(client.clone(), name).unwrap(), socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).unwrap();
    }
    stream
}

#[test]
fn certificate_is_that_of_the_host_which_sni_selects_at_the_address() {
    let authority = CertificateAuthority::new("host-certificates");
    let [a, a2, b, wild, default] =
        ["a", "a2", "b", "wild", "default"].map(|name| authority.issue_certificate(name, &[&format!("{name}.cert")]));
    let replica = start_replica(&["m"]);
    let [one, two, three] = [unused_addr(), unused_addr(), unused_addr()];
    let ssl = |addr: SocketAddr| vec![format!("{addr} ssl")];
    let wildcard = vec![format!("*:{} ssl", three.port())];
    let default_listen = vec![format!("{one} ssl default_server")];
    let text = host_config(
        &[
            ("'first.test'", &ssl(one), Some(&a)),
            ("'d.test'", &default_listen, Some(&default)),
            ("'*.w.test'", &ssl(one), Some(&wild)),
            ("'plain.test'", &ssl(one), None),
            ("'a.test', ''", &ssl(one), Some(&a)),
            ("'bare.test'", &ssl(two), None),
            ("'a.test'", &ssl(two), Some(&a2)),
            ("'b.test'", &ssl(two), Some(&b)),
            ("'a.test'", &wildcard, Some(&a)),
            ("'z.test'", &ssl(three), Some(&b)),
        ],
        None,
        &replica.url(),
    );
    let router = TestRouter::start(&text);
    for (addr, name, wanted) in [
        (one, Some("a.test"), &a),
        (one, Some("first.test"), &a),
        (one, Some("A.Test"), &a),
        (one, Some("x.w.test"), &wild),
        (one, Some("w.test"), &default),
        (one, Some("plain.test"), &default),
        (one, Some("other.test"), &default),
        (one, None, &default),
        (two, Some("a.test"), &a2),
        (two, Some("b.test"), &b),
        (two, Some("bare.test"), &a2),
        (two, Some("other.test"), &a2),
        (two, None, &a2),
        (three, Some("a.test"), &b),
        (three, Some("z.test"), &b),
    ] {
        let stream = tls_handshake(any_client(&authority, name.is_some()), addr, name.unwrap_or("a.test")).unwrap();
        assert_eq!(peer_certificate(&stream), certificate_der(wanted), "{addr} {name:?}");
    }
    // The request's own `Host` selects the host, as in nginx.
    let mut client = TestClient::from_stream(tls_handshake(any_client(&authority, true), one, "a.test").unwrap());
    for (host, wanted) in [("a.test", "'a.test', ''"), ("x.w.test", "'*.w.test'"), ("other.test", "'d.test'")] {
        client.send(build_request("GET", "/", &format!("host: {host}\r\n"), ""));
        assert_eq!(client.read_response().text(), wanted);
    }
    drop(router);
}

#[test]
fn hosts_without_certificate_have_those_at_the_top() {
    let authority = CertificateAuthority::new("top-certificates");
    let [a, top] = ["a", "top"].map(|name| authority.issue_certificate(name, &[&format!("{name}.cert")]));
    let replica = start_replica(&["m"]);
    let addr = unused_addr();
    let (listen, default) = (vec![format!("{addr} ssl")], vec![format!("{addr} ssl default_server")]);
    let hosts: [HostRow<'_>; 2] = [("'a.test'", &default, Some(&a)), ("'plain.test'", &listen, None)];
    let router = TestRouter::start(&host_config(&hosts, Some(&top), &replica.url()));
    for (name, wanted) in [("a.test", &a), ("plain.test", &top), ("other.test", &a)] {
        let stream = tls_handshake(any_client(&authority, true), addr, name).unwrap();
        assert_eq!(peer_certificate(&stream), certificate_der(wanted), "{name}");
    }
    drop(router);
}

#[test]
fn host_at_the_addresses_of_all_hosts_has_its_certificate_too() {
    let authority = CertificateAuthority::new("everywhere");
    let [a, b] = ["a", "b"].map(|name| authority.issue_certificate(name, &[&format!("{name}.cert")]));
    let replica = start_replica(&["m"]);
    let addr = unused_addr();
    let hosts: [HostRow<'_>; 2] = [("'a.test'", &[], Some(&a)), ("'b.test'", &[], Some(&b))];
    let text = host_config(&hosts, None, &replica.url()).replace("listen = []\n", "");
    let text = text.replace("listen = '127.0.0.1:0'", &format!("listen = ['127.0.0.1:0', '{addr} ssl']"));
    let router = TestRouter::start(&text);
    for (name, wanted) in [("a.test", &a), ("b.test", &b), ("other.test", &a)] {
        let stream = tls_handshake(any_client(&authority, true), addr, name).unwrap();
        assert_eq!(peer_certificate(&stream), certificate_der(wanted), "{name}");
    }
    drop(router);
}

#[test]
fn session_is_resumed_at_its_address_and_not_at_another() {
    let authority = CertificateAuthority::new("tickets");
    let [a, a2] = ["a", "a2"].map(|name| authority.issue_certificate(name, &[&format!("{name}.cert")]));
    let replica = start_replica(&["m"]);
    let [one, two] = [unused_addr(), unused_addr()];
    let (at_one, at_two) = (vec![format!("{one} ssl")], vec![format!("{two} ssl")]);
    let hosts: [HostRow<'_>; 2] = [("'a.test'", &at_one, Some(&a)), ("'a.test'", &at_two, Some(&a2))];
    let router = TestRouter::start(&host_config(&hosts, None, &replica.url()));
    for version in [&TLS12, &TLS13] {
        let mut config = authority.client_config(&[version], &[]);
        config.dangerous().set_certificate_verifier(accept_any_certificate());
        let client = Arc::new(config);
        let served = |addr| {
            let mut client = TestClient::from_stream(connect(&client, addr, "a.test"));
            client.send(build_request("GET", "/", "host: a.test\r\nconnection: close\r\n", ""));
            assert_eq!(client.read_response().status, 200);
            // Reading to the end takes the tickets of TLS 1.3 as well.
            assert!(client.wait_for_close());
            let stream = client.into_stream();
            (stream.conn.handshake_kind().unwrap(), peer_certificate(&stream))
        };
        assert_eq!(served(one), (HandshakeKind::Full, certificate_der(&a)), "{version:?}");
        assert_eq!(served(one), (HandshakeKind::Resumed, certificate_der(&a)), "{version:?}");
        assert_eq!(served(two), (HandshakeKind::Full, certificate_der(&a2)), "{version:?}: another host's ticket");
        assert_eq!(served(two), (HandshakeKind::Resumed, certificate_der(&a2)), "{version:?}");
    }
    drop(router);
}

#[test]
fn reload_reads_certificates_of_hosts_and_explains_bad_ones() {
    let authority = CertificateAuthority::new("host-reload");
    let pair = authority.issue_certificate("a", &["a.cert"]);
    let replica = start_replica(&["m"]);
    let addr = unused_addr();
    let listen = vec![format!("{addr} ssl")];
    let (router, _file) =
        start_reloadable_router(&host_config(&[("'a.test'", &listen, Some(&pair))], None, &replica.url()));
    let client = Arc::new(any_client(&authority, true));
    let seen = || peer_certificate(&connect(&client, addr, "a.test"));
    let first = certificate_der(&pair);
    assert_eq!(seen(), first);
    std::fs::write(&pair.key_path, "nothing").unwrap();
    let refused = send_request(router.admin_addr, "POST", "/reload", "", "");
    let text = refused.text();
    let place = text.contains("router.toml:9:7") && text.contains("there is no private key in it");
    assert!(refused.status == 400 && place, "{text}");
    assert_eq!(seen(), first, "the old certificate stays");
    let second = certificate_der(&authority.issue_certificate("a", &["a.cert"]));
    assert_eq!(send_request(router.admin_addr, "POST", "/reload", "", "").status, 200);
    assert_ne!(first, second);
    assert_eq!(seen(), second, "a ticket of the old certificate resumes no session");
}
