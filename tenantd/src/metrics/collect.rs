//! One scrape: the roster from the owner, everything else from the kernel beside it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use stackmap::Segment;

use super::encode;
use super::live::Live;
use super::ports::Ports;
use super::process::Own;
use super::roster::{Measured, Roster, Snapshot};
use crate::cgroups::Spent;
use crate::control::{Handle, OpError};

/// How long the owner may take for its part: it may be waiting for an access server that does not answer. Then the
/// roster before is taken, and its age is told.
const PATIENCE: Duration = Duration::from_millis(500);

/// How old an answer may be that somebody gets whom nobody knows: who asks without end costs one scrape a second.
pub(crate) const FRESH: Duration = Duration::from_secs(1);

/// Answers scrapes, one at a time.
#[derive(Debug, Default)]
pub(crate) struct Scraper {
    /// The last answer and when it was ready.
    last: Arc<tokio::sync::Mutex<Option<(Instant, Bytes)>>>,
    roster: Mutex<Option<(Instant, Roster)>>,
    ports: Ports,
    live: Live,
}

impl Scraper {
    /// The daemon's own counters.
    pub(crate) fn live(&self) -> &Live {
        &self.live
    }

    /// The metrics as text, at most `old` before they were asked for. Who asks while an answer is being made gets that one.
    ///
    /// # Errors
    /// [`OpError::Closed`]; [`OpError::CannotMeasure`] when the owner has never answered.
    pub(crate) async fn scrape(self: Arc<Self>, handle: &Handle, old: Duration) -> Result<Bytes, OpError> {
        let handle = handle.clone();
        self.clone().one_at_a_time(old, async move { self.make(&handle).await }).await
    }

    /// What `make` says, or the last answer. Made in a task of its own, which keeps the others waiting until it is through:
    /// a client that breaks off stops neither the thread that reads the kernel nor lets the next one begin beside it.
    async fn one_at_a_time(
        self: Arc<Self>,
        old: Duration,
        make: impl Future<Output = Result<Bytes, OpError>> + Send + 'static,
    ) -> Result<Bytes, OpError> {
        let asked = Instant::now();
        let mut last = self.last.clone().lock_owned().await;
        if let Some((ready, text)) = &*last
            && *ready + old >= asked
        {
            return Ok(text.clone());
        }
        let making = tokio::spawn(async move {
            let text = make.await?;
            *last = Some((Instant::now(), text.clone()));
            Ok(text)
        });
        making.await.unwrap_or_else(|error| Err(OpError::CannotMeasure { cause: error.to_string() }))
    }

    async fn make(&self, handle: &Handle) -> Result<Bytes, OpError> {
        let started = Instant::now();
        let (given, roster, late) = self.roster(handle).await?;
        let reader = match &roster.kernel {
            Some(kernel) => Some(kernel.room.counter_reader().await),
            None => None,
        };
        let (operators, asked_by_tenants) = handle.waiting();
        let mut snapshot = Snapshot {
            turns: roster.turns,
            operators,
            asked_by_tenants,
            access_connected: roster.access_connected,
            roster_age: given.elapsed().as_secs_f64(),
            ..Snapshot::default()
        };
        if late {
            snapshot.failed.push("owner");
        }
        let (live, ports) = (self.live.clone(), self.ports.clone());
        let made = tokio::task::spawn_blocking(move || {
            let room = reader.map(|reader| reader.map_err(|error| tracing::warn!(%error, "no counters of the ports")));
            measure(roster, room, &ports, &mut snapshot);
            snapshot.took = started.elapsed().as_secs_f64();
            encode::text(snapshot, live)
        });
        let failed = |cause: String| OpError::CannotMeasure { cause };
        let text = made.await.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?;
        Ok(text.into())
    }

    /// The owner's part, or the one before when it takes too long; when it was given, and whether it is an old one.
    async fn roster(&self, handle: &Handle) -> Result<(Instant, Roster, bool), OpError> {
        let asked = tokio::time::timeout(PATIENCE, handle.roster()).await;
        let known = || self.roster.lock().unwrap_or_else(PoisonError::into_inner);
        match asked {
            Ok(roster) => {
                let (given, roster) = (Instant::now(), roster?);
                *known() = Some((given, roster.clone()));
                Ok((given, roster, false))
            }
            Err(_) => {
                let old = known().clone().map(|(given, roster)| (given, roster, true));
                old.ok_or_else(|| OpError::CannotMeasure { cause: "the daemon is busy; ask again".into() })
            }
        }
    }
}

type Room = Option<Result<(vlan_rs::CounterReader, vlan_rs::Usage), ()>>;

/// Reads the kernel: each table as a whole, then the cgroups one by one.
fn measure(roster: Roster, room: Room, ports: &Ports, snapshot: &mut Snapshot) {
    snapshot.process = Own::read();
    let mut by_tag = HashMap::new();
    match room {
        Some(Ok((reader, usage))) => {
            snapshot.tables.insert("ports", (usage.ports.into(), usage.max_ports.into()));
            snapshot.tables.insert("answers", (usage.answers.into(), usage.max_answers.into()));
            snapshot.tables.insert("trunks", (usage.trunks.into(), usage.max_trunks.into()));
            match reader.counters() {
                Ok(all) => {
                    by_tag.extend(all.ports.into_iter().map(|(tag, counters)| ((tag.trunk, tag.vid.get()), counters)));
                    for (reason, count) in all.trunks.into_values().flatten().chain(all.room) {
                        *snapshot.trunk_drops.entry(reason.name()).or_default() += count;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot read the counters of the ports");
                    snapshot.failed.push("ports");
                }
            }
        }
        Some(Err(())) => snapshot.failed.push("ports"),
        None => {}
    }
    let mut by_cookie = std::collections::BTreeMap::new();
    if let Some(kernel) = &roster.kernel {
        snapshot.tables.insert("stacks", (kernel.guarded.stacks.into(), kernel.guarded.max_stacks.into()));
        snapshot.tables.insert("cgroups", (kernel.guarded.cgroups.into(), kernel.guarded.max_cgroups.into()));
        match kernel.guard.counters() {
            Ok(all) => by_cookie = all,
            Err(error) => {
                tracing::warn!(%error, "cannot read the counters of the guard");
                snapshot.failed.push("guard");
            }
        }
    }
    let known = roster.kernel.is_some().then(|| ports.known(roster.tenants.iter().filter_map(|tenant| tenant.seat)));
    let (found, since) = known.unwrap_or_default();
    snapshot.ports_age = since.map(|age| age.as_secs_f64());
    let cgroups = roster.kernel.as_ref().map(|kernel| &kernel.cgroups);
    let tag = |at: Segment| {
        let tag = roster.kernel.as_ref()?.room.tag(at).ok()?;
        Some((tag.trunk, tag.vid.get()))
    };
    snapshot.tenants = roster
        .tenants
        .into_iter()
        .map(|enlisted| Measured {
            port: enlisted.at.and_then(tag).and_then(|tag| by_tag.remove(&tag)),
            guard: enlisted.seat.and_then(|seat| by_cookie.remove(&seat.cookie)),
            spent: cgroups.map_or(Spent::default(), |cgroups| cgroups.spent(&enlisted.name)),
            ports: enlisted.seat.and_then(|seat| found.get(&seat.inode).copied()),
            enlisted,
        })
        .collect();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn clients_that_break_off_do_not_make_several_measure_at_once() {
        let scraper = Arc::new(Scraper::default());
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let measure = || {
            let (running, most) = (running.clone(), most.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // As a thread that nobody can stop.
                let working = tokio::spawn(tokio::time::sleep(Duration::from_secs(5)));
                working.await.unwrap();
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(Bytes::from_static(b"one"))
            }
        };
        for _ in 0..20 {
            let asked = scraper.clone().one_at_a_time(Duration::ZERO, measure());
            assert!(tokio::time::timeout(Duration::from_millis(100), asked).await.is_err());
        }
        assert_eq!(most.load(Ordering::SeqCst), 1);
        // The answer that nobody waited for is given to who asked meanwhile, and no other is made for it.
        let never = async { panic!("an answer is there") };
        assert_eq!(scraper.clone().one_at_a_time(Duration::ZERO, never).await.unwrap(), "one");
        // On TCP also a little later; on the socket everybody gets a new one.
        let never = async { panic!("an answer is there") };
        assert_eq!(scraper.clone().one_at_a_time(Duration::from_secs(60), never).await.unwrap(), "one");
        let new = async { Ok(Bytes::from_static(b"new")) };
        assert_eq!(scraper.one_at_a_time(Duration::ZERO, new).await.unwrap(), "new");
    }
}
