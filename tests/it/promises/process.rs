//! The program as a process.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::control::{self, ControlNginx};
use crate::harness::{send_request, wait_until};

/// A serving process; killed on drop.
pub struct ServerProcess {
    pub data_addr: SocketAddr,
    /// Its address for HTTP/2 without TLS.
    pub h2_addr: SocketAddr,
    backend: ProcessBackend,
}

enum ProcessBackend {
    Router { child: Child, admin_addr: SocketAddr, folder: PathBuf },
    Nginx(ControlNginx),
}

/// Creates an empty folder for one test.
pub fn create_test_dir(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("promises-{name}-{}", std::process::id()));
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Returns a command of the program; it uses free ports unless its arguments or `env` name others.
pub fn tokenweir_command(args: &[&str]) -> Command {
    if control::is_enabled() {
        control::panic_beyond_nginx("the command line");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokenweir"));
    command.args(args).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("TOKENWEIR__LISTEN", "127.0.0.1:0").env("TOKENWEIR__ADMIN", "127.0.0.1:0");
    command.env("TOKENWEIR__WORKERS", "2");
    command
}

impl ServerProcess {
    /// Starts the program with this configuration and waits until it is ready. Its logs are in the same folder.
    pub fn start(name: &str, text: &str, files: u32) -> Self {
        if control::is_enabled() {
            let nginx = ControlNginx::start(text);
            return Self { data_addr: nginx.addr, h2_addr: nginx.h2_addr, backend: ProcessBackend::Nginx(nginx) };
        }
        let folder = create_test_dir(name);
        let file = folder.join("router.toml");
        fs::write(&file, text).unwrap();
        let mut command = Command::new("sh");
        let run = format!("ulimit -n {files}; exec {:?} serve -c {file:?}", env!("CARGO_BIN_EXE_tokenweir"));
        command
            .args(["-c", &run])
            .envs(tokenweir_command(&[]).get_envs().filter_map(|(key, value)| Some((key, value?))));
        if text.contains("listen =") {
            command.env_remove("TOKENWEIR__LISTEN");
        }
        command.env("TOKENWEIR__LOG__ACCESS", folder.join("access.log"));
        command.env("TOKENWEIR__LOG__ERROR", folder.join("error.log"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut line, mut stderr) = (String::new(), BufReader::new(child.stderr.take().unwrap()));
        while !line.contains(" at ") {
            line.clear();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "the process ended at once");
        }
        // Later output must not fill the pipe.
        std::thread::spawn(move || drop(stderr.read_to_end(&mut Vec::new())));
        let addrs: Vec<SocketAddr> = line.split([' ', ',', '/', '\n']).filter_map(|word| word.parse().ok()).collect();
        let [data, admin] = [addrs[0], addrs[1]];
        wait_until("the router is ready", || send_request(admin, "GET", "/readyz", "", "").status == 200);
        Self { data_addr: data, h2_addr: data, backend: ProcessBackend::Router { child, admin_addr: admin, folder } }
    }

    /// Returns the admin listener's address.
    pub fn admin_addr(&self) -> SocketAddr {
        match &self.backend {
            ProcessBackend::Router { admin_addr: admin, .. } => *admin,
            ProcessBackend::Nginx(_) => control::panic_beyond_nginx("an admin listener"),
        }
    }

    /// Replaces its configuration file.
    pub fn write_config(&self, text: &str) {
        match &self.backend {
            ProcessBackend::Router { folder, .. } => fs::write(folder.join("router.toml"), text).unwrap(),
            ProcessBackend::Nginx(nginx) => nginx.write_config(text),
        }
    }

    pub fn send_signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child().id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    const fn child(&self) -> &Child {
        match &self.backend {
            ProcessBackend::Router { child, .. } | ProcessBackend::Nginx(ControlNginx { child, .. }) => child,
        }
    }

    const fn child_mut(&mut self) -> &mut Child {
        match &mut self.backend {
            ProcessBackend::Router { child, .. } | ProcessBackend::Nginx(ControlNginx { child, .. }) => child,
        }
    }

    pub fn has_exited(&mut self) -> bool {
        self.child_mut().try_wait().unwrap().is_some()
    }

    pub fn wait_for_exit(&mut self) -> Option<i32> {
        wait_until("the process has ended", || self.has_exited());
        self.child_mut().wait().unwrap().code()
    }

    /// Reads its `access.log` or `error.log`.
    pub fn read_log(&self, name: &str) -> String {
        match &self.backend {
            ProcessBackend::Router { folder, .. } => fs::read_to_string(folder.join(name)).unwrap_or_default(),
            ProcessBackend::Nginx(_) if name == "error.log" => control::panic_beyond_nginx("the text of the error log"),
            ProcessBackend::Nginx(nginx) => nginx.read_log(name),
        }
    }

    /// Returns the process ids that serve.
    fn pids(&self) -> Vec<u32> {
        match &self.backend {
            ProcessBackend::Router { child, .. } => vec![child.id()],
            ProcessBackend::Nginx(nginx) => nginx.worker_pids(),
        }
    }

    /// Returns the sum of a metric's series that contain `label`.
    pub fn sum_metric(&self, name: &str, label: &str) -> f64 {
        if matches!(self.backend, ProcessBackend::Nginx(_)) {
            control::panic_beyond_nginx("metrics");
        }
        let page = send_request(self.admin_addr(), "GET", "/metrics", "", "").text();
        let series = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        let lines = page.lines().filter(series).filter(|line| line.contains(label));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Returns a number from `/proc/PID/status`; memory is in KiB.
    pub fn read_proc_status(&self, field: &str) -> u64 {
        let number = |id: u32| {
            let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
            let line = status.lines().find(|line| line.starts_with(field)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        self.pids().into_iter().map(number).sum()
    }

    /// Returns the number of its open descriptors.
    pub fn open_file_count(&self) -> usize {
        self.pids().into_iter().map(|id| fs::read_dir(format!("/proc/{id}/fd")).unwrap().count()).sum()
    }

    /// Returns the CPU time so far in clock ticks of 10 ms.
    pub fn cpu_ticks(&self) -> u64 {
        let ticks = |id: u32| {
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        };
        self.pids().into_iter().map(ticks).sum()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // nginx stops on its own drop.
        if let ProcessBackend::Router { child, folder, .. } = &mut self.backend {
            drop(child.kill());
            drop(child.wait());
            drop(fs::remove_dir_all(folder));
        }
    }
}
