//! The members that the addresses of a name make.

use std::net::SocketAddr;

use super::answer::DnsPeer;
use crate::fleet::MemberSpec;
use crate::units::Weight;

/// Returns `members` with those made from `template` replaced by one member for each peer.
///
/// Members that stay keep what the admin API has set. A peer that is a member already is not added again.
pub(super) fn replace_members(members: Vec<MemberSpec>, template: &MemberSpec, peers: &[DnsPeer]) -> Vec<MemberSpec> {
    let is_made_from_template = |member: &MemberSpec| {
        let origin = &member.origin;
        let has_name = origin.address().is_some()
            && origin.host() == template.origin.host()
            && origin.path_prefix() == template.origin.path_prefix();
        let has_service = template.dns_lookup.as_ref().is_some_and(|lookup| lookup.service.is_some());
        has_name && member.dns_lookup == template.dns_lookup && (has_service || origin.port() == template.origin.port())
    };
    let position = members.iter().position(is_made_from_template);
    let (old, mut rest): (Vec<_>, Vec<_>) = members.into_iter().partition(is_made_from_template);
    let mut new: Vec<MemberSpec> = Vec::with_capacity(peers.len());
    // A backup has no backups of its own.
    for peer in peers.iter().filter(|peer| !(template.backup && peer.backup)) {
        let member = build_member(template, peer);
        let is_same = |known: &MemberSpec| known.origin == member.origin || known.name == member.name;
        if rest.iter().chain(&new).any(is_same) {
            continue;
        }
        let kept = old.iter().find(|known| known.origin == member.origin);
        new.push(match kept {
            Some(kept) if peer.weight.is_none() => kept.clone(),
            _ => member,
        });
    }
    let position = position.unwrap_or(rest.len()).min(rest.len());
    rest.splice(position..position, new);
    rest
}

fn build_member(template: &MemberSpec, peer: &DnsPeer) -> MemberSpec {
    let port = peer.port.unwrap_or(template.origin.port());
    // As in nginx, a configured weight wins over that of the record.
    let weight = peer.weight.and_then(Weight::new).filter(|_| template.weight == Weight::ONE);
    MemberSpec {
        // With the prefix, because one address may be two replicas.
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
    fn each_address_is_a_member_with_the_settings_of_its_name() {
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
    fn members_that_stay_keep_their_position_and_changed_weight() {
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
    fn srv_records_set_ports_weights_and_backups() {
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
    fn address_of_another_member_is_not_added_again() {
        let fixed = MemberSpec::new("http://10.0.0.1:8000".parse().unwrap());
        let members =
            replace_members(vec![fixed], &template("http://gpu:8000", None), &[peer("10.0.0.1"), peer("10.0.0.2")]);
        assert_eq!(member_names(&members), ["10.0.0.1:8000", "10.0.0.2:8000"]);
    }
}
