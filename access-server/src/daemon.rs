//! The one task that owns the rows. Everything else sends it events and waits for the answer.
//!
//! Tasks: this one (owner of [`Gateway`] and of the [`Table`]) <- API connections, <- the route watch
//! ([`crate::route::watch`]), <- path look-ups it started itself, <- its own timer for rows that end.
//! Comes in: [`Event`]. Goes out: changes of the table, answers.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stackmap::{Owner, TunnelSpec, Vlan};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, info, warn};

use crate::fault;
use crate::gateway::{Ends, Gateway, Path, Plan, Refusal, RowRequest, Settings, Step};
use crate::metrics::Snapshot;
use crate::pulse::Pulse;
use crate::row::VlanRow;
use crate::table::{Attached, Look, Table, TableError, VlanCounters};

/// How often the paths are looked up again although nobody reported a change: netlink reports can be lost.
const SURVEY_EVERY: Duration = Duration::from_secs(60);
/// Seconds. An end later than this since the start of the machine was counted from 1970.
const YEARS_30: u64 = 946_080_000;

/// Everything that can happen to the owner.
#[derive(Debug)]
pub enum Event {
    /// A request, and where its answer goes.
    Request(Command, oneshot::Sender<Result<Reply, Failure>>),
    /// A route or a device changed.
    NetworkChanged,
    /// Paths and devices as they are now.
    Surveyed(Survey),
    /// Leave; the data path stays as it is.
    Stop,
}

/// What may be asked of the owner.
#[derive(Debug)]
pub enum Command {
    /// The daemon and its devices.
    Status,
    /// All rows.
    Rows,
    /// One row.
    Row(Vlan),
    /// Make a row so.
    Put(RowRequest),
    /// Remove a row of this owner.
    Delete(Vlan, Owner),
    /// Make this tunnel one of the VLAN's.
    PutTunnel(Vlan, Owner, TunnelSpec),
    /// Remove this tunnel from the VLAN.
    DeleteTunnel(Vlan, Owner, TunnelSpec),
    /// Make the owner have exactly these rows.
    ReplaceAll(Owner, Vec<RowRequest>),
    /// What was carried and dropped.
    Counters,
    /// The same of one VLAN.
    CountersOf(Vlan),
    /// Everything that is measured.
    Metrics,
    /// What becomes of packets of a VLAN from and to an address behind its tunnels.
    Look(Vlan, IpAddr),
}

/// What the owner answers.
#[derive(Debug)]
pub enum Reply {
    /// Settings, devices and the number of rows.
    Status(Status),
    /// Rows, each with what the data path learnt about it.
    Rows(Vec<LiveRow>),
    /// One row.
    Row(Box<LiveRow>),
    /// It is so now.
    Done,
    /// What replace-all came to.
    Replaced {
        /// VLANs that got a row.
        added: Vec<Vlan>,
        /// VLANs whose row became another.
        changed: Vec<Vlan>,
        /// VLANs that lost their row.
        removed: Vec<Vlan>,
    },
    /// Counters by VLAN.
    Counters(Vec<VlanCounters>),
    /// Counters of one VLAN.
    CountersOf(VlanCounters),
    /// Everything that is measured.
    Metrics(Box<Snapshot>),
    /// What the table says, with the state of the devices.
    Look(Box<Seen>),
}

/// What a look at the table came to.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What the table says.
    pub look: Look,
    /// Programs, with their devices as last seen.
    pub programs: Vec<(Attached, Option<Device>)>,
    /// The row's generation and owner, as they are kept beside what packets meet.
    pub row: Option<(u64, Owner)>,
    /// The WAN device of the next hop.
    pub leaves_by: Option<Device>,
}

/// A row with what is known of it beside the table.
#[derive(Debug, Clone)]
pub struct LiveRow {
    /// The row.
    pub row: VlanRow,
    /// For each tunnel, in order, the path MTU learnt from ICMP, if one is.
    pub path_mtus: Vec<Option<u32>>,
    /// Names of the devices that next hops use.
    pub devices: HashMap<u32, String>,
    /// The trunk's MTU in bytes, the limit of a row without tunnels.
    pub trunk_mtu: u32,
    /// When it was answered, in seconds since the machine was started.
    pub now: u64,
}

/// What the daemon says of itself.
#[derive(Debug, Clone)]
pub struct Status {
    /// Settings in force.
    pub settings: Settings,
    /// The WAN devices.
    pub wan: Vec<Device>,
    /// The trunk; at a site the LAN device.
    pub trunk: Option<Device>,
    /// How many rows there are.
    pub vlans: usize,
}

/// A network device as last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its index in the daemon's network namespace; 0 when it is gone.
    pub ifindex: u32,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// A veth whose other end is in another network namespace.
    pub veth_across: bool,
}

/// Why the owner did not do what was asked.
#[derive(Debug, Error)]
pub enum Failure {
    /// The request cannot be; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The data path failed; what it holds now was read back.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// What the network looks like.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// The WAN devices.
    pub wan: Vec<Device>,
    /// The trunk; at a site the LAN device.
    pub trunk: Option<Device>,
    /// The path between the ends asked for.
    pub paths: HashMap<Ends, Option<Path>>,
}

/// The network as the owner needs it: the routing table and the devices.
pub trait Network: Clone + Send + Sync + 'static {
    /// The paths between these ends.
    fn paths(&self, ends: HashSet<Ends>) -> impl Future<Output = HashMap<Ends, Option<Path>>> + Send;
    /// The devices, and the paths between these ends.
    fn survey(&self, ends: HashSet<Ends>) -> impl Future<Output = Survey> + Send;
}

/// The owner of the rows.
pub struct Daemon<T, N> {
    gateway: Gateway,
    table: T,
    network: N,
    devices: Survey,
    /// A survey is under way; `true` when another is due after it.
    surveying: Option<bool>,
    events: mpsc::Sender<Event>,
}

impl<T: Table, N: Network> Daemon<T, N> {
    /// An owner that has read back what `table` holds and brought it up to date with the network.
    ///
    /// # Errors
    /// [`TableError`] when the table cannot be read or written.
    pub async fn start(
        settings: Settings,
        table: T,
        network: N,
        events: mpsc::Sender<Event>,
    ) -> Result<Self, TableError> {
        let mut daemon = Self {
            gateway: Gateway::new(settings),
            table,
            network,
            devices: Survey::default(),
            surveying: None,
            events,
        };
        daemon.read_back()?;
        let survey = daemon.network.survey(daemon.gateway.ends()).await;
        let expired = daemon.gateway.expire(since_boot());
        daemon.apply(expired)?;
        daemon.take(survey)?;
        for row in daemon.gateway.strangers() {
            warn!(vlan = %row.vlan, owner = %row.owner, "a tunnel ends at an address that is no --local any more");
        }
        info!(rows = daemon.gateway.rows().len(), "rows read back from the data path");
        Ok(daemon)
    }

    /// Serves events until [`Event::Stop`] or until every sender is gone. Gives the table back.
    pub async fn run(mut self, mut inbox: mpsc::Receiver<Event>) -> T {
        let mut survey_timer = tokio::time::interval(SURVEY_EVERY);
        survey_timer.reset();
        let mut pulse = Pulse::from_environment();
        loop {
            let until_expiry = self.gateway.next_expiry().map(|at| at.saturating_sub(since_boot()));
            tokio::select! {
                event = inbox.recv() => match event {
                    None | Some(Event::Stop) => return self.table,
                    Some(event) => self.handle(event).await,
                },
                () = tokio::time::sleep(Duration::from_secs(until_expiry.unwrap_or(0))), if until_expiry.is_some() => {
                    self.expire();
                }
                _ = survey_timer.tick() => self.start_survey(),
                () = pulse.beat() => {}
            }
        }
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Request(command, reply) => {
                let answer = self.answer(command).await;
                if let Err(failure) = &answer {
                    debug!(%failure, "request not done");
                }
                // The asker may have hung up; what was asked is done all the same.
                let _ = reply.send(answer);
            }
            Event::NetworkChanged => self.start_survey(),
            Event::Surveyed(survey) => {
                if let Err(failure) = self.take(survey) {
                    error!(failure = %chain(&failure), "rows could not follow the network");
                }
                if self.surveying.take() == Some(true) {
                    self.start_survey();
                }
            }
            Event::Stop => {}
        }
    }

    async fn answer(&mut self, command: Command) -> Result<Reply, Failure> {
        match command {
            Command::Status => Ok(Reply::Status(Status {
                settings: self.gateway.settings().clone(),
                wan: self.devices.wan.clone(),
                trunk: self.devices.trunk.clone(),
                vlans: self.gateway.rows().len(),
            })),
            Command::Rows => Ok(Reply::Rows(self.gateway.rows().map(|row| self.live(row)).collect())),
            Command::Row(vlan) => Ok(self.reply_row(vlan)?),
            Command::Put(request) => {
                self.learn(&request.tunnels).await;
                let plan = self.gateway.put(since_boot(), &request)?;
                self.apply(plan)?;
                Ok(self.reply_row(request.vlan)?)
            }
            Command::Delete(vlan, owner) => {
                let plan = self.gateway.delete(vlan, &owner)?;
                self.apply(plan)?;
                Ok(Reply::Done)
            }
            Command::PutTunnel(vlan, owner, spec) => {
                self.learn([&spec]).await;
                let plan = self.gateway.put_tunnel(vlan, &owner, &spec)?;
                self.apply(plan)?;
                Ok(self.reply_row(vlan)?)
            }
            Command::DeleteTunnel(vlan, owner, spec) => {
                let plan = self.gateway.delete_tunnel(vlan, &owner, &spec)?;
                self.apply(plan)?;
                Ok(Reply::Done)
            }
            Command::ReplaceAll(owner, rows) => {
                self.learn(rows.iter().flat_map(|row| &row.tunnels)).await;
                let plan = self.gateway.replace_all(since_boot(), &owner, &rows)?;
                let (added, changed, removed) = (plan.added.clone(), plan.changed.clone(), plan.removed.clone());
                self.apply(plan)?;
                info!(%owner, added = added.len(), changed = changed.len(), removed = removed.len(), "rows replaced");
                Ok(Reply::Replaced { added, changed, removed })
            }
            Command::Counters => Ok(Reply::Counters(self.table.counters()?)),
            Command::CountersOf(vlan) => Ok(Reply::CountersOf(self.table.counters_of(vlan)?)),
            Command::Metrics => Ok(Reply::Metrics(Box::new(self.measured()?))),
            Command::Look(vlan, address) => Ok(Reply::Look(Box::new(self.look(vlan, address)?))),
        }
    }

    fn measured(&self) -> Result<Snapshot, TableError> {
        let name = |ifindex| self.device(ifindex).map_or_else(|| format!("if{ifindex}"), |device| device.name.clone());
        Ok(Snapshot {
            counters: self.table.counters()?,
            tunnels: self.gateway.rows().map(|row| (row.vlan.get(), row.tunnels.len() as u64)).collect(),
            fill: self.table.fill(),
            attached: self.table.attached().into_iter().map(|there| (name(there.ifindex), there)).collect(),
        })
    }

    fn look(&self, vlan: Vlan, address: IpAddr) -> Result<Seen, TableError> {
        let look = self.table.look(vlan, address)?;
        let programs = self.table.attached().into_iter().map(|there| (there, self.device(there.ifindex).cloned()));
        let hop = look.site.as_ref().and_then(|site| site.tunnel.next_hop);
        let row = self.gateway.row(vlan).ok().map(|row| (row.generation.get(), row.owner.clone()));
        Ok(Seen {
            programs: programs.collect(),
            row,
            leaves_by: hop.and_then(|hop| self.device(hop.ifindex).cloned()),
            look,
        })
    }

    /// A device as last seen, by its index.
    fn device(&self, ifindex: u32) -> Option<&Device> {
        self.devices.wan.iter().chain(&self.devices.trunk).find(|device| device.ifindex == ifindex)
    }

    /// Applies a plan step by step. When a step fails, what the table really holds is read back: the truth is there.
    fn apply(&mut self, plan: Plan) -> Result<(), TableError> {
        for step in plan.steps {
            let result = match &step {
                Step::Delete(vlan) => self.table.delete(*vlan),
                Step::Put(row) => self.table.put(row),
            };
            if let Err(failure) = result {
                self.read_back()?;
                return Err(failure);
            }
            self.gateway.done(step);
            fault::point("apply.one");
        }
        Ok(())
    }

    fn read_back(&mut self) -> Result<(), TableError> {
        let mut rows = self.table.dump()?;
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        for end in rows.iter_mut().filter_map(|row| row.expires_at.as_mut()) {
            *end = counted_since_boot(*end, unix, since_boot());
        }
        self.gateway.adopt(rows);
        Ok(())
    }

    fn expire(&mut self) {
        let plan = self.gateway.expire(since_boot());
        let removed = plan.removed.clone();
        match self.apply(plan) {
            Ok(()) if removed.is_empty() => {}
            Ok(()) => info!(vlans = ?removed, "lifetime over, rows removed"),
            Err(failure) => {
                error!(failure = %chain(&failure), "rows whose lifetime is over could not be removed")
            }
        }
    }

    /// Looks up the paths of tunnels the core has none for yet.
    async fn learn(&mut self, specs: impl IntoIterator<Item = &TunnelSpec>) {
        let ends: HashSet<Ends> = specs.into_iter().filter_map(|spec| self.gateway.unknown_ends(spec)).collect();
        if ends.is_empty() {
            return;
        }
        for (ends, path) in self.network.paths(ends).await {
            self.gateway.learn(ends, path);
        }
    }

    fn start_survey(&mut self) {
        if let Some(due) = &mut self.surveying {
            *due = true;
            return;
        }
        self.surveying = Some(false);
        let (network, ends, events) = (self.network.clone(), self.gateway.ends(), self.events.clone());
        tokio::spawn(async move {
            let survey = network.survey(ends).await;
            // Only fails when the owner has left, and then nobody wants it.
            let _ = events.send(Event::Surveyed(survey)).await;
        });
    }

    fn take(&mut self, mut survey: Survey) -> Result<(), TableError> {
        let paths = std::mem::take(&mut survey.paths);
        report_changes(&self.devices, &survey);
        let old = self.gateway.settings();
        let wan_mtu = survey.wan.iter().filter(|device| device.ifindex != 0).map(|device| device.mtu).min();
        let trunk_mtu = survey.trunk.as_ref().filter(|device| device.ifindex != 0).map(|device| device.mtu);
        let (wan_mtu, trunk_mtu) = (wan_mtu.unwrap_or(old.wan_mtu), trunk_mtu.unwrap_or(old.trunk_mtu));
        if let Some(inside) = &survey.trunk
            && self.table.follow(&survey.wan, inside)?
        {
            info!("the data path follows its devices");
        }
        self.devices = survey;
        let plan = self.gateway.repath(paths, wan_mtu, trunk_mtu);
        if !plan.steps.is_empty() {
            info!(rows = plan.steps.len(), "rows follow a change of the network");
        }
        self.apply(plan)
    }

    fn reply_row(&self, vlan: Vlan) -> Result<Reply, Refusal> {
        let row = self.gateway.row(vlan)?;
        Ok(Reply::Row(Box::new(self.live(row))))
    }

    fn live(&self, row: &VlanRow) -> LiveRow {
        let name = |ifindex: u32| Some((ifindex, self.devices.wan.iter().find(|d| d.ifindex == ifindex)?.name.clone()));
        LiveRow {
            row: row.clone(),
            path_mtus: row.tunnels.iter().map(|tunnel| self.table.path_mtu(&tunnel.id)).collect(),
            devices: row.tunnels.iter().filter_map(|tunnel| name(tunnel.next_hop?.ifindex)).collect(),
            trunk_mtu: self.gateway.settings().trunk_mtu,
            now: since_boot(),
        }
    }
}

fn report_changes(old: &Survey, new: &Survey) {
    for device in new.wan.iter().chain(&new.trunk) {
        let before = old.wan.iter().chain(&old.trunk).find(|d| d.name == device.name);
        match before {
            Some(before) if before != device => {
                warn!(
                    device = device.name,
                    up = device.up,
                    mtu = device.mtu,
                    present = device.ifindex != 0,
                    "device changed"
                );
            }
            _ => {}
        }
    }
}

/// An error and its causes in one line, for the log and for problem documents.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Seconds since the machine was started, time asleep included: rows live in the kernel, so none is older than it, and
/// setting the clock ends none early nor keeps one.
fn since_boot() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for the answer.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    if done == 0 { u64::try_from(now.tv_sec).unwrap_or(0) } else { 0 }
}

/// The end of a row as this version counts it. Earlier versions counted from 1970, which no machine has been running for.
fn counted_since_boot(end: u64, unix: u64, boot: u64) -> u64 {
    if end < YEARS_30 { end } else { boot + end.saturating_sub(unix) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_an_earlier_version_wrote_keeps_what_is_left_of_it() {
        let (unix, boot) = (1_790_000_000, 5_000);
        assert_eq!(counted_since_boot(5_060, unix, boot), 5_060);
        assert_eq!(counted_since_boot(unix + 60, unix, boot), 5_060);
        assert_eq!(counted_since_boot(unix - 60, unix, boot), boot, "over");
    }
}
