//! The bytes of a connection after its upgrade, in both directions.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};

use super::relay::RelayResult;
use super::transport::UpgradedConnection;
use crate::clock::Clock;
use crate::fleet::{Lease, Outcome, Phase, ResponseProgress};
use crate::routes::Timeouts;
use crate::units::Moment;

/// The buffer of each direction.
const BUFFER_BYTES: usize = 8 << 10;

/// The bytes that a tunnel has carried, and how it ended.
#[derive(Clone, Debug, Default)]
pub struct TunnelResult {
    /// Bytes from the client.
    pub received_bytes: u64,
    /// Bytes to the client.
    pub sent_bytes: u64,
    /// The result for the log.
    pub relay: RelayResult,
}

/// Which side has ended a tunnel.
enum TunnelEnd {
    /// A side has closed its connection in order.
    Closed,
    ClientFailed,
    ReplicaFailed(io::Error),
    /// No byte came for the idle timeout.
    Idle,
}

/// The bytes so far of one direction, and the last time at which there were any.
struct Progress<'a> {
    clock: Clock,
    bytes: Cell<u64>,
    last_activity: &'a Cell<Moment>,
}

/// Carries bytes between `client` and the replica until one of them closes, or neither has sent anything for
/// `timeouts.idle`; settles `lease` at the end. Dropped before, the lease ends as `client_gone`.
///
/// Back-pressure: each direction has one buffer, and reads again when that has been written.
pub async fn run_tunnel(
    replica: UpgradedConnection,
    client: impl AsyncRead + AsyncWrite,
    mut lease: Lease,
    timeouts: &Timeouts,
    clock: Clock,
) -> TunnelResult {
    let now = clock.now();
    lease.start_tunnel();
    lease.record_progress(ResponseProgress { content_events: 1, usage: None }, now);
    let last_activity = Cell::new(now);
    let progress = || Progress { clock, bytes: Cell::new(0), last_activity: &last_activity };
    let (received, sent) = (progress(), progress());
    let (mut from_client, mut to_client) = split(client);
    let (mut from_replica, mut to_replica) = split(replica.stream);
    let early = replica.early;
    let downwards = async {
        if write_piece(&mut to_client, &early, &sent).await.is_err() {
            return TunnelEnd::ClientFailed;
        }
        match copy(&mut from_replica, &mut to_client, &sent).await {
            Ok(()) => TunnelEnd::Closed,
            Err(CopyError::Read(error)) => TunnelEnd::ReplicaFailed(error),
            Err(CopyError::Write) => TunnelEnd::ClientFailed,
        }
    };
    let upwards = async {
        match copy(&mut from_client, &mut to_replica, &received).await {
            Ok(()) => TunnelEnd::Closed,
            Err(CopyError::Read(_)) => TunnelEnd::ClientFailed,
            // The replica's own side says how it ended.
            Err(CopyError::Write) => std::future::pending().await,
        }
    };
    let end = tokio::select! {
        end = downwards => end,
        end = upwards => end,
        () = wait_idle(&last_activity, timeouts.idle, clock) => TunnelEnd::Idle,
    };
    let _ = to_client.shutdown().await;
    TunnelResult {
        received_bytes: received.bytes.get(),
        sent_bytes: sent.bytes.get(),
        relay: settle(lease, &end, timeouts.idle, clock.now()),
    }
}

fn settle(lease: Lease, end: &TunnelEnd, idle_timeout: Duration, now: Moment) -> RelayResult {
    let (outcome, cause) = match end {
        TunnelEnd::Closed => (Some(Outcome::Completed), None),
        TunnelEnd::ClientFailed => (None, None),
        TunnelEnd::ReplicaFailed(error) => (Some(Outcome::Failed { phase: Phase::Stream }), Some(error.to_string())),
        TunnelEnd::Idle => (Some(Outcome::Completed), Some(format!("no data for {idle_timeout:?} (`timeouts.idle`)"))),
    };
    let first_token = lease.first_token();
    match outcome {
        Some(outcome) => lease.settle(outcome, now),
        None => drop(lease),
    }
    RelayResult { outcome, first_token, ended: Some(now), usage: None, cause }
}

enum CopyError {
    Read(io::Error),
    Write,
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    progress: &Progress<'_>,
) -> Result<(), CopyError> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = from.read(&mut buffer).await.map_err(CopyError::Read)?;
        if length == 0 {
            return Ok(());
        }
        let piece = buffer.get(..length).unwrap_or_default();
        write_piece(to, piece, progress).await.map_err(|_| CopyError::Write)?;
    }
}

async fn write_piece(to: &mut (impl AsyncWrite + Unpin), piece: &[u8], progress: &Progress<'_>) -> io::Result<()> {
    if piece.is_empty() {
        return Ok(());
    }
    progress.last_activity.set(progress.clock.now());
    to.write_all(piece).await?;
    to.flush().await?;
    progress.bytes.set(progress.bytes.get() + piece.len() as u64);
    progress.last_activity.set(progress.clock.now());
    Ok(())
}

async fn wait_idle(last_activity: &Cell<Moment>, idle_timeout: Duration, clock: Clock) {
    loop {
        let deadline = last_activity.get() + idle_timeout;
        if clock.now() >= deadline {
            return;
        }
        tokio::time::sleep_until(clock.deadline(deadline)).await;
    }
}
