//! From TOML and the environment to settings and drafts: which key goes where, and what to say of those that go nowhere.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::access::{self, DraftKey, DraftSecret};
use super::assemble::{Found, assemble};
use super::elsewhere::NGINX;
use super::files::Files;
use super::keys::{SETTINGS, TABLES, file};
use super::log;
use super::nearest::{nearest, suggest};
use super::pool::{Draft, POOL, SHORT};
use super::report::{At, Issue, Place, Report};
use super::settings::{Listen, Settings};
use super::spread;
use super::value::{Value, kind};
use super::{Loaded, PREFIX};

/// What was read so far.
pub(super) struct Reading {
    settings: Settings,
    /// The pool of the short form.
    pub(super) short: Draft,
    pools: Vec<Draft>,
    keys: Vec<DraftKey>,
    admin_token: DraftSecret,
    /// Where settings were given, by path; the last one counts.
    given: BTreeMap<&'static str, Place>,
    /// The name of the access log's format, if it has one.
    format: Option<At<String>>,
    files: Files,
    issues: Vec<Issue>,
    warnings: Vec<Issue>,
}

impl Reading {
    /// Nothing read yet; `whole` is all of the file.
    pub(super) fn new(whole: &Place) -> Self {
        let start = whole.at(0..0);
        let (settings, short) = (Settings::default(), Draft::new(start));
        Self {
            settings,
            short,
            pools: Vec::new(),
            keys: Vec::new(),
            admin_token: DraftSecret::default(),
            given: BTreeMap::new(),
            format: None,
            files: Files::default(),
            issues: Vec::new(),
            warnings: Vec::new(),
        }
    }

    pub(super) fn report(&mut self, issues: impl IntoIterator<Item = Issue>) {
        self.issues.extend(issues);
    }

    /// Reads a file.
    pub(super) fn root(&mut self, root: &DeTable<'_>, whole: &Place) {
        for (key, value) in root {
            let (name, at) = (key.get_ref().as_ref(), whole.at(key.span()));
            let spot = whole.at(value.span());
            match value.get_ref() {
                DeValue::Table(inner) if TABLES.contains(&name) => {
                    for (key, value) in inner {
                        let (given, spot) = (value.get_ref(), whole.at(value.span()));
                        self.assign(name, &At::new(key.get_ref(), whole.at(key.span())), At::new(given, spot));
                    }
                }
                _ if TABLES.contains(&name) => {
                    self.issues.push(at.issue(format!("`{name}` is a table")).help(format!("write `[{name}]`")));
                }
                DeValue::Array(pools) if name == "pool" => {
                    pools.iter().for_each(|pool| self.pool(pool.get_ref(), &whole.at(pool.span())));
                }
                DeValue::Array(keys) if name == "key" => {
                    let read = |key: &Spanned<DeValue<'_>>, issues: &mut _| {
                        DraftKey::read(key.get_ref(), &whole.at(key.span()), issues)
                    };
                    self.keys.extend(keys.iter().map(|key| read(key, &mut self.issues)));
                }
                given if name == "key" => {
                    self.issues.push(spot.issue("keys are a list").bare().help("write `[[key]]`, one for each key"));
                    self.keys.push(DraftKey::read(given, &spot, &mut self.issues));
                }
                given if name == "pool" => {
                    self.issues.push(spot.issue("pools are a list").help("write `[[pool]]`, one for each pool"));
                    self.pool(given, &spot);
                }
                given => self.assign("", &At::new(name, at), At::new(given, spot)),
            }
        }
    }

    fn pool(&mut self, given: &DeValue<'_>, at: &Place) {
        let mut draft = Draft::new(at.clone());
        let DeValue::Table(table) = given else {
            self.issues.push(at.issue(format!("a pool is a table, not {}", kind(given))).help("write `[[pool]]`"));
            draft.given.push(At::new("replicas", at.clone()));
            self.pools.push(draft);
            return;
        };
        for (key, value) in table {
            let (name, spot) = (key.get_ref(), at.at(value.span()));
            match POOL.iter().find(|row| row.path == name) {
                Some(_) => self.issues.extend(put(&mut draft, name, At::new(value.get_ref(), spot), false)),
                None => self.issues.push(unknown("pool", &At::new(name, at.at(key.span())))),
            }
        }
        self.pools.push(draft);
    }

    /// Sets a key outside `[[pool]]`; `table` is empty at the top.
    fn assign(&mut self, table: &str, key: &At<&str>, given: At<&DeValue<'_>>) {
        if !self.take(table, key.value, given, false) {
            self.issues.push(unknown(table, key));
        }
    }

    /// Tells whether there is such a key.
    fn take(&mut self, table: &str, name: &str, given: At<&DeValue<'_>>, unquoted: bool) -> bool {
        if let Some(row) = SETTINGS.iter().find(|row| split(row.path) == (table, name)) {
            self.given.insert(row.path, given.at.clone());
            let value = Value { key: name, wants: row.wants, given: given.value, at: given.at, unquoted };
            if row.path == "log.format" {
                self.format = log::name(&value);
            }
            match row.path {
                "admin_token" => self.admin_token.hash = access::hash(&value).ok(),
                "admin_token_env" => self.admin_token.env = access::variable(&value).ok(),
                "admin_token_file" => self.admin_token.file = access::path(&value).ok(),
                _ => {}
            }
            if split(row.path).0 == "tls" {
                value
                    .each(file)
                    .unwrap_or_default()
                    .iter()
                    .zip(value.list())
                    .for_each(|(f, v)| self.files.add(f, &v.at));
            }
            self.issues.extend((row.set)(&mut self.settings, &value).err().unwrap_or_default());
            return true;
        }
        let short = table.is_empty() && SHORT.contains(&name);
        if short {
            self.issues.extend(put(&mut self.short, name, given, unquoted));
        }
        short
    }

    /// Reads the variables that override keys: `TOKENWEIR__LOG__ACCESS=off`.
    pub(super) fn overrides(&mut self, env: &BTreeMap<String, String>) {
        for (variable, text) in env {
            let Some(rest) = variable.strip_prefix(PREFIX) else { continue };
            let whole = Place::whole(variable, text);
            let path = rest.to_ascii_lowercase();
            let (table, name) = path.split_once("__").unwrap_or(("", &path));
            // What is no TOML is a string: nobody quotes twice in a shell.
            let parsed = DeValue::parse(&whole.source().text).ok();
            let (given, at) = match &parsed {
                Some(value) => (value.get_ref().clone(), whole.at(value.span())),
                None => (DeValue::String(text.as_str().into()), whole.clone()),
            };
            if !self.take(table, name, At::new(&given, at), true) {
                let known = SETTINGS.iter().map(|row| row.path).chain(SHORT);
                let known: Vec<String> =
                    known.map(|path| format!("{PREFIX}{}", path.replace('.', "__").to_uppercase())).collect();
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                let issue = whole.issue(format!("the variable `{variable}` overrides no key")).bare();
                self.issues.push(match nearest(variable, known) {
                    Some(near) => issue.help(format!("did you mean `{near}`?")),
                    None => issue.help(format!("`{PREFIX}LOG__ACCESS` is `access` in `[log]`, for example")),
                });
            }
        }
    }

    /// Compares everything with everything else.
    pub(super) fn finish(mut self, file: &str, env: &BTreeMap<String, String>) -> Result<Loaded, Report> {
        self.limits();
        self.certificates();
        self.admin(env);
        self.settings.tenants = access::tenants(&self.keys, env, &mut self.issues);
        if let Some(name) = &self.format {
            match log::find(name, &self.settings.log.formats) {
                Ok(format) => self.settings.log.format = format,
                Err(issue) => self.issues.push(issue),
            }
        }
        let default = self.short.policy.clone();
        let mut drafts = if self.pools.is_empty() {
            vec![self.short]
        } else {
            for At { value: key, at } in self.short.given.iter().filter(|given| given.value != "policy") {
                let pool = self.pools.iter().map(|pool| pool.at.seen_from(at)).next().unwrap_or_default();
                let issue = at.issue(format!("`{key}` at the top is for a file without `[[pool]]` ({pool})"));
                self.issues.push(issue.help(format!("keep the `[[pool]]`s and move `{key}` into one of them")));
            }
            self.pools
        };
        self.warnings.extend(spread::doubts(&drafts, default.as_ref(), &self.settings));
        for draft in &mut drafts {
            let most = draft.max_in_flight.map(|most| (draft.called().value, most));
            self.settings.limits.pools.extend(most);
            self.settings.headers.add(draft.called().value, std::mem::take(&mut draft.headers));
        }
        self.settings.headers.close();
        let mut found = Found { issues: self.issues, warnings: self.warnings, files: self.files };
        self.settings.pools = assemble(drafts, default.as_ref(), env, &mut found);
        found.warnings.extend(access::closed(&self.keys, &self.settings.pools));
        if !found.issues.is_empty() {
            return Err(Report::new(file, found.issues));
        }
        let warnings = Report::new(file, found.warnings).into_issues();
        Ok(Loaded { settings: self.settings, warnings, files: found.files })
    }

    /// What only shows when addresses, certificates and keys are seen together.
    fn certificates(&mut self) {
        let Settings { listen, tls, .. } = &self.settings;
        let secure = listen.iter().any(|listen| matches!(listen, Listen::Tls(_)));
        let given = |key| self.given.get(key);
        let (listen, certificate, key) = (given("listen"), given("tls.certificate"), given("tls.key"));
        if let (true, Some(at), None) = (secure, listen, certificate) {
            let issue = at.issue("where TLS is spoken a certificate is needed");
            self.issues
                .push(issue.help("write [tls], certificate = \"/path/cert.pem\" and key = \"/path/key.pem\" below it"));
        } else if let (false, Some(at)) = (secure, certificate)
            && !tls.chains.is_empty()
            && self.issues.is_empty()
        {
            let warning = at.issue("warning: nothing listens with TLS, so no client sees this certificate");
            self.warnings.push(warning.help("write `ssl` behind an address: listen = \"443 ssl\""));
        }
        if let Some(at) = certificate.or(key)
            && tls.chains.len() != tls.keys.len()
        {
            let issue = at.issue(format!("{} certificate(s) and {} key(s)", tls.chains.len(), tls.keys.len()));
            self.issues.push(issue.help("`key` names a file for each of `certificate`, in the same order"));
        } else if let Some(at) = certificate.filter(|_| secure && tls.chains.is_empty()) {
            self.issues.push(at.issue("where TLS is spoken a certificate is needed").help("name a PEM file"));
        }
    }

    /// Who may use the admin listener.
    fn admin(&mut self, env: &BTreeMap<String, String>) {
        let token = self.admin_token.digest(["admin_token", "admin_token_env", "admin_token_file"], env);
        match token {
            Ok(token) => self.settings.admin_access.token = token.map(|(digest, _)| digest),
            Err(issue) => return self.issues.push(issue),
        }
        let reachable = self.settings.admin.is_some_and(|admin| !admin.ip().is_loopback());
        if let Some(at) = self.given.get("admin")
            && reachable
            && self.settings.admin_access.token.is_none()
        {
            let warning = at.issue("warning: whoever reaches this address can change where requests go");
            self.warnings.push(warning.help("set `admin_token`, or listen at 127.0.0.1"));
        }
    }

    /// What only shows when limits are seen together.
    fn limits(&mut self) {
        let limits = &self.settings.limits;
        if limits.in_flight_bytes >= limits.body_bytes {
            return;
        }
        let at = self.given.get("limits.in_flight_bytes").or_else(|| self.given.get("limits.body_bytes"));
        if let Some(at) = at {
            let issue = at.issue("`in_flight_bytes` is less than `body_bytes`: the largest body could never be held");
            self.issues.push(issue);
        }
    }
}

/// A key's table, empty at the top, and its name there.
fn split(path: &str) -> (&str, &str) {
    path.split_once('.').unwrap_or(("", path))
}

/// Sets a pool's key, which must be one.
fn put(draft: &mut Draft, name: &str, given: At<&DeValue<'_>>, unquoted: bool) -> Vec<Issue> {
    let Some(row) = POOL.iter().find(|row| row.path == name) else { return Vec::new() };
    draft.given.retain(|given| given.value != row.path);
    draft.given.push(At::new(row.path, given.at.clone()));
    let value = Value { key: name, wants: row.wants, given: given.value, at: given.at, unquoted };
    (row.set)(draft, &value).err().unwrap_or_default()
}

/// A key that `table` does not have.
fn unknown(table: &str, key: &At<&str>) -> Issue {
    let At { value: name, at } = key;
    let settings = |table: &str| -> Vec<&'static str> {
        let paths = SETTINGS.iter().map(|row| split(row.path));
        paths.filter(|(of, _)| *of == table).map(|(_, name)| name).collect()
    };
    let pool: Vec<&str> = POOL.iter().map(|row| row.path).collect();
    let known = match table {
        "" => [settings(""), SHORT.to_vec(), TABLES.to_vec(), vec!["pool", "key"]].concat(),
        "pool" => pool.clone(),
        table => settings(table),
    };
    let place = match table {
        "" => String::new(),
        "pool" => " in `[[pool]]`".to_owned(),
        table => format!(" in `[{table}]`"),
    };
    let issue = at.issue(format!("unknown key `{name}`{place}"));
    if let Some((_, ours)) = NGINX.iter().find(|(theirs, _)| theirs == name) {
        return issue.help(format!("nginx's `{name}` is {ours} here"));
    }
    if nearest(name, known.iter().copied()).is_none() {
        if let Some(home) = TABLES.iter().find(|home| settings(home).contains(name)) {
            return issue.help(format!("`{name}` belongs in `[{home}]`"));
        }
        if pool.contains(name) {
            return issue.help(format!("`{name}` belongs in a `[[pool]]`"));
        }
        if settings("").contains(name) {
            return issue.help(format!("`{name}` belongs at the top, above the first table"));
        }
    }
    issue.help(suggest(name, "keys", &known))
}
