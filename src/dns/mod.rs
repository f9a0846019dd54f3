//! Floor 3: names that stand for replicas: nginx's `resolve`. Each address is a member; when addresses change, so do the
//! members, and those that stay keep what they are.

mod client;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::balance::PolicyError;
use crate::config;
use crate::discover;
use crate::fleet::{Fleet, MemberSpec, PoolSpec};
use crate::telemetry::{ErrorLog, LogLevel};
use crate::tls::TlsStore;
use crate::units::Weight;
use client::DnsClient;

/// An answer counts at least as long, whatever its time to live is.
const MIN_TTL: Duration = Duration::from_secs(1);
/// Nothing is believed for longer, so that a slip in a zone does not last.
const MAX_TTL: Duration = Duration::from_secs(3_600);
/// The longest time between two questions that brought nothing; it begins with `MIN_TTL` and doubles.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(30);
/// How long a reload waits for names that it brings.
const RELOAD_WAIT: Duration = Duration::from_secs(2);

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DnsAnswer {
    /// Sorted, no address and port twice.
    peers: Vec<DnsPeer>,
    ttl: Duration,
}

/// One address behind a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct DnsPeer {
    address: IpAddr,
    /// Given by an SRV record.
    port: Option<u16>,
    /// Given by an SRV record, at least 1.
    weight: Option<u32>,
    /// For when no other can be chosen.
    backup: bool,
}

/// A name, or a service at one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DnsQuestion {
    host: String,
    service: Option<Arc<str>>,
}

/// What is known of the names in the configuration.
#[derive(Default)]
pub struct DnsNames {
    /// Guards the last answers, which stay when a later question brings none.
    last_answers: Mutex<Vec<(DnsQuestion, Vec<DnsPeer>)>>,
}

/// Where changes go.
pub struct DnsContext<'a> {
    /// The pools that members are changed of.
    pub fleet: &'a Fleet,
    /// What is told about them.
    pub log: &'a ErrorLog,
    /// Told when there are replicas that have not been asked for their models.
    pub replicas_changed: &'a Notify,
    /// Whom replicas are trusted by.
    pub tls_store: &'a TlsStore,
}

impl DnsPeer {
    const fn from_address(address: IpAddr) -> Self {
        Self { address, port: None, weight: None, backup: false }
    }
}

impl DnsQuestion {
    fn from_member(member: &MemberSpec) -> Option<Self> {
        let lookup = member.dns_lookup.as_ref()?;
        let named = member.origin.address().is_none();
        named.then(|| Self { host: member.origin.host().to_owned(), service: lookup.service.clone() })
    }

    fn from_specs(specs: &[PoolSpec]) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for question in specs.iter().flat_map(|spec| &spec.members).filter_map(Self::from_member) {
            if !all.contains(&question) {
                all.push(question);
            }
        }
        all
    }
}

impl DnsNames {
    /// Puts a member for each known address where a name stands.
    pub fn expand_members(&self, specs: &[PoolSpec]) -> Vec<PoolSpec> {
        let one = |spec: &PoolSpec| {
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
        specs.iter().map(one).collect()
    }

    /// Asks for the names in `specs` that are not known yet, for a short while.
    pub async fn resolve_new(&self, specs: &[PoolSpec], servers: &config::DnsSettings) {
        let mut fresh = DnsQuestion::from_specs(specs);
        fresh.retain(|question| self.known_peers(question).is_none());
        let Ok(dns) = DnsClient::new(servers) else { return };
        let asking = fresh.iter().map(async |question| {
            let asked = dns.resolve(&question.host, question.service.as_deref());
            if let Ok(Ok(answer)) = tokio::time::timeout(RELOAD_WAIT, asked).await {
                self.update(question, &answer.peers);
            }
        });
        futures_util::future::join_all(asking).await;
    }

    /// Asks for every name in `specs` whenever its time to live is over, and changes the members of the pools. For ever,
    /// or until there is nobody to ask.
    pub async fn refresh_all(&self, specs: &[PoolSpec], servers: &config::DnsSettings, shelf: &DnsContext<'_>) {
        let questions = DnsQuestion::from_specs(specs);
        self.retain_questions(&questions);
        if questions.is_empty() {
            return;
        }
        match DnsClient::new(servers) {
            Ok(dns) => {
                let asking = questions.iter().map(|question| self.refresh(question, specs, &dns, shelf));
                futures_util::future::join_all(asking).await;
            }
            Err(why) => shelf.log.write(LogLevel::Error, format_args!("names cannot be resolved: {why}")),
        }
    }

    async fn refresh(&self, question: &DnsQuestion, specs: &[PoolSpec], dns: &DnsClient, shelf: &DnsContext<'_>) {
        let mut despair = MIN_TTL;
        let mut complaint = String::new();
        // A reload may have begun with what was known before the last answer.
        let mut first = true;
        loop {
            let wait = match dns.resolve(&question.host, question.service.as_deref()).await {
                Ok(DnsAnswer { peers, ttl }) => {
                    if self.update(question, &peers) || first {
                        apply_answer(question, &peers, specs, shelf).await;
                    }
                    first = false;
                    complaint.clear();
                    despair = MIN_TTL;
                    ttl.clamp(MIN_TTL, MAX_TTL)
                }
                Err(why) => {
                    if why != complaint {
                        let host = &question.host;
                        let message = format_args!("{host} could not be resolved, its last addresses stay: {why}");
                        shelf.log.write(LogLevel::Warn, message);
                    }
                    complaint = why;
                    despair = (despair * 2).min(MAX_RETRY_DELAY);
                    despair / 2
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    fn retain_questions(&self, questions: &[DnsQuestion]) {
        let mut known = self.last_answers.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(asked, _)| questions.contains(asked));
    }

    fn known_peers(&self, question: &DnsQuestion) -> Option<Vec<DnsPeer>> {
        let known = self.last_answers.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(asked, _)| asked == question).map(|(_, peers)| peers.clone())
    }

    /// Returns whether anything is new.
    fn update(&self, question: &DnsQuestion, peers: &[DnsPeer]) -> bool {
        let mut known = self.last_answers.lock().unwrap_or_else(PoisonError::into_inner);
        match known.iter_mut().find(|(asked, _)| asked == question) {
            Some((_, before)) if before == peers => false,
            Some((_, before)) => {
                *before = peers.to_vec();
                true
            }
            None => {
                known.push((question.clone(), peers.to_vec()));
                true
            }
        }
    }
}

/// Changes the members of every pool that has the name. New ones are asked what they serve before the old ones go.
async fn apply_answer(question: &DnsQuestion, peers: &[DnsPeer], specs: &[PoolSpec], shelf: &DnsContext<'_>) {
    for configured in specs {
        let stands_for =
            configured.members.iter().filter(|member| DnsQuestion::from_member(member).as_ref() == Some(question));
        for template in stands_for {
            let Some(pool) = shelf.fleet.pool(&configured.name) else { continue };
            let mut next = pool.spec().clone();
            next.members = replace_members(next.members, template, peers);
            discover::probe_new(shelf.fleet.prepare_replicas(&[next]), shelf.tls_store).await;
            let changed = shelf.fleet.edit_pool::<PolicyError>(&configured.name, |spec| {
                spec.members = replace_members(std::mem::take(&mut spec.members), template, peers);
                Ok(())
            });
            let (name, host) = (&configured.name, &question.host);
            match changed {
                Some(Ok(changes)) if !changes.is_empty() => {
                    shelf.log.write(LogLevel::Info, format_args!("pool {name}: {host} has changed: {changes}"));
                    shelf.replicas_changed.notify_one();
                }
                Some(Err(bad)) => shelf.log.write(LogLevel::Error, format_args!("pool {name}: {host}: {bad}")),
                Some(Ok(_)) | None => {}
            }
        }
    }
}

/// `members` with those that stand for `template` replaced by one for each peer. Those that stay keep what was set by
/// hand; what is in the pool anyway is not put there twice.
fn replace_members(members: Vec<MemberSpec>, template: &MemberSpec, peers: &[DnsPeer]) -> Vec<MemberSpec> {
    let is_of = |member: &MemberSpec| {
        let (ours, theirs) = (&member.origin, &template.origin);
        let at_name =
            ours.address().is_some() && ours.host() == theirs.host() && ours.path_prefix() == theirs.path_prefix();
        let has_service = template.dns_lookup.as_ref().is_some_and(|lookup| lookup.service.is_some());
        at_name && member.dns_lookup == template.dns_lookup && (has_service || ours.port() == theirs.port())
    };
    let at = members.iter().position(is_of);
    let (old, mut rest): (Vec<_>, Vec<_>) = members.into_iter().partition(is_of);
    let mut new: Vec<MemberSpec> = Vec::with_capacity(peers.len());
    // Where the template is a backup, what comes second has no place.
    for peer in peers.iter().filter(|peer| !(template.backup && peer.backup)) {
        let member = build_member(template, peer);
        let taken = |known: &MemberSpec| known.origin == member.origin || known.name == member.name;
        if rest.iter().chain(&new).any(taken) {
            continue;
        }
        let kept = old.iter().find(|known| known.origin == member.origin);
        new.push(match kept {
            Some(kept) if peer.weight.is_none() => kept.clone(),
            _ => member,
        });
    }
    let at = at.unwrap_or(rest.len()).min(rest.len());
    rest.splice(at..at, new);
    rest
}

fn build_member(template: &MemberSpec, peer: &DnsPeer) -> MemberSpec {
    let port = peer.port.unwrap_or(template.origin.port());
    // As in nginx, a weight of one's own comes before that of the record.
    let weight = peer.weight.and_then(Weight::new).filter(|_| template.weight == Weight::ONE);
    MemberSpec {
        // With the prefix, since one address may be two replicas.
        name: format!("{}{}", SocketAddr::new(peer.address, port), template.origin.path_prefix()).into(),
        origin: template.origin.with_address(peer.address, port),
        weight: weight.unwrap_or(template.weight),
        backup: template.backup || peer.backup,
        ..template.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::DnsLookup;

    fn template(url: &str, service: Option<&str>) -> MemberSpec {
        let lookup = Some(DnsLookup { service: service.map(Into::into) });
        MemberSpec { dns_lookup: lookup, ..MemberSpec::new(url.parse().unwrap()) }
    }

    fn peer(address: &str) -> DnsPeer {
        DnsPeer::from_address(address.parse().unwrap())
    }

    fn member_names(members: &[MemberSpec]) -> Vec<&str> {
        members.iter().map(|member| &*member.name).collect()
    }

    #[test]
    fn each_address_is_a_member_with_the_words_of_its_name() {
        let gpu = MemberSpec { weight: Weight::new(3).unwrap(), ..template("http://gpu:8000/llm", None) };
        let fixed = |url: &str| MemberSpec::new(url.parse().unwrap());
        let before = vec![fixed("http://a:1"), fixed("http://b:1")];
        let members = replace_members(before, &gpu, &[peer("10.0.0.1"), peer("::1")]);
        assert_eq!(member_names(&members), ["a:1", "b:1", "10.0.0.1:8000/llm", "[::1]:8000/llm"]);
        assert_eq!(
            (members[2].weight.get(), members[2].origin.path_prefix(), members[2].origin.host()),
            (3, "/llm", "gpu")
        );
    }

    #[test]
    fn members_that_stay_keep_their_place_and_what_was_set_by_hand() {
        let gpu = template("http://gpu:8000", None);
        let mut members = replace_members(Vec::new(), &gpu, &[peer("10.0.0.1"), peer("10.0.0.2")]);
        members.push(MemberSpec::new("http://a:1".parse().unwrap()));
        members[1].weight = Weight::new(9).unwrap();
        let after = replace_members(members, &gpu, &[peer("10.0.0.2"), peer("10.0.0.3")]);
        assert_eq!(member_names(&after), ["10.0.0.2:8000", "10.0.0.3:8000", "a:1"]);
        assert_eq!(after[0].weight.get(), 9);
        assert_eq!(member_names(&replace_members(after, &gpu, &[])), ["a:1"]);
    }

    #[test]
    fn services_bring_ports_weights_and_backups() {
        let gpu = template("http://gpu", Some("http"));
        let srv =
            |address: &str, port, spare| DnsPeer { port: Some(port), weight: Some(4), backup: spare, ..peer(address) };
        let peers = [srv("10.0.0.1", 8000, false), srv("10.0.0.1", 8001, false), srv("10.0.0.2", 8000, true)];
        let members = replace_members(Vec::new(), &gpu, &peers);
        assert_eq!(member_names(&members), ["10.0.0.1:8000", "10.0.0.1:8001", "10.0.0.2:8000"]);
        assert!(members.iter().all(|member| member.weight.get() == 4));
        assert_eq!(members.iter().map(|member| member.backup).collect::<Vec<_>>(), [false, false, true]);
        let backup = MemberSpec { backup: true, weight: Weight::new(2).unwrap(), ..gpu };
        let members = replace_members(Vec::new(), &backup, &peers);
        assert_eq!(members.iter().map(|m| (m.weight.get(), m.backup)).collect::<Vec<_>>(), [(2, true), (2, true)]);
    }

    #[test]
    fn an_address_that_is_in_the_pool_already_is_not_there_twice() {
        let fixed = MemberSpec::new("http://10.0.0.1:8000".parse().unwrap());
        let members =
            replace_members(vec![fixed], &template("http://gpu:8000", None), &[peer("10.0.0.1"), peer("10.0.0.2")]);
        assert_eq!(member_names(&members), ["10.0.0.1:8000", "10.0.0.2:8000"]);
    }
}
