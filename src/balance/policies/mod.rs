//! The policies, one file each, and their table.
//!
//! A new policy is a file here, its `mod` line and its row. The configuration, `--help`, the documentation and the laws
//! in the tests read the table.

mod cache_aware;
mod hash;
mod ip_hash;
mod least_conn;
mod least_prefill;
mod least_time;
mod least_tokens;
mod lmetric;
mod prefix_hash;
mod random;
mod round_robin;
mod token_cost;

use super::{PolicyBasis, PolicyEntry};

/// Makes the table: name, basis, syntax of the arguments, samples of them, and help.
macro_rules! policies {
    ($($name:ident $basis:ident $args:literal $samples:expr, $help:literal;)+) => {
        static POLICY_TABLE: &[PolicyEntry] = &[$(PolicyEntry {
            name: stringify!($name),
            args: $args,
            samples: &$samples,
            basis: PolicyBasis::$basis,
            help: $help,
            build: $name::build,
        }),+];
    };
}

policies! {
    token_cost Load "[routers=N]" ["", "routers=2"],
        "the least cost in tokens per weight: tokens to prefill, uncached tokens of this prompt, resident tokens; the default";
    round_robin Load "" [""],
        "nginx's smooth weighted round robin, pick for pick";
    least_conn Load "" [""],
        "the fewest requests in flight per weight, ties by round robin";
    least_time Load "first_byte|last_byte" ["first_byte", "last_byte"],
        "the least average time to the first or last byte, times requests in flight, per weight";
    least_tokens Load "" [""],
        "the fewest tokens per weight, resident and to prefill; ties by round robin";
    least_prefill Load "" [""],
        "the fewest prompt tokens to prefill per weight, then the fewest resident tokens";
    prefix_hash Key "[KEY] [bound=1]" ["", "$prefix bound=1.5"],
        "a hash ring over the prompt's prefix, with a bound on the tokens at one replica";
    lmetric Load "" [""],
        "the least product of prompt tokens to compute and requests, per weight";
    cache_aware Load "" [""],
        "the longest cached prefix, or the fewest requests while those are out of balance: SGLang's rule";
    random Random "[two [least_conn|least_time=...]]" ["", "two", "two least_time=last_byte"],
        "at random by weight; `two`: the better of two random replicas";
    ip_hash Key "" [""],
        "a hash of the client's address, so that a client keeps its replica";
    hash Key "KEY [consistent]" ["$session consistent", "$request_uri"],
        "a hash of a key such as `$session`; `consistent`: on a ketama ring, so that few keys move when replicas change";
}

/// Returns every policy, in the order of the documentation; the first is the default.
pub fn policy_table() -> &'static [PolicyEntry] {
    POLICY_TABLE
}
