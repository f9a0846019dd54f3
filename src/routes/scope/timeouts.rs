//! Timeouts of clients, replicas and the process.

use std::time::Duration;

use crate::units::Moment;

/// Timeouts of clients, replicas and the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Connecting to a replica.
    pub connect: Duration,
    /// From a request that asks for a stream to the first event; 1 ms is added for each token of the prompt.
    pub first_byte: Duration,
    /// From a request that asks for no stream to the first byte of its response, at least `first_byte`; 1 ms is added
    /// for each token of the prompt. It is awaited longer while the replica sends data on other requests.
    pub plain_answer: Duration,
    /// The longest time to the first byte of such a response; 0 for no limit.
    pub plain_answer_max: Duration,
    /// Between two events of a replica's stream, or two pieces of another response.
    pub idle: Duration,
    /// From the end of a request to the end of its response, retries included; 0 for no limit.
    pub total: Duration,
    /// Receiving a request's head.
    pub client_header: Duration,
    /// Between two pieces of a request's body.
    pub client_body: Duration,
    /// The time in which a client accepts none of the bytes it is sent, before its connection is closed.
    pub client_send: Duration,
    /// The time that a 200 is held for the first event of its stream, or for the JSON after white space, so that another
    /// replica can still be tried; 0 for none.
    pub first_event_hold: Duration,
    /// The time in which a client's stream may be silent before a comment is sent; 0 for no comments.
    pub waiting_comment: Duration,
    /// The time that a client's idle connection is kept; 0 for none.
    pub keepalive: Duration,
    /// The time that an idle connection to a replica is kept; 0 for none.
    pub upstream_keepalive: Duration,
    /// The time without data after which the kernel probes the peer of a TCP connection; 0 for no probes.
    pub tcp_keepalive: Duration,
    /// The time that a stopping process waits for requests in flight.
    pub drain: Duration,
}

impl Timeouts {
    /// Returns the deadline of the response to a request that was complete at `complete`; `None` for no limit.
    pub fn deadline_after(&self, complete: Moment) -> Option<Moment> {
        (!self.total.is_zero()).then(|| complete + self.total)
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_millis(3_500),
            first_byte: Duration::from_secs(300),
            plain_answer: Duration::from_secs(600),
            plain_answer_max: Duration::ZERO,
            idle: Duration::from_secs(120),
            total: Duration::ZERO,
            client_header: Duration::from_secs(10),
            client_body: Duration::from_secs(10),
            client_send: Duration::from_secs(60),
            first_event_hold: Duration::from_secs(10),
            waiting_comment: Duration::from_secs(15),
            keepalive: Duration::from_secs(75),
            upstream_keepalive: Duration::from_secs(4),
            tcp_keepalive: Duration::from_secs(60),
            drain: Duration::from_secs(300),
        }
    }
}
