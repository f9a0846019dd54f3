//! The health of replicas: ejection, health checks, stalls, busy backoff, slow start and the retry budget.
//!
//! A pool keeps one [`member_health::MemberHealth`] per member. [`MemberState`](super::MemberState) names the result:
//!
//! ```mermaid
//! stateDiagram-v2
//!     [*] --> not_ready: added to a pool that learns its models
//!     [*] --> admitted: added to a pool with paths = "any"
//!     not_ready --> admitted: answers /v1/models
//!
//!     admitted --> refused: max_fails connections refused
//!     admitted --> failed: max_fails requests failed, or 8 faults in a row shared with other replicas
//!     admitted --> stalled: requests pending, no data for stall_timeout, other replicas respond
//!     admitted --> check: fall health checks failed in a row
//!     state ejected {
//!         refused
//!         failed
//!         stalled
//!         check
//!     }
//!     refused --> probing: ejection time over
//!     failed --> probing: ejection time over
//!     stalled --> probing: ejection time over, no request pending
//!     stalled --> admitted: data arrives, or a health check with a model passes
//!     check --> admitted: rise health checks passed in a row
//!     probing --> admitted: probe succeeds
//!     probing --> ejected: probe fails, or has not ended yet
//!
//!     admitted --> busy: response 429, 503 or 529
//!     busy --> admitted: Retry-After or backoff over
//!     admitted --> full: max_conns requests in flight
//!     full --> admitted: a request ends
//!
//!     admitted --> draining: reload with drain
//!     draining --> admitted: reload without drain
//!     admitted --> drained: drained through the admin listener
//!     drained --> admitted: undrained through the admin listener
//!     admitted --> down: reload with down
//!     down --> admitted: reload without down
//! ```
//!
//! Several can hold at once; the first of these is shown: `drained`, `down`, `not_ready`, `full`, `ejected`,
//! `draining`, `probing`, `busy`, `admitted`. In all but the last three a member gets no new requests. A draining
//! member gets requests pinned to it. A busy one gets requests pinned to it, and others if no admitted member is left.
//! A return from `ejected`, `drained`, `down` or `not_ready` starts the `slow_start` ramp.
//!
//! - *Ejection time*: `fail_timeout`; with `eject_backoff` the n-th ejection in a row lasts n times as long, up to 300
//!   s.
//! - *Only member*: the only member of a pool is never ejected for requests, only by its health check.
//! - *Panic mode*: `failed` and `stalled` are ignored while they hold for more than half of the members in service, or
//!   for all that could otherwise be chosen. Then the requests, or the router, are more likely at fault.

pub(super) mod activity;
pub(super) mod busy_backoff;
pub(super) mod check;
pub(super) mod member_health;
pub(super) mod port_state;
pub(super) mod retry_budget;
pub(super) mod slow_start;
pub(super) mod stall_detector;
