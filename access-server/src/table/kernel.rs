//! The eBPF data path as a [`Table`], and its devices: when one comes back under another number, the programs go to it.
//! Beside it runs one thread, the slow path, which cuts packets that the programs cannot.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use stackmap::{TunnelId, Vlan};
use thiserror::Error;
use tracing::{error, warn};

use super::{Attached, Fill, Look, Table, TableError, VlanCounters};
use crate::daemon::{Device, chain};
use crate::datapath::{Datapath, DatapathConfig, OpenError, Role, SlowPath, SlowPathError, TrunkDev, TrunkMode};
use crate::row::VlanRow;

/// How long the slow path waits before it looks whether it shall end.
const SLOW_PATH_WAIT: Duration = Duration::from_millis(200);

/// Why the data path could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// The programs and maps.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The slow path.
    #[error(transparent)]
    SlowPath(#[from] SlowPathError),
    /// The slow path's thread.
    #[error("cannot start the thread of the slow path")]
    Thread(#[source] io::Error),
}

/// The data path in the kernel.
pub struct KernelTable {
    datapath: Datapath,
    config: DatapathConfig,
    /// `None` only between two: the kernel has room for one.
    slow_path: Option<SlowPathThread>,
}

impl KernelTable {
    /// Starts the data path, or takes over the one that runs.
    ///
    /// # Errors
    /// [`StartError`]; a data path that ran before still runs.
    pub fn open(config: DatapathConfig) -> Result<Self, StartError> {
        let datapath = Datapath::open(&config)?;
        for vlan in datapath.lost_at_open() {
            warn!(%vlan, "row was half written when the last daemon died and is removed; its owner puts it again");
        }
        let slow_path = Some(SlowPathThread::start(datapath.slow_path()?)?);
        Ok(Self { datapath, config, slow_path })
    }

    fn reopen(&mut self, config: &DatapathConfig) -> Result<(), StartError> {
        // The old one ends first: at its end it takes its buffers out of the map the new one enters.
        self.slow_path = None;
        self.datapath = Datapath::open(config)?;
        self.slow_path = Some(SlowPathThread::start(self.datapath.slow_path()?)?);
        Ok(())
    }
}

/// The thread that polls the slow path; dropping it ends it.
struct SlowPathThread {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SlowPathThread {
    fn start(mut slow_path: SlowPath) -> Result<Self, StartError> {
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let work = move || {
            while !ended.load(Ordering::Relaxed) {
                if let Err(failure) = slow_path.poll(SLOW_PATH_WAIT) {
                    error!(failure = %chain(&failure), "the slow path ends: packets that need fragmenting are lost");
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("slow-path".into()).spawn(work).map_err(StartError::Thread)?;
        Ok(Self { end, thread: Some(thread) })
    }
}

impl Drop for SlowPathThread {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the thread of the slow path panicked");
        }
    }
}

/// How to reach the other end of a device.
pub fn trunk_dev(ifindex: u32, veth_across: bool) -> TrunkDev {
    TrunkDev { ifindex, mode: if veth_across { TrunkMode::Peer } else { TrunkMode::Plain } }
}

impl From<crate::datapath::VlanCounters> for VlanCounters {
    fn from(counters: crate::datapath::VlanCounters) -> Self {
        Self {
            vlan: counters.vlan,
            rx_packets: counters.rx_packets,
            rx_bytes: counters.rx_bytes,
            tx_packets: counters.tx_packets,
            tx_bytes: counters.tx_bytes,
            drops: counters.drops.into_iter().map(|(reason, n)| (reason.name().to_owned(), n)).collect(),
        }
    }
}

impl Table for KernelTable {
    fn put(&mut self, row: &VlanRow) -> Result<(), TableError> {
        let failed = |error| TableError::new(format!("write the row of vlan {}", row.vlan), error);
        self.datapath.put_vlan(row).map_err(failed)
    }

    fn delete(&mut self, vlan: Vlan) -> Result<(), TableError> {
        let failed = |error| TableError::new(format!("remove the row of vlan {vlan}"), error);
        self.datapath.delete_vlan(vlan).map_err(failed)
    }

    fn dump(&self) -> Result<Vec<VlanRow>, TableError> {
        self.datapath.dump().map_err(|error| TableError::new("read the rows back", error))
    }

    fn counters(&self) -> Result<Vec<VlanCounters>, TableError> {
        let counters = self.datapath.counters().map_err(|error| TableError::new("read the counters", error))?;
        Ok(counters.into_iter().map(VlanCounters::from).collect())
    }

    fn counters_of(&self, vlan: Vlan) -> Result<VlanCounters, TableError> {
        let failed = |error| TableError::new(format!("read the counters of vlan {vlan}"), error);
        Ok(self.datapath.counters_of(vlan).map_err(failed)?.into())
    }

    fn fill(&self) -> Vec<Fill> {
        self.datapath.fill()
    }

    fn attached(&self) -> Vec<Attached> {
        self.datapath.attached()
    }

    fn look(&self, vlan: Vlan, address: IpAddr) -> Result<Look, TableError> {
        let failed = |error| TableError::new(format!("read what becomes of packets of vlan {vlan}"), error);
        self.datapath.look(vlan, address).map_err(failed)
    }

    fn path_mtu(&self, tunnel: &TunnelId) -> Option<u32> {
        // Shown beside the row only; a map that cannot be read shows itself everywhere else.
        self.datapath.path_mtu(tunnel).ok().flatten().map(|path| path.outer)
    }

    fn follow(&mut self, wan: &[Device], inside: &Device) -> Result<bool, TableError> {
        let wans: Vec<u32> = wan.iter().map(|device| device.ifindex).filter(|&ifindex| ifindex != 0).collect();
        let mut config = DatapathConfig { wans, ..self.config.clone() };
        let (Role::Server { trunk: dev } | Role::Site { lan: dev, .. }) = &mut config.role;
        let fresh = trunk_dev(inside.ifindex, inside.veth_across);
        let same = *dev == fresh && config.wans == self.config.wans;
        // While a device is gone there is nothing to attach to, and its filters went with it.
        if same || inside.ifindex == 0 || config.wans.is_empty() {
            return Ok(false);
        }
        *dev = fresh;
        self.reopen(&config).map_err(|error| TableError::new("follow the devices", error))?;
        self.config = config;
        Ok(true)
    }
}
