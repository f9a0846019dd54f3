//! The demo's story: a replica slows down, another stops and returns, in a loop.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use tokio::time::sleep;

use super::replicas::{REPLICA_SPEEDS, start_replica};
use crate::cli::output::print_line;
use crate::emulate::EmulatedReplica;

/// The replica that slows down, and its speed then.
const SLOWED: (usize, f64) = (1, 0.2);
/// The replica that stops and returns.
const STOPPED: usize = 0;
/// The interval of tries to listen on the stopped replica's address again.
const RETURN_RETRY: Duration = Duration::from_secs(1);

/// Plays the story until dropped, which stops the replicas. Calm: nothing happens.
pub(super) async fn play(mut replicas: Vec<EmulatedReplica>, calm: bool) {
    if calm {
        return std::future::pending().await;
    }
    loop {
        sleep(Duration::from_secs(30)).await;
        set_speed(&replicas, SLOWED.1);
        announce(SLOWED.0, "slows down: its tokens per second fall, and new requests avoid it");
        sleep(Duration::from_secs(30)).await;
        set_speed(&replicas, REPLICA_SPEEDS.get(SLOWED.0).map_or(1.0, |(_, speed)| *speed));
        announce(SLOWED.0, "has its speed back: its share of the tokens grows again");
        sleep(Duration::from_secs(15)).await;
        let Some(replica) = replicas.get_mut(STOPPED) else { return };
        let addr = replica.addr();
        replica.stop();
        announce(STOPPED, "stops: it is ejected, and the others serve all requests");
        sleep(Duration::from_secs(25)).await;
        *replica = restart(addr).await;
        announce(STOPPED, "is back with an empty cache: its cached share starts from zero");
        sleep(Duration::from_secs(20)).await;
    }
}

fn set_speed(replicas: &[EmulatedReplica], speed: f64) {
    if let Some(replica) = replicas.get(SLOWED.0) {
        replica.set_speed(speed);
    }
}

fn announce(replica: usize, event: &str) {
    let name = REPLICA_SPEEDS.get(replica).map_or("", |(name, _)| *name);
    print_line(format_args!("Look: replica {name} {event}"));
}

/// Returns a replica of the stopped one's speed, on its address, once that is free.
async fn restart(addr: SocketAddr) -> EmulatedReplica {
    let speed = REPLICA_SPEEDS.get(STOPPED).map_or(1.0, |(_, speed)| *speed);
    loop {
        match TcpListener::bind(addr).map_err(|error| error.to_string()).and_then(|l| start_replica(l, speed)) {
            Ok(replica) => return replica,
            Err(_) => sleep(RETURN_RETRY).await,
        }
    }
}
