//! Addresses as proxies write them into headers.

use std::net::{IpAddr, Ipv4Addr};

/// The addresses of one header value such as `X-Forwarded-For: 192.0.2.1, 10.0.0.1`, the last first.
///
/// Commas and spaces separate. One at the very beginning of the value belongs to the first address, as in nginx.
pub fn forwarded_addrs(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let mut list = rest.take()?;
        while let [_, .., last] = list
            && is_separator(*last)
        {
            list = &list[..list.len() - 1];
        }
        let separator = list.iter().rposition(|byte| is_separator(*byte)).filter(|at| *at > 0);
        rest = separator.map(|at| &list[..at]);
        Some(separator.map_or(list, |at| &list[at + 1..]))
    })
}

/// Parses one address with or without port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`.
///
/// As in nginx, brackets need a port, port 0 and 255.255.255.255 are refused, and an IPv4 number may be empty or start
/// with zeros. IPv6 addresses are those of RFC 4291.
pub fn parse_forwarded_addr(text: &[u8]) -> Option<(IpAddr, Option<u16>)> {
    if let Some(address) = parse_address(text) {
        return Some((address, None));
    }
    let colon = text.iter().rposition(|byte| *byte == b':')?;
    let (address, port) = (&text[..colon], &text[colon + 1..]);
    let address = address.strip_prefix(b"[").map_or(Some(address), |inner| inner.strip_suffix(b"]"))?;
    let port = parse_number(port).filter(|port| *port > 0)?;
    Some((parse_address(address)?, Some(port)))
}

const fn is_separator(byte: u8) -> bool {
    matches!(byte, b',' | b' ')
}

fn parse_address(text: &[u8]) -> Option<IpAddr> {
    parse_ipv4(text).map(IpAddr::V4).or_else(|| std::str::from_utf8(text).ok()?.parse().ok().map(IpAddr::V6))
}

fn parse_ipv4(text: &[u8]) -> Option<Ipv4Addr> {
    let mut octets = text.split(|byte| *byte == b'.');
    let mut next = || match octets.next()? {
        [] => Some(0),
        digits => parse_number(digits),
    };
    let address = Ipv4Addr::new(next()?, next()?, next()?, next()?);
    (octets.next().is_none() && address != Ipv4Addr::BROADCAST).then_some(address)
}

/// Parses decimal digits without a sign.
fn parse_number<N: std::str::FromStr>(digits: &[u8]) -> Option<N> {
    digits.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_last_first() {
        let cases: [(&str, &[&str]); 9] = [
            ("1.1.1.1", &["1.1.1.1"]),
            ("1.1.1.1, 2.2.2.2 3.3.3.3", &["3.3.3.3", "2.2.2.2", "1.1.1.1"]),
            ("1.1.1.1,,2.2.2.2 , ", &["2.2.2.2", "1.1.1.1"]),
            ("1.1.1.1,\t2.2.2.2", &["\t2.2.2.2", "1.1.1.1"]),
            (", 2.2.2.2", &["2.2.2.2", ","]),
            (",2.2.2.2", &[",2.2.2.2"]),
            (", ,", &[","]),
            (",", &[","]),
            ("", &[""]),
        ];
        for (value, expected) in cases {
            let texts: Vec<_> = forwarded_addrs(value.as_bytes()).map(|text| str::from_utf8(text).unwrap()).collect();
            assert_eq!(texts, expected, "{value:?}");
        }
    }

    /// The values are those of nginx 1.22's `$remote_addr`.
    #[test]
    fn address_is_parsed_as_in_nginx() {
        for (text, address, port) in [
            ("1.2.3.4", "1.2.3.4", None),
            ("1.2.3.4:080", "1.2.3.4", Some(80)),
            ("010.001.1.9", "10.1.1.9", None),
            ("1..2.", "1.0.2.0", None),
            ("2001:DB8::1", "2001:db8::1", None),
            ("[2001:db8::1]:443", "2001:db8::1", Some(443)),
            ("[1.2.3.4]:80", "1.2.3.4", Some(80)),
            ("::1:80", "::1:80", None),
            ("::ffff:1.2.3.4", "::ffff:1.2.3.4", None),
        ] {
            assert_eq!(parse_forwarded_addr(text.as_bytes()), Some((address.parse().unwrap(), port)), "{text}");
        }
        for text in [
            "",
            "a",
            "1",
            "1.2.3",
            "1.2.3.4.5",
            "256.1.1.1",
            "255.255.255.255",
            "1.2.3.4:",
            "1.2.3.4:0",
            "1.2.3.4:65536",
            "1.2.3.4:+80",
            "[::1]",
            "[::1",
            "[::1]:0",
            "::1.2.3",
            "12345::",
            "fe80::1%eth0",
            "unix:",
            "\"1.1.1.1\"",
            "\u{e9}",
        ] {
            assert_eq!(parse_forwarded_addr(text.as_bytes()), None, "{text}");
        }
    }
}
