//! The names in the configuration and their addresses.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::answer::{DnsAnswer, DnsPeer};
use super::client::DnsClient;
use super::members::replace_members;
use super::question::DnsQuestion;
use crate::balance::PolicyError;
use crate::config;
use crate::discover;
use crate::fleet::{Fleet, MemberSpec, PoolSpec};
use crate::telemetry::{ErrorLog, LogLevel};
use crate::tls::TlsStore;

/// Shortest time that an answer is valid, whatever its time to live.
const MIN_TTL: Duration = Duration::from_secs(1);
/// Longest time that an answer is valid, so that a mistake in a zone does not last.
const MAX_TTL: Duration = Duration::from_secs(3_600);
/// Longest delay after a failed lookup. The delay starts at `MIN_TTL` and doubles.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(30);
/// How long a reload waits for the names that it adds.
const RELOAD_WAIT: Duration = Duration::from_secs(2);

/// The addresses of the names in the configuration.
#[derive(Default)]
pub struct DnsNames {
    /// Guards the last answers, which stay when a later lookup fails.
    last_answers: Mutex<Vec<(DnsQuestion, Vec<DnsPeer>)>>,
}

/// What a change of addresses affects.
pub struct DnsContext<'a> {
    /// The pools whose members change.
    pub fleet: &'a Fleet,
    /// The log of the changes.
    pub log: &'a ErrorLog,
    /// Notified when there are replicas that need probes.
    pub replicas_changed: &'a Notify,
    /// The TLS configuration for probes of new replicas.
    pub tls_store: &'a TlsStore,
}

impl DnsNames {
    /// Returns the pools with each name replaced by a member for each of its known addresses.
    pub fn expand_members(&self, specs: &[PoolSpec]) -> Vec<PoolSpec> {
        let expand = |spec: &PoolSpec| {
            let mut members: Vec<MemberSpec> = Vec::new();
            for member in &spec.members {
                match DnsQuestion::from_member(member) {
                    None => members.push(member.clone()),
                    Some(question) => {
                        let peers = self.known_peers(&question).unwrap_or_default();
                        members = replace_members(members, member, &peers);
                    }
                }
            }
            PoolSpec { members, ..spec.clone() }
        };
        specs.iter().map(expand).collect()
    }

    /// Resolves the names in `specs` that are not known yet, within `RELOAD_WAIT`.
    pub async fn resolve_new(&self, specs: &[PoolSpec], settings: &config::DnsSettings) {
        let mut new = DnsQuestion::from_specs(specs);
        new.retain(|question| self.known_peers(question).is_none());
        let Ok(client) = DnsClient::new(settings) else { return };
        let lookups = new.iter().map(async |question| {
            let lookup = client.resolve(&question.host, question.service.as_deref());
            if let Ok(Ok(answer)) = tokio::time::timeout(RELOAD_WAIT, lookup).await {
                self.update(question, &answer.peers);
            }
        });
        futures_util::future::join_all(lookups).await;
    }

    /// Resolves every name in `specs` whenever its time to live is over, and changes the members of the pools.
    ///
    /// Runs until it is dropped; returns at once if there are no names, or no name server to ask.
    pub async fn refresh_all(&self, specs: &[PoolSpec], settings: &config::DnsSettings, context: &DnsContext<'_>) {
        let questions = DnsQuestion::from_specs(specs);
        self.retain_questions(&questions);
        if questions.is_empty() {
            return;
        }
        match DnsClient::new(settings) {
            Ok(client) => {
                let lookups = questions.iter().map(|question| self.refresh(question, specs, &client, context));
                futures_util::future::join_all(lookups).await;
            }
            Err(error) => context.log.write(LogLevel::Error, format_args!("cannot resolve names: {error}")),
        }
    }

    async fn refresh(&self, question: &DnsQuestion, specs: &[PoolSpec], client: &DnsClient, context: &DnsContext<'_>) {
        let mut retry_delay = MIN_TTL;
        let mut last_error = String::new();
        // A reload may have started from an answer older than the last one.
        let mut is_first = true;
        loop {
            let wait = match client.resolve(&question.host, question.service.as_deref()).await {
                Ok(DnsAnswer { peers, ttl }) => {
                    if self.update(question, &peers) || is_first {
                        apply_answer(question, &peers, specs, context).await;
                    }
                    is_first = false;
                    last_error.clear();
                    retry_delay = MIN_TTL;
                    ttl.clamp(MIN_TTL, MAX_TTL)
                }
                Err(error) => {
                    if error != last_error {
                        let host = &question.host;
                        let message = format_args!("cannot resolve {host}: {error}; its last addresses stay in use");
                        context.log.write(LogLevel::Warn, message);
                    }
                    last_error = error;
                    retry_delay = (retry_delay * 2).min(MAX_RETRY_DELAY);
                    retry_delay / 2
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    fn retain_questions(&self, questions: &[DnsQuestion]) {
        let mut answers = self.last_answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.retain(|(question, _)| questions.contains(question));
    }

    fn known_peers(&self, question: &DnsQuestion) -> Option<Vec<DnsPeer>> {
        let answers = self.last_answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.iter().find(|(known, _)| known == question).map(|(_, peers)| peers.clone())
    }

    /// Records the addresses of a name. Returns whether they have changed.
    fn update(&self, question: &DnsQuestion, peers: &[DnsPeer]) -> bool {
        let mut answers = self.last_answers.lock().unwrap_or_else(PoisonError::into_inner);
        match answers.iter_mut().find(|(known, _)| known == question) {
            Some((_, before)) if before == peers => false,
            Some((_, before)) => {
                *before = peers.to_vec();
                true
            }
            None => {
                answers.push((question.clone(), peers.to_vec()));
                true
            }
        }
    }
}

/// Changes the members of every pool that has the name. New replicas are probed before the old ones leave.
async fn apply_answer(question: &DnsQuestion, peers: &[DnsPeer], specs: &[PoolSpec], context: &DnsContext<'_>) {
    for configured in specs {
        let templates =
            configured.members.iter().filter(|member| DnsQuestion::from_member(member).as_ref() == Some(question));
        for template in templates {
            let Some(pool) = context.fleet.pool(&configured.name) else { continue };
            let mut next = pool.spec().clone();
            next.members = replace_members(next.members, template, peers);
            discover::probe_new(context.fleet.prepare_replicas(&[next]), context.tls_store).await;
            let changed = context.fleet.edit_pool::<PolicyError>(&configured.name, |spec| {
                spec.members = replace_members(std::mem::take(&mut spec.members), template, peers);
                Ok(())
            });
            let (name, host) = (&configured.name, &question.host);
            match changed {
                Some(Ok(changes)) if !changes.is_empty() => {
                    context
                        .log
                        .write(LogLevel::Info, format_args!("pool {name}: addresses of {host} changed: {changes}"));
                    context.replicas_changed.notify_one();
                }
                Some(Err(error)) => context.log.write(LogLevel::Error, format_args!("pool {name}: {host}: {error}")),
                Some(Ok(_)) | None => {}
            }
        }
    }
}
