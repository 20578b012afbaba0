//! The patch room: a network namespace that holds the trunks and every port and nothing else - no address, no IPv6, no
//! forwarding, no process. One mount pins it. The data path's loader works in the network namespace of its thread, so
//! one thread lives in the room and does what it is sent; it also has the room's netlink socket, because a device that is
//! deleted takes its time in the kernel, which only the tenant in question waits for.
//!
//! One long file, because everything in it runs in the one thread, and each call stands beside the work that it sends there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;

use stackmap::{MacAddr, Segment, TrunkIndex, Vlan};
use vlan_rs::{
    CounterReader, Counters, FilterError, Layer, OpenError, OpenOptions, PortConfig, PortError, PortId, PortLook,
    Program, RateLimit, Room, TableError, Tag, TrunkConfig, TrunkError, TrunkMode, Usage, Vid, VidError,
};

use crate::fault;
use crate::trunks::TrunkSpec;

use super::link::{self, Link, NetlinkError, VethEnd};
use super::ns::{NetNs, NsError, is_pinned};
use super::qdisc::{self, LimitError, Rate};
use super::rtnl::Netlink;

/// Why the patch room could not be set up or used.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The namespace.
    #[error("the patch room's namespace")]
    Ns(#[from] NsError),
    /// A device.
    #[error("a device of the patch room")]
    Link(#[from] NetlinkError),
    /// The trunk leads into a room that is pinned somewhere else.
    #[error(
        "trunk: {near:?} refused: it leads into a patch room that is not pinned at {pin}; another tenantd of this \
         instance has another --run-dir: use that one, or another --instance"
    )]
    Inhabited {
        /// Near end of the trunk.
        near: String,
        /// Where the room should be pinned.
        pin: String,
    },
    /// What a room that is gone left pinned could not be removed.
    #[error("cannot remove the pins of an earlier patch room")]
    Discard(#[source] std::io::Error),
    /// The data path could not be loaded or adopted.
    #[error("cannot load the data path of the patch room")]
    Open(#[from] OpenError),
    /// The trunk could not be put into the data path.
    #[error("cannot put the trunk into the data path")]
    Trunk(#[from] TrunkError),
    /// A port could not be put into the data path.
    #[error("cannot put the port into the data path")]
    Port(#[from] PortError),
    /// A table of the data path.
    #[error("cannot read the data path's tables")]
    Table(#[from] TableError),
    /// A device's program.
    #[error("cannot see the program of a port")]
    Program(#[from] FilterError),
    /// A number that is no VLAN.
    #[error(transparent)]
    Vid(#[from] VidError),
    /// The trunk was given by name and is not there.
    #[error("trunk: {device:?} refused: no such device here or in the patch room")]
    NoTrunk {
        /// Name given.
        device: String,
    },
    /// The trunk is down.
    #[error("trunk: {device:?} refused: the device is down; set it up first")]
    TrunkDown {
        /// Name given.
        device: String,
    },
    /// The trunk takes packets that are too short for IPv6.
    #[error("trunk: {device:?} refused: the device has MTU {mtu}, at least {TRUNK_MTU_MIN} is needed: {} too small", TRUNK_MTU_MIN - .mtu)]
    TrunkMtu {
        /// Name given.
        device: String,
        /// Its MTU in bytes.
        mtu: u32,
    },
    /// The name of a device to be made is taken.
    #[error("device {device} in {place} is not ours and in the way: rename or delete it")]
    Taken {
        /// Device.
        device: String,
        /// Where.
        place: &'static str,
    },
    /// A discipline of a port or of the trunk.
    #[error("bandwidth")]
    Bandwidth(#[from] LimitError),
    /// There is no trunk of this number.
    #[error("trunk: number {0} is none of this instance's trunks; name it with --trunk")]
    UnknownTrunk(TrunkIndex),
    /// The trunk was there and is not.
    #[error("trunk {name} is lost: {cause}")]
    Lost {
        /// Its name.
        name: String,
        /// Why it could not be mended.
        cause: String,
    },
    /// The thread of the room has ended.
    #[error("the thread of the patch room has ended")]
    Gone,
}

/// What the thread of the room has.
pub struct Inside {
    /// The data path.
    pub room: Room,
    /// Netlink in the room.
    pub netlink: Netlink,
}

type Job = Box<dyn FnOnce(&mut Inside) + Send>;

/// The room and its thread.
pub struct PatchRoom {
    /// The namespace.
    pub ns: NetNs,
    trunks: BTreeMap<TrunkIndex, Laid>,
    jobs: mpsc::Sender<Job>,
    _thread: JoinHandle<()>,
}

/// A trunk and how it is.
struct Laid {
    spec: TrunkSpec,
    /// As it was when it was there last.
    now: Trunk,
    /// Why it is not as it should be.
    lost: Option<String>,
}

/// What the room has of one VLAN.
#[derive(Debug, Clone)]
pub struct PortFacts {
    /// The port's device.
    pub link: Option<Link>,
    /// Its row in the data path.
    pub row: Option<PortConfig>,
    /// The port's program is on its device.
    pub program: bool,
    /// Bandwidth towards the tenant.
    pub towards: Option<Rate>,
    /// Bandwidth from the tenant.
    pub from: Option<Rate>,
}

/// A trunk.
#[derive(Debug, Clone, Copy)]
pub struct Trunk {
    /// Device index in the patch room.
    pub room_ifindex: u32,
    /// Device index of the near end in our own namespace, when tenantd made the trunk.
    pub near_ifindex: Option<u32>,
    /// MTU in bytes.
    pub mtu: u32,
}

/// Room enough for any tunnel's inner packet and its tag.
const TRUNK_MTU: u32 = 9216;
/// The least MTU of a trunk: what every IPv6 link must take (RFC 8200 section 5). The tag is not counted in it.
const TRUNK_MTU_MIN: u32 = 1280;

impl PatchRoom {
    /// Make or find the room pinned at `pin`, make or find its trunks, load or adopt the data path pinned at `bpf_dir`. A
    /// trunk whose number is in `used` and that is not there hinders no other one: it is waited for.
    ///
    /// # Errors
    /// The step that failed; that of the first trunk, when no trunk is there.
    pub async fn open(
        pin: &Path,
        bpf_dir: &Path,
        specs: &[TrunkSpec],
        used: &BTreeSet<TrunkIndex>,
    ) -> Result<Self, PatchError> {
        let here = Netlink::open().map_err(NsError::Netlink)?;
        let ns = match is_pinned(pin) {
            true => NetNs::open(pin)?,
            false => {
                for spec in specs.iter().filter(|spec| spec.card.is_none()) {
                    if link::find(&here, &spec.near)?.is_some() {
                        return Err(PatchError::Inhabited { near: spec.near.clone(), pin: pin.display().to_string() });
                    }
                }
                // What is pinned belongs to a room that is gone: its device numbers mean nothing in a new one.
                vlan_rs::discard(bpf_dir).map_err(PatchError::Discard)?;
                let made = NetNs::create_pinned(pin)?;
                fault::point("room.pinned");
                made
            }
        };
        let netlink = ns.netlink()?;
        let (mut trunks, mut first_lost) = (BTreeMap::new(), None);
        for spec in specs {
            let (now, lost) = match lay(&here, &netlink, &ns, spec) {
                Ok(now) => (now, None),
                Err(error) if used.contains(&spec.number) && specs.len() > 1 => {
                    let cause = crate::owner::chain(&error);
                    tracing::error!(trunk = spec.name, cause, "a trunk is not there; its tenants wait for it");
                    first_lost.get_or_insert(error);
                    (Trunk { room_ifindex: 0, near_ifindex: None, mtu: TRUNK_MTU_MIN }, Some(cause))
                }
                Err(error) => return Err(error),
            };
            trunks.insert(spec.number, Laid { spec: spec.clone(), now, lost });
        }
        let there: Vec<TrunkConfig> = trunks.values().filter(|laid| laid.lost.is_none()).map(Laid::config).collect();
        if let (Some(error), true) = (first_lost, there.is_empty()) {
            return Err(error);
        }
        remove_unsaid(&netlink, specs)?;
        fault::point("room.trunk");
        for trunk in &there {
            qdisc::clear_empty(&netlink, trunk.ifindex)?;
        }
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (ready, opened) = tokio::sync::oneshot::channel();
        let room_ns = NetNs::open(pin)?;
        let options = OpenOptions { longer_rows: fault::longer_rows(), ..OpenOptions::new(bpf_dir) };
        let thread = std::thread::Builder::new()
            .name("patch-room".into())
            .spawn(move || {
                // A thread of its own for good: it never leaves the room again.
                let result = room_ns.run(|| match open_room(&options, &there) {
                    Ok(room) => {
                        let _ = ready.send(Ok(()));
                        let mut inside = Inside { room, netlink };
                        for job in inbox {
                            job(&mut inside);
                        }
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                });
                if let Err(error) = result {
                    tracing::error!(%error, "the thread of the patch room could not enter it");
                }
            })
            .map_err(NsError::Thread)?;
        opened.await.map_err(|_| PatchError::Gone)??;
        Ok(Self { ns, trunks, jobs, _thread: thread })
    }

    /// Makes sure of every trunk: both ends there, up and as long as they were, the program on it. `here` is netlink in our
    /// own namespace. Returns what differed of each; a new trunk has another index, and every port of it has to be bound
    /// again.
    pub async fn mend_trunks(&mut self, here: &Netlink) -> Vec<(TrunkIndex, Result<Vec<String>, PatchError>)> {
        let numbers: Vec<TrunkIndex> = self.trunks.keys().copied().collect();
        let mut all = Vec::with_capacity(numbers.len());
        for number in numbers {
            let mended = self.mend_trunk(here, number).await;
            if let Some(laid) = self.trunks.get_mut(&number) {
                laid.lost = mended.as_ref().err().map(|error| crate::owner::chain(error));
            }
            all.push((number, mended));
        }
        all
    }

    async fn mend_trunk(&mut self, here: &Netlink, number: TrunkIndex) -> Result<Vec<String>, PatchError> {
        let laid = self.laid(number)?;
        let (spec, now) = (laid.spec.clone(), laid.now);
        let mut found = Vec::new();
        let (far_name, asked) = (spec.far(), spec.far());
        let far = self.work(move |inside| link::find(&inside.netlink, &asked)).await?;
        found.extend(end_differs(&far_name, far.as_ref(), now.room_ifindex, now.mtu));
        if let Some(index) = now.near_ifindex {
            let near = link::find(here, &spec.near)?;
            found.extend(end_differs(&spec.near, near.as_ref(), index, now.mtu));
        }
        if !found.is_empty() {
            let room = self.ns.netlink()?;
            let now = lay(here, &room, &self.ns, &spec)?;
            self.trunks.entry(number).and_modify(|laid| laid.now = now);
        }
        let config = self.laid(number)?.config();
        let index = config.ifindex;
        if !self.work(move |inside| inside.room.is_attached(Program::Trunk, index)).await? {
            found.push(format!("the program of the trunk {far_name} is missing"));
        }
        if !found.is_empty() {
            self.work(move |inside| inside.room.attach_trunk(&config)).await?;
        }
        Ok(found)
    }

    fn laid(&self, number: TrunkIndex) -> Result<&Laid, PatchError> {
        self.trunks.get(&number).ok_or(PatchError::UnknownTrunk(number))
    }

    /// A trunk as the room saw it last.
    ///
    /// # Errors
    /// [`PatchError::UnknownTrunk`].
    pub fn trunk(&self, number: TrunkIndex) -> Result<Trunk, PatchError> {
        self.laid(number).map(|laid| laid.now)
    }

    /// Whether a trunk can be used.
    ///
    /// # Errors
    /// [`PatchError::Lost`], [`PatchError::UnknownTrunk`].
    pub fn check_trunk(&self, number: TrunkIndex) -> Result<(), PatchError> {
        let laid = self.laid(number)?;
        match &laid.lost {
            Some(cause) => Err(PatchError::Lost { name: laid.spec.name.clone(), cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Every trunk as it is said.
    pub fn specs(&self) -> impl Iterator<Item = &TrunkSpec> {
        self.trunks.values().map(|laid| &laid.spec)
    }

    /// Devices of the trunks in the room, by number.
    pub fn devices(&self) -> BTreeMap<TrunkIndex, u32> {
        self.trunks.iter().map(|(number, laid)| (*number, laid.now.room_ifindex)).collect()
    }

    /// Pins the room again when somebody has unmounted it: it would end with this process, and with it every port. True
    /// when that was needed.
    pub fn keep_pinned(&self, pin: &Path) -> Result<bool, NsError> {
        if is_pinned(pin) {
            return Ok(false);
        }
        if let Some(dir) = pin.parent() {
            let _ = std::fs::create_dir_all(dir);
        }
        self.ns.pin(pin).map(|()| true)
    }

    /// Do `work` in the room and wait for its result.
    ///
    /// # Errors
    /// Those of `work`, and [`PatchError::Gone`].
    pub async fn work<T: Send + 'static, E: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Inside) -> Result<T, E> + Send + 'static,
    ) -> Result<T, PatchError>
    where
        PatchError: From<E>,
    {
        done(&self.jobs, work).await
    }

    /// All that the room has of a VLAN.
    ///
    /// # Errors
    /// A table, netlink.
    pub async fn look(&self, at: Segment) -> Result<PortFacts, PatchError> {
        let tag = self.tag(at)?;
        let there = self.laid(at.trunk)?.lost.is_none();
        self.work(move |inside| {
            let link = link::find(&inside.netlink, &port_name(at))?;
            let (towards, program) = match &link {
                Some(link) => {
                    let program = inside.room.is_attached(Program::Port, link.index)?;
                    (qdisc::towards(&inside.netlink, link.index)?, program)
                }
                None => (None, false),
            };
            let from = if there { qdisc::from(&inside.netlink, tag.trunk, at.vlan.get())? } else { None };
            Ok::<_, PatchError>(PortFacts { link, row: inside.room.port(tag)?, program, towards, from })
        })
        .await
    }

    /// The device of a VLAN's port.
    ///
    /// # Errors
    /// Netlink.
    pub async fn device(&self, at: Segment) -> Result<Option<Link>, PatchError> {
        self.work(move |inside| link::find(&inside.netlink, &port_name(at))).await
    }

    /// Deletes the port's device with its other end; one that is not there is deleted already, and one of its name that
    /// leads nowhere is not ours.
    ///
    /// # Errors
    /// Netlink.
    pub async fn delete_port(&self, at: Segment) -> Result<(), PatchError> {
        self.work(move |inside| {
            let name = port_name(at);
            match link::find(&inside.netlink, &name)? {
                Some(port) if port.across.is_some() => link::delete(&inside.netlink, &name),
                _ => Ok(()),
            }
        })
        .await
    }

    /// A way to read the room's tables for who is not its owner.
    pub fn reader(&self) -> RoomReader {
        RoomReader { jobs: self.jobs.clone(), trunks: self.devices() }
    }

    fn tag(&self, at: Segment) -> Result<Tag, PatchError> {
        tag_on(self.trunk(at.trunk)?.room_ifindex, at.vlan)
    }

    /// Put a port into the data path, or change it in place.
    pub async fn bind(&self, port: PortConfig) -> Result<(), PatchError> {
        self.work(move |inside| inside.room.put_port(&port)).await.map(drop)
    }

    /// Take the port of a VLAN out of the data path; one that is not there is out already.
    pub async fn unbind(&self, at: Segment) -> Result<(), PatchError> {
        let tag = self.tag(at)?;
        self.work(move |inside| inside.room.delete_port(PortId::Tag(tag))).await
    }

    /// All VLANs with a port in the data path.
    pub async fn segments(&self) -> Result<Vec<Segment>, PatchError> {
        let ports = self.work(|inside| inside.room.ports()).await?;
        let by_device: BTreeMap<u32, TrunkIndex> = self.devices().into_iter().map(|(n, device)| (device, n)).collect();
        let at = |port: PortConfig| {
            let vlan = Vlan::new(port.vid.get()).ok()?;
            Some(Segment { trunk: *by_device.get(&port.trunk)?, vlan })
        };
        Ok(ports.into_iter().filter_map(at).collect())
    }

    /// Counters of a VLAN; none when it has no port.
    pub async fn counters(&self, at: Segment) -> Result<Option<Counters>, PatchError> {
        let tag = self.tag(at)?;
        self.work(move |inside| inside.room.counters_of(tag)).await
    }
}

impl Laid {
    fn config(&self) -> TrunkConfig {
        let mode = if self.spec.card.is_none() { TrunkMode::Peer } else { TrunkMode::Plain };
        TrunkConfig::new(self.now.room_ifindex, mode)
    }
}

/// Sends work to the thread of the room and waits for its result.
async fn done<T: Send + 'static, E: Send + 'static>(
    jobs: &mpsc::Sender<Job>,
    work: impl FnOnce(&mut Inside) -> Result<T, E> + Send + 'static,
) -> Result<T, PatchError>
where
    PatchError: From<E>,
{
    let (reply, answer) = tokio::sync::oneshot::channel();
    let job = Box::new(move |inside: &mut Inside| {
        let _ = reply.send(work(inside));
    });
    jobs.send(job).map_err(|_| PatchError::Gone)?;
    Ok(answer.await.map_err(|_| PatchError::Gone)??)
}

fn tag_on(trunk: u32, vlan: Vlan) -> Result<Tag, PatchError> {
    Ok(Tag { trunk, vid: Vid::try_from(vlan.get())? })
}

/// Reads the room's tables. Its questions queue up with the owner's work at the room's thread.
#[derive(Debug, Clone)]
pub struct RoomReader {
    jobs: mpsc::Sender<Job>,
    trunks: BTreeMap<TrunkIndex, u32>,
}

impl RoomReader {
    /// Devices of the trunks in the room, by number.
    pub fn trunks(&self) -> &BTreeMap<TrunkIndex, u32> {
        &self.trunks
    }

    /// The tag that frames of a VLAN have on their trunk.
    ///
    /// # Errors
    /// [`PatchError::UnknownTrunk`].
    pub fn tag(&self, at: Segment) -> Result<Tag, PatchError> {
        tag_on(*self.trunks.get(&at.trunk).ok_or(PatchError::UnknownTrunk(at.trunk))?, at.vlan)
    }

    /// All ports, by device, read from the kernel.
    ///
    /// # Errors
    /// [`PatchError`].
    pub async fn ports(&self) -> Result<Vec<PortConfig>, PatchError> {
        done(&self.jobs, |inside| inside.room.ports()).await
    }

    /// The port of a VLAN as frames meet it, row by row; `device` is the port's index, where there is one.
    ///
    /// # Errors
    /// [`PatchError`].
    pub async fn look(&self, at: Segment, device: Option<u32>) -> Result<PortLook, PatchError> {
        let tag = self.tag(at)?;
        done(&self.jobs, move |inside| inside.room.look(tag, device)).await
    }

    /// A reader of all counters, which needs the room's thread no more, and how full the tables are.
    ///
    /// # Errors
    /// [`PatchError`].
    pub async fn counter_reader(&self) -> Result<(CounterReader, Usage), PatchError> {
        done(&self.jobs, |inside| Ok::<_, TableError>((inside.room.counter_reader()?, inside.room.usage()))).await
    }

    /// The port that frames with the tag of a VLAN go to.
    ///
    /// # Errors
    /// [`PatchError`].
    pub async fn bound(&self, at: Segment) -> Result<Option<PortConfig>, PatchError> {
        let tag = self.tag(at)?;
        done(&self.jobs, move |inside| inside.room.port(tag)).await
    }
}

fn open_room(options: &OpenOptions, trunks: &[TrunkConfig]) -> Result<Room, PatchError> {
    let mut room = Room::open(options)?;
    for trunk in trunks {
        room.attach_trunk(trunk)?;
    }
    Ok(room)
}

/// Makes or finds both ends of a trunk.
fn lay(here: &Netlink, room: &Netlink, ns: &NetNs, spec: &TrunkSpec) -> Result<Trunk, PatchError> {
    match spec.card.as_deref() {
        Some(card) => take_card(here, room, ns, card),
        None => make_pair(here, room, &spec.near, &spec.far()),
    }
}

/// Deletes pairs that were made for trunks that are no longer said; that nobody is on them was asked before.
fn remove_unsaid(room: &Netlink, specs: &[TrunkSpec]) -> Result<(), PatchError> {
    for (name, link) in link::list(room)? {
        let made = name == "trunk" || name.strip_prefix("trunk-").is_some_and(|n| n.parse::<u16>().is_ok());
        if made && link.across.is_some() && !specs.iter().any(|spec| spec.far() == name) {
            link::delete(room, &name)?;
        }
    }
    Ok(())
}

/// What differs of one end of the trunk.
fn end_differs(name: &str, found: Option<&Link>, index: u32, mtu: u32) -> Option<String> {
    let words = match found {
        None => "is missing".to_owned(),
        Some(link) if link.index != index => "is another device".to_owned(),
        Some(link) if !link.up => "is down".to_owned(),
        Some(link) if link.mtu != mtu => format!("has MTU {}, not {mtu}", link.mtu),
        Some(_) => return None,
    };
    Some(format!("the trunk's end {name} {words}"))
}

fn make_pair(here: &Netlink, room: &Netlink, near: &str, far_name: &str) -> Result<Trunk, PatchError> {
    if link::find(room, far_name)?.is_none() {
        // Made from inside the room with the near end in place: no device is ever moved.
        let ns = NetNs::current()?;
        let far = VethEnd { name: far_name, mac: None, mtu: TRUNK_MTU };
        let near_end = VethEnd { name: near, mac: None, mtu: TRUNK_MTU };
        link::add_veth(room, far, near_end, std::os::fd::AsFd::as_fd(&ns))?;
    }
    let missing = |device: &str| PatchError::NoTrunk { device: device.into() };
    let far = link::find(room, far_name)?.ok_or_else(|| missing(far_name))?;
    let near_link = link::find(here, near)?.ok_or_else(|| missing(near))?;
    for (netlink, link) in [(room, &far), (here, &near_link)] {
        if link.mtu != TRUNK_MTU {
            link::set_mtu(netlink, link.index, TRUNK_MTU)?;
        }
        if !link.up {
            link::without_link_local(netlink, link.index).or_else(ignore_missing_ipv6)?;
            link::set_up(netlink, link.index)?;
        }
    }
    Ok(Trunk { room_ifindex: far.index, near_ifindex: Some(near_link.index), mtu: TRUNK_MTU })
}

/// A namespace whose IPv6 is switched off has no address mode to set.
fn ignore_missing_ipv6(error: NetlinkError) -> Result<(), NetlinkError> {
    match error.errno() {
        Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL) => Ok(()),
        _ => Err(error),
    }
}

/// Looks at the network card that is to be the trunk, before anything is made for it. One that an earlier run gave to
/// the room pinned at `pin` is not looked for here.
///
/// # Errors
/// [`PatchError`] when the card is missing, down or too narrow.
pub fn check_card(pin: &Path, card: &str) -> Result<(), PatchError> {
    if is_pinned(pin) {
        return Ok(());
    }
    usable_card(&Netlink::open().map_err(NsError::Netlink)?, card).map(drop)
}

fn usable_card(here: &Netlink, card: &str) -> Result<Link, PatchError> {
    let device = || card.to_owned();
    let found = link::find(here, card)?.ok_or_else(|| PatchError::NoTrunk { device: device() })?;
    if !found.up {
        return Err(PatchError::TrunkDown { device: device() });
    }
    if found.mtu < TRUNK_MTU_MIN {
        return Err(PatchError::TrunkMtu { device: device(), mtu: found.mtu });
    }
    Ok(found)
}

fn take_card(here: &Netlink, room: &Netlink, ns: &NetNs, card: &str) -> Result<Trunk, PatchError> {
    if link::find(room, card)?.is_none() {
        let found = usable_card(here, card)?;
        link::give_away(here, found.index, std::os::fd::AsFd::as_fd(ns))?;
    }
    let moved = link::find(room, card)?.ok_or_else(|| PatchError::NoTrunk { device: card.into() })?;
    if !moved.up {
        link::set_up(room, moved.index)?;
    }
    Ok(Trunk { room_ifindex: moved.index, near_ifindex: None, mtu: moved.mtu })
}

/// Name of a VLAN's port in the patch room: `p600`, on a trunk other than the first `p1-600`.
pub fn port_name(at: Segment) -> String {
    match at.trunk.get() {
        0 => format!("p{}", at.vlan),
        trunk => format!("p{trunk}-{}", at.vlan),
    }
}

/// The VLAN of a port's name.
pub fn port_segment(name: &str) -> Option<Segment> {
    let numbers = name.strip_prefix('p')?;
    let (trunk, vlan) = match numbers.split_once('-') {
        Some((trunk, vlan)) => (TrunkIndex(trunk.parse().ok()?), vlan),
        None => (TrunkIndex::default(), numbers),
    };
    let at = Segment { trunk, vlan: Vlan::new(vlan.parse().ok()?).ok()? };
    // One name each: `p0-600` and `p+600` are nobody's.
    (port_name(at) == name).then_some(at)
}

/// The row of the data path for a port.
pub struct PortRow {
    /// Device index in the patch room.
    pub ifindex: u32,
    /// Trunk and tag.
    pub at: Segment,
    /// The tenant's only Ethernet address.
    pub mac: MacAddr,
    /// Ethernet address that answers for the sites.
    pub gateway_mac: MacAddr,
    /// MTU in bytes.
    pub mtu: u32,
    /// Sites are asked for by ARP and ND through the tunnel (layer 2).
    pub asks: bool,
    /// Prefixes the port answers for.
    pub answer: Vec<ipnet::IpNet>,
    /// Class of the trunk that its frames leave through; 0: none.
    pub class: u32,
}

impl PortRow {
    /// The row in the words of the data path.
    pub fn config(self, room: &PatchRoom) -> Result<PortConfig, PatchError> {
        let tag = room.tag(self.at)?;
        Ok(PortConfig {
            ifindex: self.ifindex,
            trunk: tag.trunk,
            vid: tag.vid,
            mac: self.mac.octets(),
            gateway_mac: self.gateway_mac.octets(),
            layer: if self.asks { Layer::Two } else { Layer::Three },
            mtu: self.mtu,
            answer: self.answer,
            neighbour_rate: RateLimit::default(),
            packet_rate: vlan_rs::PACKET_RATE,
            class: self.class,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_of_a_port_is_that_of_one_vlan() {
        for (name, segment) in [("p600", "vlan600"), ("p1-600", "trunk1/vlan600"), ("p63-4094", "trunk63/vlan4094")] {
            let at: Segment = segment.parse().unwrap();
            assert_eq!((port_name(at).as_str(), port_segment(name)), (name, Some(at)));
        }
        for name in ["p", "p0", "p4095", "p0-600", "p1-", "p-600", "p+600", "p0600", "q600", "p1-2-3", "trunk"] {
            assert_eq!(port_segment(name), None, "{name}");
        }
    }
}
