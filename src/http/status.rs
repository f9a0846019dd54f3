//! The meaning of a replica's status: the one place that says which statuses are whose fault.

/// The meaning of the status of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusMeaning {
    /// The request was carried out, or redirected.
    Success,
    /// The request is at fault, or its method is not implemented.
    RequestFault,
    /// The replica is overloaded.
    Busy,
    /// The replica, or a proxy in front of it, is at fault.
    ReplicaFault,
}

impl StatusMeaning {
    /// Returns the meaning of a status.
    ///
    /// 529 is the overload of Anthropic-style servers. 424 is the answer of a TGI server to every request after an error
    /// on its GPU. Statuses from 520 to 530 come from Cloudflare in front of a server. A status from 600 up is invalid
    /// and counts as 5xx (RFC 9110, section 15).
    pub const fn of(status: u16) -> Self {
        match status {
            0..=399 => Self::Success,
            429 | 503 | 529 => Self::Busy,
            424 => Self::ReplicaFault,
            400..=499 | 501 => Self::RequestFault,
            500.. => Self::ReplicaFault,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_5xx_but_501_is_the_replicas_fault_or_load() {
        for status in 500..=999 {
            let expected = match status {
                501 => StatusMeaning::RequestFault,
                503 | 529 => StatusMeaning::Busy,
                _ => StatusMeaning::ReplicaFault,
            };
            assert_eq!(StatusMeaning::of(status), expected, "{status}");
        }
    }

    #[test]
    fn every_4xx_but_424_and_429_is_the_requests_fault() {
        let others: Vec<u16> =
            (400..500).filter(|status| StatusMeaning::of(*status) != StatusMeaning::RequestFault).collect();
        assert_eq!(others, [424, 429]);
        assert!((100..400).all(|status| StatusMeaning::of(status) == StatusMeaning::Success));
    }
}
