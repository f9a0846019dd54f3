//! Requests that the words of a configuration suggest: its hosts and paths at their edges, methods, forged addresses.

use super::case::PreparedCase;
use super::requests::RequestWords;
use tokenweir::balance::SeededRng;

/// The maximum number of suggested requests for one listener.
const MAX_SUGGESTED: usize = 160;
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"];

/// Values with the one that a usual client sends first.
struct EdgeValues {
    usual: Vec<String>,
    edges: Vec<String>,
}

/// Returns requests for every listener; the same for the same configuration.
pub(crate) fn suggest_requests(case: &PreparedCase) -> Vec<RequestWords> {
    let (hosts, paths, addresses) = (find_hosts(case), find_paths(case), find_addresses(case));
    let seed = case.name.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let mut dice = SeededRng::from_seed(seed);
    let usual_host = hosts.usual.first().map_or("a.example", String::as_str);
    let mut all = Vec::new();
    for path in paths.usual.iter().chain(&paths.edges) {
        let host = pick(&mut dice, &hosts.usual).unwrap_or(usual_host);
        all.push(RequestWords::new("GET", path, host));
    }
    for host in hosts.usual.iter().chain(&hosts.edges) {
        let path = pick(&mut dice, &paths.usual).unwrap_or("/");
        all.push(RequestWords::new("GET", path, host));
        all.push(RequestWords::new("GET", "/", host));
    }
    for path in &paths.usual {
        let host = pick(&mut dice, &hosts.usual).unwrap_or(usual_host);
        let method = METHODS[dice.next_below(METHODS.len() as u64) as usize];
        all.push(RequestWords::new(method, path, host));
    }
    for (name, value) in &addresses {
        let (host, path) = (pick(&mut dice, &hosts.usual), pick(&mut dice, &paths.usual));
        all.push(RequestWords::new("GET", path.unwrap_or("/"), host.unwrap_or(usual_host)).with_header(name, value));
    }
    for _ in 0..20 {
        let (host, path) = (pick(&mut dice, &hosts.usual), pick(&mut dice, &paths.usual));
        let method = METHODS[dice.next_below(METHODS.len() as u64) as usize];
        all.push(RequestWords::new(method, path.unwrap_or("/"), host.unwrap_or(usual_host)));
    }
    let target = format!("http://{usual_host}:81/v1/models?x=1");
    all.push(RequestWords::new("GET", &target, "other.example"));
    // A random part, if there are too many, in their order.
    while all.len() > MAX_SUGGESTED {
        all.remove(dice.next_below(all.len() as u64) as usize);
    }
    all
}

fn pick<'a>(dice: &mut SeededRng, values: &'a [String]) -> Option<&'a str> {
    values.get(dice.next_below(values.len().max(1) as u64) as usize).map(String::as_str)
}

fn find_hosts(case: &PreparedCase) -> EdgeValues {
    let mut hosts = EdgeValues { usual: extra_values(case, "hosts"), edges: Vec::new() };
    let directives = case.directives.iter().filter(|directive| directive.name == "server_name");
    for name in directives.flat_map(|directive| &directive.args) {
        if let Some(end) = name.strip_prefix("*.") {
            hosts.usual.push(format!("x.{end}"));
            hosts.edges.extend([end.to_owned(), format!("a.b.{end}"), format!(".{end}")]);
        } else if let Some(start) = name.strip_suffix(".*") {
            hosts.usual.push(format!("{start}.com"));
            hosts.edges.extend([start.to_owned(), format!("{start}.co.uk"), format!("x.{start}.com")]);
        } else if let Some(end) = name.strip_prefix('.') {
            hosts.usual.push(end.to_owned());
            hosts.edges.extend([format!("x.{end}"), format!("x{end}")]);
        } else if !name.is_empty() && !name.starts_with('~') && name != "_" {
            hosts.usual.push(name.clone());
            let upper = name.to_ascii_uppercase();
            hosts.edges.extend([upper, format!("{name}."), format!("{name}:99"), format!("sub.{name}")]);
        }
    }
    hosts.usual.push("unknown.example".to_owned());
    hosts.edges.extend(["127.0.0.1", "[::1]", "_"].map(String::from));
    hosts.usual.dedup();
    hosts
}

fn find_paths(case: &PreparedCase) -> EdgeValues {
    let mut paths = EdgeValues { usual: extra_values(case, "paths"), edges: Vec::new() };
    for directive in case.directives.iter().filter(|directive| directive.name == "location") {
        let path = match directive.args.as_slice() {
            [path] if path.starts_with('/') => path,
            [mark, path] if mark == "=" || mark == "^~" => path,
            _ => continue,
        };
        let below = path.trim_end_matches('/');
        paths.usual.extend([path.clone(), format!("{path}x"), format!("{below}/x/y")]);
        paths.edges.extend([
            below.to_owned(),
            format!("{below}/"),
            format!("/{path}"),
            format!("{below}//x"),
            format!("{path}?a=1&b=%2F"),
            format!("/y/..{path}"),
            format!("/.{path}"),
            format!("{below}/../"),
            format!("{below}/./x"),
            format!("{path};x"),
            path.to_ascii_uppercase(),
            format!("{path}%2Fx"),
            format!("{path}x%2fx%20y"),
            escape_first_letter(path),
        ]);
    }
    paths.usual.extend(["/", "/other/path", "/v1/chat/completions"].map(String::from));
    paths.edges.extend(["/?", "/%", "/%zz", "//", "/..", "/a/../../b", "/%00", "/%C3%A9"].map(String::from));
    for values in [&mut paths.usual, &mut paths.edges] {
        values.retain(|path| !path.is_empty());
        values.sort();
        values.dedup();
    }
    paths
}

/// Returns headers that forge the client's address.
fn find_addresses(case: &PreparedCase) -> Vec<(String, String)> {
    let words = case.directives.iter().filter(|one| ["set_real_ip_from", "allow", "deny"].contains(&one.name.as_str()));
    let known = words.filter_map(|one| one.args.first()).filter(|word| word.as_str() != "all" && !word.contains(':'));
    let mut addresses: Vec<String> = known
        .map(|word| {
            let (ip, bits) = word.split_once('/').unwrap_or((word, "32"));
            let ip: std::net::Ipv4Addr = ip.parse().unwrap_or(std::net::Ipv4Addr::new(10, 0, 0, 1));
            // An address within the network, not its first.
            if bits == "32" { ip.to_string() } else { std::net::Ipv4Addr::from(u32::from(ip) + 1).to_string() }
        })
        .collect();
    addresses.extend(["192.0.2.7", "127.0.0.1"].map(String::from));
    addresses.dedup();
    let named = case.directives.iter().filter(|one| one.name == "real_ip_header").filter_map(|one| one.args.first());
    let mut names: Vec<&str> = named.map(String::as_str).filter(|name| *name != "proxy_protocol").collect();
    names.extend(["X-Forwarded-For", "X-Real-IP"]);
    let mut all = Vec::new();
    for name in names {
        for address in &addresses {
            all.push((name.to_owned(), address.clone()));
            all.push((name.to_owned(), format!("192.0.2.8, {address}")));
        }
        for value in ["unknown", "192.0.2.9:1234", "[2001:db8::1]:80", "2001:db8::1", "192.0.2.1,192.0.2.2", ""] {
            all.push((name.to_owned(), value.to_owned()));
        }
    }
    all.extend(["X-Forwarded-Proto", "X-Forwarded-Host"].map(|name| (name.to_owned(), "https".to_owned())));
    all
}

fn extra_values(case: &PreparedCase, key: &str) -> Vec<String> {
    case.comment_values(key).into_iter().flat_map(str::split_whitespace).map(String::from).collect()
}

fn escape_first_letter(path: &str) -> String {
    match path.char_indices().find(|(_, c)| c.is_ascii_alphabetic()) {
        Some((at, c)) => format!("{}%{:02x}{}", &path[..at], c as u32, &path[at + 1..]),
        None => path.to_owned(),
    }
}
