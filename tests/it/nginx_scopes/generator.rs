//! Random configurations: nested servers and locations with the words that the import carries.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use tokenweir::balance::SeededRng;

const NAMES: [&str; 8] =
    ["a.example", "b.example", "*.b.example", "x.b.example", ".c.example", "d.*", "www.d.example", "sub.a.example"];
const LISTENS: [&str; 4] = ["127.0.0.1:8080", "127.0.0.1:8081", "8080", "unix:/tmp/tokenweir-8082.sock"];
const PATHS: [&str; 10] =
    ["/", "/v1/", "/v1", "/v1/chat/", "/v1/models", "/api/", "/api", "/admin/", "/a/b/", "/metrics"];
const PATTERNS: [&str; 6] = ["^/v[12]/", "/models$", "\\.key$", "^/(admin|metrics)", "/chat/", "^/a/[a-z]+/x"];
/// Those of inner locations, which name the outer path.
const INNER_PATTERNS: [&str; 4] = ["^/v1/[a-z]+$", "^/api/(x|y)", "^/v1/chat/[a-z]*", "^/admin/"];

/// Writes one configuration.
pub(crate) struct ConfGenerator {
    dice: SeededRng,
    text: String,
    depth: usize,
    /// The heads of the server's locations: inner ones of an outer one's path are never reached.
    used_heads: BTreeSet<String>,
}

impl ConfGenerator {
    /// Returns the configuration of a seed, with the ports of cases.
    pub(crate) fn generate(seed: u64) -> String {
        let mut generator =
            Self { dice: SeededRng::from_seed(seed), text: String::new(), depth: 0, used_heads: BTreeSet::new() };
        generator.write_http();
        generator.text
    }

    fn below(&mut self, bound: usize) -> usize {
        self.dice.next_below(bound as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a>(&mut self, values: &[&'a str]) -> &'a str {
        values[self.below(values.len())]
    }

    fn line(&mut self, text: &str) {
        let _ = writeln!(self.text, "{}{text}", "    ".repeat(self.depth));
    }

    fn open(&mut self, text: &str) {
        self.line(&format!("{text} {{"));
        self.depth += 1;
    }

    fn close(&mut self) {
        self.depth -= 1;
        self.line("}");
    }

    fn write_http(&mut self) {
        self.line("# paths: /v1/chat/completions /v1/models /v2/x /admin/x.key /a/b/x");
        self.line("# suggested: 50");
        self.line("events {}");
        self.open("http");
        for (name, servers) in [("one", [9001, 9002]), ("two", [9003, 9004])] {
            self.open(&format!("upstream {name}"));
            match self.below(4) {
                0 => self.line("hash $request_uri;"),
                1 => self.line("ip_hash;"),
                _ => {}
            }
            for port in servers {
                let weight = self.below(3) + 1;
                self.line(&format!("server 127.0.0.1:{port} weight={weight};"));
            }
            self.close();
        }
        self.write_inherited(3);
        let mut defaults = BTreeSet::new();
        for _ in 0..=self.below(4) {
            self.write_server(&mut defaults);
        }
        self.close();
    }

    fn write_server(&mut self, defaults: &mut BTreeSet<&'static str>) {
        self.open("server");
        let mut listens = BTreeSet::new();
        for _ in 0..=self.below(2) {
            listens.insert(self.pick(&LISTENS));
        }
        for listen in listens {
            let is_default = self.one_in(4) && defaults.insert(listen);
            self.line(&format!("listen {listen}{};", if is_default { " default_server" } else { "" }));
        }
        if !self.one_in(4) {
            let mut names = BTreeSet::new();
            for _ in 0..=self.below(2) {
                names.insert(self.pick(&NAMES));
            }
            let names: Vec<&str> = names.into_iter().collect();
            self.line(&format!("server_name {};", names.join(" ")));
        }
        if self.one_in(4) {
            self.line("set_real_ip_from 127.0.0.0/8;");
            if self.one_in(2) {
                self.line("set_real_ip_from 10.0.0.0/8;");
            }
            if self.one_in(2) {
                let header = self.pick(&["X-Forwarded-For", "X-Real-IP", "X-Client"]);
                self.line(&format!("real_ip_header {header};"));
            }
            if self.one_in(2) {
                self.line("real_ip_recursive on;");
            }
        }
        self.write_inherited(3);
        if self.one_in(10) {
            self.write_return();
        }
        self.write_locations("/", 0);
        self.close();
    }

    /// Writes locations within the prefix of an outer one.
    fn write_locations(&mut self, outer: &str, level: usize) {
        if level == 0 {
            self.used_heads.clear();
        }
        for _ in 0..self.below(if level == 0 { 5 } else { 3 }) + usize::from(level == 0) {
            let is_pattern = self.one_in(5);
            let (head, path) = if is_pattern {
                let pattern = if level == 0 { self.pick(&PATTERNS) } else { self.pick(&INNER_PATTERNS) };
                (format!("{} {pattern}", self.pick(&["~", "~*"])), pattern)
            } else {
                let path = self.pick(&PATHS);
                let mark = self.pick(&["", "", "", "= ", "^~ "]);
                (format!("{mark}{path}"), path)
            };
            // nginx takes a prefix once, with `^~` or without; only a block within the outer prefix may be nested.
            let key = head.replace("^~ ", "");
            // `/api/` within `/api` redirects `/api` in nginx, which the import does not carry.
            let is_inside = path.starts_with(outer) && (level == 0 || path.len() > outer.len() + 1);
            let is_pattern_inside = is_pattern && (level == 0 || path.trim_start_matches('^').starts_with(outer));
            if !(is_inside || is_pattern_inside) || !self.used_heads.insert(key) {
                continue;
            }
            self.open(&format!("location {head}"));
            self.write_location_words(is_pattern);
            if level < 2 && !head.starts_with("= ") && !is_pattern && self.one_in(3) {
                self.write_locations(path, level + 1);
            }
            self.close();
        }
    }

    fn write_location_words(&mut self, is_pattern: bool) {
        if self.one_in(6) {
            return self.write_return();
        }
        if self.one_in(12) {
            self.line("internal;");
        }
        if self.one_in(10) {
            let methods = self.pick(&["GET", "POST", "GET POST", "POST OPTIONS"]);
            self.line(&format!("limit_except {methods} {{ deny all; }}"));
        }
        self.write_inherited(4);
        let upstream = self.pick(&["one", "two", "127.0.0.1:9005"]);
        let uri = if is_pattern { "" } else { self.pick(&["", "", "", "/", "/v1/", "/x"]) };
        self.line(&format!("proxy_pass http://{upstream}{uri};"));
    }

    fn write_return(&mut self) {
        let words = self.pick(&[
            "403",
            "404",
            "444",
            "204",
            "200 ok",
            "200 \"$host $uri\"",
            "301 https://$host$request_uri",
            "302 /moved?$args",
            "429 \"slow down\"",
        ]);
        self.line(&format!("return {words};"));
    }

    /// Writes words that inner blocks inherit, each with one chance in `n`.
    fn write_inherited(&mut self, n: usize) {
        if self.one_in(n) {
            let size = self.pick(&["1k", "2k", "0"]);
            self.line(&format!("client_max_body_size {size};"));
        }
        if self.one_in(n) {
            self.line("proxy_set_header X-Seen \"$remote_addr $host\";");
            if self.one_in(2) {
                self.line("proxy_set_header Host $host;");
            }
            if self.one_in(2) {
                self.line("proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;");
            }
        }
        if self.one_in(n) {
            let value = self.below(3);
            let always = self.pick(&["", " always"]);
            self.line(&format!("add_header X-Added {value}{always};"));
        }
        if self.one_in(n * 2) {
            self.line("proxy_hide_header X-Powered-By;");
        }
        if self.one_in(n * 2) {
            let rules = self.pick(&[
                "deny all;",
                "allow 127.0.0.1; deny all;",
                "allow 10.0.0.0/8; allow 192.0.2.0/24; deny all;",
                "deny 192.0.2.7; deny 10.0.0.0/8;",
                "allow all;",
            ]);
            self.line(rules);
        }
    }
}
