//! From TOML and the environment to settings and drafts: which key goes where, and what to say of those that go nowhere.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::build::{BuildContext, build_pools};
use super::diagnostics::{Diagnostic, Diagnostics, Span, SpannedValue};
use super::parse::nginx_hints::NGINX_HINTS;
use super::parse::renamed_keys::renamed_key;
use super::parse::suggest::{closest_match, suggestion};
use super::parse::value::{TomlValue, type_name};
use super::referenced_files::ReferencedFiles;
use super::schema::client_key;
use super::schema::client_key::{ClientKeyDraft, SecretDraft};
use super::schema::log;
use super::schema::pool::{POOL_SCHEMA, PoolDraft, TOP_LEVEL_POOL_KEYS};
use super::schema::top::{SETTINGS_SCHEMA, TABLE_NAMES, parse_file_path};
use super::settings::{ListenAddr, Settings};
use super::warnings;
use super::{ENV_PREFIX, LoadedConfig};

/// What was read so far.
pub(super) struct ConfigLoader {
    settings: Settings,
    /// The pool of the short form.
    pub(super) top_level_pool: PoolDraft,
    pools: Vec<PoolDraft>,
    client_keys: Vec<ClientKeyDraft>,
    admin_token: SecretDraft,
    /// Where settings were given, by path; the last one counts.
    key_spans: BTreeMap<&'static str, Span>,
    /// The name of the access log's format, if it has one.
    format_name: Option<SpannedValue<String>>,
    referenced_files: ReferencedFiles,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl ConfigLoader {
    /// Nothing read yet; `whole` is all of the file.
    pub(super) fn new(whole: &Span) -> Self {
        let start = whole.with_range(0..0);
        let (settings, short) = (Settings::default(), PoolDraft::new(start));
        Self {
            settings,
            top_level_pool: short,
            pools: Vec::new(),
            client_keys: Vec::new(),
            admin_token: SecretDraft::default(),
            key_spans: BTreeMap::new(),
            format_name: None,
            referenced_files: ReferencedFiles::default(),
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    pub(super) fn add_errors(&mut self, issues: impl IntoIterator<Item = Diagnostic>) {
        self.errors.extend(issues);
    }

    /// Reads a file.
    pub(super) fn read_document(&mut self, root: &DeTable<'_>, whole: &Span) {
        for (key, value) in root {
            let (name, at) = (key.get_ref().as_ref(), whole.with_range(key.span()));
            let spot = whole.with_range(value.span());
            match value.get_ref() {
                DeValue::Table(inner) if TABLE_NAMES.contains(&name) => {
                    for (key, value) in inner {
                        let (given, spot) = (value.get_ref(), whole.with_range(value.span()));
                        self.assign_key(
                            name,
                            &SpannedValue::new(key.get_ref(), whole.with_range(key.span())),
                            SpannedValue::new(given, spot),
                        );
                    }
                }
                _ if TABLE_NAMES.contains(&name) => {
                    self.errors
                        .push(at.diagnostic(format!("`{name}` is a table")).with_help(format!("write `[{name}]`")));
                }
                DeValue::Array(pools) if name == "pool" => {
                    pools.iter().for_each(|pool| self.read_pool(pool.get_ref(), &whole.with_range(pool.span())));
                }
                DeValue::Array(keys) if name == "key" => {
                    let read = |key: &Spanned<DeValue<'_>>, issues: &mut _| {
                        ClientKeyDraft::from_toml(key.get_ref(), &whole.with_range(key.span()), issues)
                    };
                    self.client_keys.extend(keys.iter().map(|key| read(key, &mut self.errors)));
                }
                given if name == "key" => {
                    self.errors.push(
                        spot.diagnostic("keys are a list")
                            .without_excerpt()
                            .with_help("write `[[key]]`, one for each key"),
                    );
                    self.client_keys.push(ClientKeyDraft::from_toml(given, &spot, &mut self.errors));
                }
                given if name == "pool" => {
                    self.errors
                        .push(spot.diagnostic("pools are a list").with_help("write `[[pool]]`, one for each pool"));
                    self.read_pool(given, &spot);
                }
                given => self.assign_key("", &SpannedValue::new(name, at), SpannedValue::new(given, spot)),
            }
        }
    }

    fn read_pool(&mut self, given: &DeValue<'_>, at: &Span) {
        let mut draft = PoolDraft::new(at.clone());
        let DeValue::Table(table) = given else {
            self.errors.push(
                at.diagnostic(format!("a pool is a table, not {}", type_name(given))).with_help("write `[[pool]]`"),
            );
            draft.given_keys.push(SpannedValue::new("replicas", at.clone()));
            self.pools.push(draft);
            return;
        };
        for (key, value) in table {
            let (name, spot) = (key.get_ref(), at.with_range(value.span()));
            match POOL_SCHEMA.iter().find(|row| row.path == name) {
                Some(_) => self.errors.extend(assign_pool_key(
                    &mut draft,
                    name,
                    SpannedValue::new(value.get_ref(), spot),
                    false,
                )),
                None => self.errors.push(unknown_key("pool", &SpannedValue::new(name, at.with_range(key.span())))),
            }
        }
        self.pools.push(draft);
    }

    /// Sets a key outside `[[pool]]`; `table` is empty at the top.
    fn assign_key(&mut self, table: &str, key: &SpannedValue<&str>, given: SpannedValue<&DeValue<'_>>) {
        if !self.assign_known(table, key.value, given, false) {
            self.errors.push(unknown_key(table, key));
        }
    }

    /// Tells whether there is such a key.
    fn assign_known(&mut self, table: &str, name: &str, given: SpannedValue<&DeValue<'_>>, unquoted: bool) -> bool {
        if let Some(row) = SETTINGS_SCHEMA.iter().find(|row| split_path(row.path) == (table, name)) {
            self.key_spans.insert(row.path, given.span.clone());
            let value = TomlValue { key: name, expected: row.expected, raw: given.value, span: given.span, unquoted };
            if row.path == "log.format" {
                self.format_name = log::parse_format_name(&value);
            }
            match row.path {
                "admin_token" => self.admin_token.hash = client_key::parse_hash(&value).ok(),
                "admin_token_env" => self.admin_token.env = client_key::parse_env_name(&value).ok(),
                "admin_token_file" => self.admin_token.file = client_key::parse_secret_path(&value).ok(),
                _ => {}
            }
            if split_path(row.path).0 == "tls" {
                value
                    .map_list(parse_file_path)
                    .unwrap_or_default()
                    .iter()
                    .zip(value.items())
                    .for_each(|(f, v)| self.referenced_files.add(f, &v.span));
            }
            self.errors.extend((row.set)(&mut self.settings, &value).err().unwrap_or_default());
            return true;
        }
        let short = table.is_empty() && TOP_LEVEL_POOL_KEYS.contains(&name);
        if short {
            self.errors.extend(assign_pool_key(&mut self.top_level_pool, name, given, unquoted));
        }
        short
    }

    /// Reads the variables that override keys: `TOKENWEIR__LOG__ACCESS=off`.
    pub(super) fn apply_environment(&mut self, env: &BTreeMap<String, String>) {
        for (variable, text) in env {
            let Some(rest) = variable.strip_prefix(ENV_PREFIX) else { continue };
            let whole = Span::from_text(variable, text);
            let path = rest.to_ascii_lowercase();
            let (table, name) = path.split_once("__").unwrap_or(("", &path));
            // What is no TOML is a string: nobody quotes twice in a shell.
            let parsed = DeValue::parse(&whole.source().text).ok();
            let (given, at) = match &parsed {
                Some(value) => (value.get_ref().clone(), whole.with_range(value.span())),
                None => (DeValue::String(text.as_str().into()), whole.clone()),
            };
            if !self.assign_known(table, name, SpannedValue::new(&given, at), true) {
                let known = SETTINGS_SCHEMA.iter().map(|row| row.path).chain(TOP_LEVEL_POOL_KEYS);
                let known: Vec<String> =
                    known.map(|path| format!("{ENV_PREFIX}{}", path.replace('.', "__").to_uppercase())).collect();
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                let issue = whole.diagnostic(format!("the variable `{variable}` overrides no key")).without_excerpt();
                if let Some(new) = renamed_key(table, name) {
                    let new = format!(
                        "{}{}",
                        variable.strip_suffix(&name.to_uppercase()).unwrap_or(ENV_PREFIX),
                        new.to_uppercase()
                    );
                    self.errors.push(issue.with_help(format!("renamed to `{new}`")));
                    continue;
                }
                self.errors.push(match closest_match(variable, known) {
                    Some(near) => issue.with_help(format!("did you mean `{near}`?")),
                    None => issue.with_help(format!("`{ENV_PREFIX}LOG__ACCESS` is `access` in `[log]`, for example")),
                });
            }
        }
    }

    /// Compares everything with everything else.
    pub(super) fn build(mut self, file: &str, env: &BTreeMap<String, String>) -> Result<LoadedConfig, Diagnostics> {
        self.check_limits();
        self.check_certificates();
        self.resolve_admin_access(env);
        self.settings.tenants = client_key::build_tenants(&self.client_keys, env, &mut self.errors);
        if let Some(name) = &self.format_name {
            match log::find_format(name, &self.settings.log.formats) {
                Ok(format) => self.settings.log.format = format,
                Err(issue) => self.errors.push(issue),
            }
        }
        let default = self.top_level_pool.policy.clone();
        let mut drafts = if self.pools.is_empty() {
            vec![self.top_level_pool]
        } else {
            for SpannedValue { value: key, span: at } in
                self.top_level_pool.given_keys.iter().filter(|given| given.value != "policy")
            {
                let pool = self.pools.iter().map(|pool| pool.span.relative_to(at)).next().unwrap_or_default();
                let issue = at.diagnostic(format!("`{key}` at the top is for a file without `[[pool]]` ({pool})"));
                self.errors.push(issue.with_help(format!("keep the `[[pool]]`s and move `{key}` into one of them")));
            }
            self.pools
        };
        self.warnings.extend(warnings::skewed_key_warnings(&drafts, default.as_ref(), &self.settings));
        for draft in &mut drafts {
            let most = draft.max_in_flight.map(|most| (draft.name_or_default().value, most));
            self.settings.limits.max_in_flight_by_pool.extend(most);
            self.settings.headers.add_pool(draft.name_or_default().value, std::mem::take(&mut draft.headers));
        }
        self.settings.headers.collect_requirements();
        let mut found =
            BuildContext { errors: self.errors, warnings: self.warnings, referenced_files: self.referenced_files };
        self.settings.pools = build_pools(drafts, default.as_ref(), env, &mut found);
        found.warnings.extend(client_key::unusable_key_warning(&self.client_keys, &self.settings.pools));
        if !found.errors.is_empty() {
            return Err(Diagnostics::new(file, found.errors));
        }
        let warnings = Diagnostics::new(file, found.warnings).into_diagnostics();
        Ok(LoadedConfig { settings: self.settings, warnings, referenced_files: found.referenced_files })
    }

    /// What only shows when addresses, certificates and keys are seen together.
    fn check_certificates(&mut self) {
        let Settings { listen, tls, .. } = &self.settings;
        let secure = listen.iter().any(|listen| matches!(listen, ListenAddr::Tls(_)));
        let given = |key| self.key_spans.get(key);
        let (listen, certificate, key) = (given("listen"), given("tls.certificate"), given("tls.key"));
        if let (true, Some(at), None) = (secure, listen, certificate) {
            let issue = at.diagnostic("where TLS is spoken a certificate is needed");
            self.errors.push(
                issue.with_help("write [tls], certificate = \"/path/cert.pem\" and key = \"/path/key.pem\" below it"),
            );
        } else if let (false, Some(at)) = (secure, certificate)
            && !tls.chains.is_empty()
            && self.errors.is_empty()
        {
            let warning = at.diagnostic("warning: nothing listens with TLS, so no client sees this certificate");
            self.warnings.push(warning.with_help("write `ssl` behind an address: listen = \"443 ssl\""));
        }
        if let Some(at) = certificate.or(key)
            && tls.chains.len() != tls.keys.len()
        {
            let issue = at.diagnostic(format!("{} certificate(s) and {} key(s)", tls.chains.len(), tls.keys.len()));
            self.errors.push(issue.with_help("`key` names a file for each of `certificate`, in the same order"));
        } else if let Some(at) = certificate.filter(|_| secure && tls.chains.is_empty()) {
            self.errors.push(at.diagnostic("where TLS is spoken a certificate is needed").with_help("name a PEM file"));
        }
    }

    /// Who may use the admin listener.
    fn resolve_admin_access(&mut self, env: &BTreeMap<String, String>) {
        let token = self.admin_token.resolve_digest(["admin_token", "admin_token_env", "admin_token_file"], env);
        match token {
            Ok(token) => self.settings.admin_access.token = token.map(|(digest, _)| digest),
            Err(issue) => return self.errors.push(issue),
        }
        let reachable = self.settings.admin.is_some_and(|admin| !admin.ip().is_loopback());
        if let Some(at) = self.key_spans.get("admin")
            && reachable
            && self.settings.admin_access.token.is_none()
        {
            let warning = at.diagnostic("warning: whoever reaches this address can change where requests go");
            self.warnings.push(warning.with_help("set `admin_token`, or listen at 127.0.0.1"));
        }
    }

    /// What only shows when limits are seen together.
    fn check_limits(&mut self) {
        let limits = &self.settings.limits;
        if limits.in_flight_bytes >= limits.body_bytes {
            return;
        }
        let at = self.key_spans.get("limits.in_flight_bytes").or_else(|| self.key_spans.get("limits.body_bytes"));
        if let Some(at) = at {
            let issue =
                at.diagnostic("`in_flight_bytes` is less than `body_bytes`: the largest body could never be held");
            self.errors.push(issue);
        }
    }
}

/// A key's table, empty at the top, and its name there.
fn split_path(path: &str) -> (&str, &str) {
    path.split_once('.').unwrap_or(("", path))
}

/// Sets a pool's key, which must be one.
fn assign_pool_key(
    draft: &mut PoolDraft,
    name: &str,
    given: SpannedValue<&DeValue<'_>>,
    unquoted: bool,
) -> Vec<Diagnostic> {
    let Some(row) = POOL_SCHEMA.iter().find(|row| row.path == name) else { return Vec::new() };
    draft.given_keys.retain(|given| given.value != row.path);
    draft.given_keys.push(SpannedValue::new(row.path, given.span.clone()));
    let value = TomlValue { key: name, expected: row.expected, raw: given.value, span: given.span, unquoted };
    (row.set)(draft, &value).err().unwrap_or_default()
}

/// A key that `table` does not have.
fn unknown_key(table: &str, key: &SpannedValue<&str>) -> Diagnostic {
    let SpannedValue { value: name, span: at } = key;
    let settings = |table: &str| -> Vec<&'static str> {
        let paths = SETTINGS_SCHEMA.iter().map(|row| split_path(row.path));
        paths.filter(|(of, _)| *of == table).map(|(_, name)| name).collect()
    };
    let pool: Vec<&str> = POOL_SCHEMA.iter().map(|row| row.path).collect();
    let known = match table {
        "" => [settings(""), TOP_LEVEL_POOL_KEYS.to_vec(), TABLE_NAMES.to_vec(), vec!["pool", "key"]].concat(),
        "pool" => pool.clone(),
        table => settings(table),
    };
    let place = match table {
        "" => String::new(),
        "pool" => " in `[[pool]]`".to_owned(),
        table => format!(" in `[{table}]`"),
    };
    let issue = at.diagnostic(format!("unknown key `{name}`{place}"));
    if let Some(new) = renamed_key(table, name) {
        return issue.with_help(format!("renamed to `{new}`"));
    }
    if let Some((_, ours)) = NGINX_HINTS.iter().find(|(theirs, _)| theirs == name) {
        return issue.with_help(format!("nginx's `{name}` is {ours} here"));
    }
    if closest_match(name, known.iter().copied()).is_none() {
        if let Some(home) = TABLE_NAMES.iter().find(|home| settings(home).contains(name)) {
            return issue.with_help(format!("`{name}` belongs in `[{home}]`"));
        }
        if pool.contains(name) {
            return issue.with_help(format!("`{name}` belongs in a `[[pool]]`"));
        }
        if settings("").contains(name) {
            return issue.with_help(format!("`{name}` belongs at the top, above the first table"));
        }
    }
    issue.with_help(suggestion(name, "keys", &known))
}
