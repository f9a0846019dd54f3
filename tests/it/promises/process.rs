//! The program as a process, as its operator has it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::control::{self, Nginx};
use crate::harness::{ask, wait_until};

/// A process that serves; killed when dropped.
pub struct Process {
    pub data: SocketAddr,
    /// Where it speaks HTTP/2 without TLS.
    pub h2: SocketAddr,
    served: Served,
}

enum Served {
    Router { child: Child, admin: SocketAddr, folder: PathBuf },
    Nginx(Nginx),
}

/// A folder of its own, emptied.
pub fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("promises-{name}-{}", std::process::id()));
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The program with ports of its own choice, unless its arguments or `env` say otherwise.
pub fn program(args: &[&str]) -> Command {
    if control::is_on() {
        control::beyond("our command line");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokenweir"));
    command.args(args).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("TOKENWEIR__LISTEN", "127.0.0.1:0").env("TOKENWEIR__ADMIN", "127.0.0.1:0");
    command.env("TOKENWEIR__WORKERS", "2");
    command
}

impl Process {
    /// Serves a file of this text and waits until it is ready; its logs are beside the file.
    pub fn start(name: &str, text: &str, files: u32) -> Self {
        if control::is_on() {
            let nginx = Nginx::start(text);
            return Self { data: nginx.addr, h2: nginx.h2, served: Served::Nginx(nginx) };
        }
        let folder = folder(name);
        let file = folder.join("router.toml");
        fs::write(&file, text).unwrap();
        let mut command = Command::new("sh");
        let run = format!("ulimit -n {files}; exec {:?} serve -c {file:?}", env!("CARGO_BIN_EXE_tokenweir"));
        command.args(["-c", &run]).envs(program(&[]).get_envs().filter_map(|(key, value)| Some((key, value?))));
        if text.contains("listen =") {
            command.env_remove("TOKENWEIR__LISTEN");
        }
        command.env("TOKENWEIR__LOG__ACCESS", folder.join("access.log"));
        command.env("TOKENWEIR__LOG__ERROR", folder.join("error.log"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut said, mut stderr) = (String::new(), BufReader::new(child.stderr.take().unwrap()));
        while !said.contains(" at ") {
            said.clear();
            assert!(stderr.read_line(&mut said).unwrap() > 0, "it ended at once");
        }
        // What comes later must not fill the pipe.
        std::thread::spawn(move || drop(stderr.read_to_end(&mut Vec::new())));
        let addrs: Vec<SocketAddr> = said.split([' ', ',', '/', '\n']).filter_map(|word| word.parse().ok()).collect();
        let [data, admin] = [addrs[0], addrs[1]];
        wait_until("it is ready", || ask(admin, "GET", "/readyz", "", "").status == 200);
        Self { data, h2: data, served: Served::Router { child, admin, folder } }
    }

    /// Where it is administered.
    pub fn admin(&self) -> SocketAddr {
        match &self.served {
            Served::Router { admin, .. } => *admin,
            Served::Nginx(_) => control::beyond("an admin listener"),
        }
    }

    /// Puts another text in its file.
    pub fn write(&self, text: &str) {
        match &self.served {
            Served::Router { folder, .. } => fs::write(folder.join("router.toml"), text).unwrap(),
            Served::Nginx(nginx) => nginx.write(text),
        }
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child().id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    const fn child(&self) -> &Child {
        match &self.served {
            Served::Router { child, .. } | Served::Nginx(Nginx { child, .. }) => child,
        }
    }

    const fn child_mut(&mut self) -> &mut Child {
        match &mut self.served {
            Served::Router { child, .. } | Served::Nginx(Nginx { child, .. }) => child,
        }
    }

    pub fn ended(&mut self) -> bool {
        self.child_mut().try_wait().unwrap().is_some()
    }

    pub fn code(&mut self) -> Option<i32> {
        wait_until("the process has ended", || self.ended());
        self.child_mut().wait().unwrap().code()
    }

    /// What it has written to `access.log` or `error.log`.
    pub fn log(&self, name: &str) -> String {
        match &self.served {
            Served::Router { folder, .. } => fs::read_to_string(folder.join(name)).unwrap_or_default(),
            Served::Nginx(_) if name == "error.log" => control::beyond("our words in the error log"),
            Served::Nginx(nginx) => nginx.log(name),
        }
    }

    /// The processes that serve.
    fn ids(&self) -> Vec<u32> {
        match &self.served {
            Served::Router { child, .. } => vec![child.id()],
            Served::Nginx(nginx) => nginx.workers(),
        }
    }

    /// The sum of a metric's series that contain `label`.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        if matches!(self.served, Served::Nginx(_)) {
            control::beyond("metrics");
        }
        let page = ask(self.admin(), "GET", "/metrics", "", "").text();
        let series = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        let lines = page.lines().filter(series).filter(|line| line.contains(label));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// A number of `/proc`'s status, in KiB where it is one of memory.
    pub fn status(&self, field: &str) -> u64 {
        let number = |id: u32| {
            let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
            let line = status.lines().find(|line| line.starts_with(field)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        self.ids().into_iter().map(number).sum()
    }

    /// How many descriptors it has open.
    pub fn files(&self) -> usize {
        self.ids().into_iter().map(|id| fs::read_dir(format!("/proc/{id}/fd")).unwrap().count()).sum()
    }

    /// Clock ticks of CPU so far, 10 ms each.
    pub fn ticks(&self) -> u64 {
        let ticks = |id: u32| {
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        };
        self.ids().into_iter().map(ticks).sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // nginx sees to that itself.
        if let Served::Router { child, folder, .. } = &mut self.served {
            drop(child.kill());
            drop(child.wait());
            drop(fs::remove_dir_all(folder));
        }
    }
}
