//! The program as a process, as its operator has it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::harness::{ask, wait_until};

/// A process that serves; killed when dropped.
pub struct Process {
    child: Child,
    pub data: SocketAddr,
    pub admin: SocketAddr,
    folder: PathBuf,
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
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokenweir"));
    command.args(args).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("TOKENWEIR__LISTEN", "127.0.0.1:0").env("TOKENWEIR__ADMIN", "127.0.0.1:0");
    command.env("TOKENWEIR__WORKERS", "2");
    command
}

impl Process {
    /// Serves a file of this text and waits until it is ready; its logs are beside the file.
    pub fn start(name: &str, text: &str, files: u32) -> Self {
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
        let process = Self { child, data: addrs[0], admin: addrs[1], folder };
        wait_until("it is ready", || ask(process.admin, "GET", "/readyz", "", "").status == 200);
        process
    }

    /// Puts another text in its file.
    pub fn write(&self, text: &str) {
        fs::write(self.folder.join("router.toml"), text).unwrap();
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub fn ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn code(&mut self) -> Option<i32> {
        wait_until("the process has ended", || self.ended());
        self.child.wait().unwrap().code()
    }

    /// What it has written to `access.log` or `error.log`.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap_or_default()
    }

    /// The sum of a metric's series that contain `label`.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let page = ask(self.admin, "GET", "/metrics", "", "").text();
        let series = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        let lines = page.lines().filter(series).filter(|line| line.contains(label));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// A number of `/proc`'s status, in KiB where it is one of memory.
    pub fn status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// How many descriptors it has open.
    pub fn files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Clock ticks of CPU so far, 10 ms each.
    pub fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}
