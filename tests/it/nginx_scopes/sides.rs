//! nginx and the router on the same configuration, one after the other at the same addresses.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokenweir::config::{self, Diagnostics};
use tokenweir::import::{self, ImportedConfig};
use tokenweir::server::Server;

use super::case::{CaseListener, CasePlaces, PreparedCase, ServerAddress, free_listener_port};
use super::client::{ClientResult, send_case_request};
use super::replicas::{AskedReplica, EchoReplicas, NUMBER_HEADER};
use super::requests::CaseRequest;
use crate::harness::dns::TestDnsServer;
use crate::harness::tls::{CertificateAuthority, certificate_der};
use crate::harness::wait_until;

/// Names of the certificates in `CERTS`: `a.pem` and `a.key`, valid for these.
const CERTIFICATES: [(&str, &[&str]); 3] =
    [("a", &["a.example", "127.0.0.1", "localhost"]), ("b", &["b.example", "*.b.example"]), ("c", &["c.example"])];

/// The outcome of a request on one side.
pub(crate) struct RequestOutcome {
    pub(crate) result: ClientResult,
    pub(crate) asked: Vec<AskedReplica>,
}

/// All outcomes of a case on one side.
pub(crate) struct CaseOutcome {
    pub(crate) requests: Vec<RequestOutcome>,
    /// The lines of each access log, by the file's name.
    pub(crate) log_lines: BTreeMap<String, Vec<String>>,
}

/// What all cases share.
pub(crate) struct ComparisonSetup {
    folder: PathBuf,
    replicas: EchoReplicas,
    authority: CertificateAuthority,
    certificates: Vec<(&'static str, Vec<u8>)>,
    dns: TestDnsServer,
}

impl ComparisonSetup {
    pub(crate) fn start(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        for part in ["replicas", "sockets", "logs"] {
            fs::create_dir_all(folder.join(part)).unwrap();
        }
        let authority = CertificateAuthority::new(name);
        let issue =
            |(file, names): (&'static str, &[&str])| (file, certificate_der(&authority.issue_certificate(file, names)));
        let certificates = CERTIFICATES.into_iter().map(issue).collect();
        let replicas = EchoReplicas::start(&folder.join("replicas"));
        let dns = TestDnsServer::start(60);
        for host in ["engine", "engine.example"] {
            dns.set_addresses(host, &["127.0.0.1"]);
        }
        Self { folder, replicas, authority, certificates, dns }
    }

    /// Returns the places that stand in a configuration.
    pub(crate) fn places(&self) -> CasePlaces {
        CasePlaces {
            replicas: self.replicas.addresses.clone(),
            replica_sockets: self.replicas.folder.clone(),
            listener_port: free_listener_port,
            sockets: self.folder.join("sockets"),
            certificates: self.authority.ca_path().parent().unwrap().to_owned(),
            logs: self.folder.join("logs"),
            resolver: self.dns.addr,
        }
    }

    /// Returns the name of a certificate's file.
    pub(crate) fn certificate_name(&self, der: &[u8]) -> &'static str {
        self.certificates.iter().find(|(_, known)| known == der).map_or("unknown", |(name, _)| name)
    }

    /// Imports a configuration.
    pub(crate) fn import(&self, case: &PreparedCase) -> Result<ImportedConfig, Diagnostics> {
        let file = self.folder.join("imported.conf");
        fs::write(&file, &case.text).unwrap();
        import::from_nginx_file(&file)
    }

    /// Returns nginx's error for a configuration.
    pub(crate) fn check_with_nginx(&self, case: &PreparedCase) -> Result<(), String> {
        let output = self.nginx_command(&case.text).arg("-t").output().unwrap();
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    /// Sends the requests to nginx.
    pub(crate) fn run_nginx(&self, case: &PreparedCase, requests: &[CaseRequest]) -> CaseOutcome {
        let child = self.nginx_command(&case.text).stdin(Stdio::null()).spawn().unwrap();
        let mut nginx = RunningNginx(child);
        wait_until("nginx listens", || {
            if let Some(status) = nginx.0.try_wait().unwrap() {
                let log = fs::read_to_string(self.folder.join("error.log")).unwrap_or_default();
                panic!("{}: nginx has ended with {status}: {log}\n{}", case.name, case.text);
            }
            case.listeners.iter().all(accepts_connections)
        });
        let outcome = self.send_requests(case, requests);
        // A line is written after the client has the response.
        std::thread::sleep(Duration::from_millis(20));
        drop(nginx);
        self.finish(case, outcome)
    }

    /// Sends the requests to the router with an imported configuration. Errors: it does not load, or does not start.
    pub(crate) fn run_router(
        &self,
        case: &PreparedCase,
        imported: &ImportedConfig,
        requests: &[CaseRequest],
    ) -> Result<CaseOutcome, String> {
        let env = [("ADMIN", "127.0.0.1:0"), ("LOG__ERROR", "off")];
        let env = env.map(|(key, value)| (format!("TOKENWEIR__{key}"), value.to_owned()));
        let loaded = config::load(&imported.toml, "router.toml", env).map_err(|report| report.to_string())?;
        let server = Server::start(loaded.settings).map_err(|error| format!("the router does not start: {error:?}"))?;
        // nginx resolves names when it is asked for them.
        wait_until("every pool has a replica", || {
            server.fleet().pools().iter().all(|pool| pool.replicas().count() > 0)
        });
        let outcome = self.send_requests(case, requests);
        drop(server);
        Ok(self.finish(case, outcome))
    }

    fn nginx_command(&self, text: &str) -> Command {
        let dir = self.folder.display();
        let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temp: String = kinds.iter().map(|kind| format!(" {kind}_temp_path {dir}/{kind};")).collect();
        let file = self.folder.join("nginx.conf");
        fs::write(&file, text.replacen("http {", &format!("http {{{temp}"), 1)).unwrap();
        let error_log = self.folder.join("error.log");
        let _ = fs::remove_file(&error_log);
        let own = format!("daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log;");
        let mut command = Command::new(find_nginx());
        command.arg("-p").arg(&self.folder).arg("-e").arg(error_log).arg("-c").arg(file).arg("-g").arg(own);
        command
    }

    fn send_requests(&self, case: &PreparedCase, requests: &[CaseRequest]) -> Vec<RequestOutcome> {
        self.replicas.take_asked();
        let authority = case.has_tls().then_some(&self.authority);
        let mut outcomes = Vec::new();
        for (number, request) in requests.iter().enumerate() {
            let result = send_case_request(&case.listeners[request.listener], request, number, authority);
            outcomes.push(RequestOutcome { result, asked: Vec::new() });
        }
        for asked in self.replicas.take_asked() {
            let number: usize = asked.request.header(NUMBER_HEADER).unwrap().parse().unwrap();
            outcomes[number].asked.push(asked);
        }
        outcomes
    }

    /// Reads the logs and removes what the side has left; its process or threads have ended.
    fn finish(&self, case: &PreparedCase, requests: Vec<RequestOutcome>) -> CaseOutcome {
        for listener in &case.listeners {
            if let ServerAddress::Unix(path) = &listener.address {
                let _ = fs::remove_file(path);
            }
        }
        let mut log_lines = BTreeMap::new();
        for entry in fs::read_dir(self.folder.join("logs")).unwrap().flatten() {
            let text = fs::read(entry.path()).unwrap();
            let lines = String::from_utf8_lossy(&text).lines().map(String::from).collect();
            log_lines.insert(entry.file_name().to_string_lossy().into_owned(), lines);
            fs::remove_file(entry.path()).unwrap();
        }
        CaseOutcome { requests, log_lines }
    }
}

impl Drop for ComparisonSetup {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// An nginx process, stopped on drop.
struct RunningNginx(Child);

impl Drop for RunningNginx {
    fn drop(&mut self) {
        // A process that failed to start has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn find_nginx() -> &'static str {
    if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" }
}

fn accepts_connections(listener: &CaseListener) -> bool {
    match &listener.address {
        ServerAddress::Tcp(addr) => TcpStream::connect(addr).is_ok(),
        ServerAddress::Unix(path) => UnixStream::connect(path).is_ok(),
    }
}
