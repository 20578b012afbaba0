//! Loading: programs are always new, tables are adopted from the pin directory when they are there.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapHandle, MapMut, OpenMapMut, OpenObject};

use crate::config::{MAX_TRUNKS, OpenOptions};
use crate::layout::{self, CarryError, Found};
use crate::skel::types::room_row;
use crate::skel::{OpenVlanSkel, VlanSkelBuilder};
use crate::steps::passed;
use crate::tables::{Row, Table, TableError, answers, counters, limits, ports, rates, trunks};

// SAFETY: plain numbers; the size asserted in room.h leaves no room for padding.
unsafe impl Row for room_row {}

/// As ROOM_LAYOUT in room.h.
const LAYOUT: u32 = 1;

/// Prefixes a room has place for, for each port it has place for.
const ANSWERS_PER_PORT: u32 = 16;

/// Socket option of Linux 5.14, which the libc crate lacks.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// `statfs` type of a bpffs.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// A room could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The pin directory could not be made.
    #[error("make the pin directory {}", path.display())]
    PinDirectory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The pin directory cannot hold pins.
    #[error("{} is not in a bpffs: mount one there (mount -t bpf bpf DIR)", path.display())]
    NotBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// A pinned table is of a newer version, or of one that this one does not know. Nothing was changed: the programs on
    /// the devices go on with it.
    #[error("pinned table {}: {field} is {pinned}, this version has {ours}: made by another version, probably a newer one; run that one, or end its users and remove the directory", path.display())]
    Layout {
        /// The pin.
        path: PathBuf,
        /// What differs.
        field: &'static str,
        /// There.
        pinned: u64,
        /// Here.
        ours: u64,
    },
    /// The pinned tables name devices of another namespace.
    #[error("tables in {} belong to network namespace {pinned} (cookie), this is {ours}; discard() them if that one is gone", path.display())]
    OtherNamespace {
        /// The pin directory.
        path: PathBuf,
        /// Cookie of the namespace the tables belong to.
        pinned: u64,
        /// Cookie of the calling thread's namespace.
        ours: u64,
    },
    /// The cookie of the calling thread's namespace cannot be read.
    #[error("read the network namespace's cookie (needs Linux 5.14)")]
    Namespace(#[source] io::Error),
    /// The kernel refused a step of loading.
    #[error("{step}{}", path.as_ref().map(|p| format!(" {}", p.display())).unwrap_or_default())]
    Load {
        /// What was tried.
        step: &'static str,
        /// On which pin.
        path: Option<PathBuf>,
        /// Why.
        #[source]
        source: libbpf_rs::Error,
    },
    /// The rows of an older version could not be carried over.
    #[error(transparent)]
    Carry(#[from] CarryError),
    /// A table could not be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
}

fn load_error(step: &'static str, path: Option<&Path>) -> impl FnOnce(libbpf_rs::Error) -> OpenError {
    let path = path.map(Path::to_owned);
    move |source| OpenError::Load { step, path, source }
}

/// Everything that is loaded.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) trunk_program: OwnedFd,
    pub(crate) port_program: OwnedFd,
    pub(crate) by_tag: ports::ByTag,
    pub(crate) by_ifindex: ports::ByIfindex,
    pub(crate) trunks: trunks::Trunks,
    pub(crate) answers: answers::Answers,
    pub(crate) traffic: counters::TrafficBySlot,
    pub(crate) drops: counters::DropsBySlot,
    pub(crate) rates: rates::Rates,
    pub(crate) limits: limits::Limits,
    pub(crate) verdict: counters::LastVerdict,
}

/// Identifies a network namespace as long as the machine runs; never re-used, unlike inode numbers.
fn netns_cookie() -> io::Result<u64> {
    use std::os::fd::AsRawFd;
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    let mut cookie = 0u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(8);
    // SAFETY: the option writes 8 bytes, which is what cookie has and length says.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &mut length,
        )
    };
    if rc == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

fn is_bpffs(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    let mut answer = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: a C string and a buffer of the right type.
    let rc = unsafe { libc::statfs(path.as_ptr(), answer.as_mut_ptr()) };
    // SAFETY: the call succeeded and so wrote the buffer. (The type of f_type differs between targets.)
    #[allow(clippy::unnecessary_cast)]
    let kind = |()| unsafe { answer.assume_init() }.f_type as u64;
    rc == 0 && kind(()) & 0xffff_ffff == BPF_FS_MAGIC
}

/// Takes the pinned table in place of a new one; one of an older version is returned, to be carried over.
fn adopt(map: &mut OpenMapMut<'_>, pin: &Path) -> Result<Start, OpenError> {
    let found = layout::look(map, pin).map_err(load_error("look at the pin", Some(pin)))?;
    let pinned = match &found {
        Found::Absent => return Ok(Start::Fresh),
        Found::Other(field, pinned, ours) => {
            let (pinned, ours) = (u64::from(*pinned), u64::from(*ours));
            return Err(OpenError::Layout { path: pin.to_owned(), field, pinned, ours });
        }
        Found::Same(pinned) | Found::Older(pinned) => pinned,
    };
    map.set_max_entries(pinned.max_entries()).map_err(load_error("size the table as", Some(pin)))?;
    if let Found::Older(pinned) = found {
        return Ok(Start::Older(pinned));
    }
    map.reuse_fd(pinned.as_fd()).map_err(load_error("adopt", Some(pin)))?;
    Ok(Start::Adopted)
}

/// What a table begins with.
enum Start {
    /// Nothing.
    Fresh,
    /// What is pinned.
    Adopted,
    /// The rows of this one.
    Older(MapHandle),
}

fn handle<K: Row, V: Row>(map: &MapMut<'_>) -> Result<Table<K, V>, OpenError> {
    Ok(Table::new(MapHandle::try_from(map).map_err(load_error("hold a table", None))?))
}

/// The tables that are pinned, with the rows they have place for.
fn pinned_maps<'a, 'obj>(open: &'a mut OpenVlanSkel<'obj>, ports: u32) -> [(&'a mut OpenMapMut<'obj>, u32); 9] {
    let slots = ports.saturating_add(MAX_TRUNKS + 1);
    let maps = &mut open.maps;
    [
        (&mut maps.room, 1),
        (&mut maps.ports_by_tag, ports),
        (&mut maps.ports_by_ifindex, ports),
        (&mut maps.trunks, MAX_TRUNKS),
        (&mut maps.answers, ports.saturating_mul(ANSWERS_PER_PORT)),
        (&mut maps.traffic_by_slot, slots),
        (&mut maps.drops_by_slot, slots),
        (&mut maps.rates_by_slot, slots),
        (&mut maps.limits_by_slot, slots),
    ]
}

/// Loads the programs, adopts or makes the tables.
pub(crate) fn load(options: &OpenOptions) -> Result<Loaded, OpenError> {
    let dir = &options.pin_dir;
    // Asked before anything is made: a plain directory must not be littered.
    let existing = dir.ancestors().find(|path| path.exists()).unwrap_or(dir);
    if !is_bpffs(existing) {
        return Err(OpenError::NotBpffs { path: dir.clone() });
    }
    std::fs::create_dir_all(dir).map_err(|source| OpenError::PinDirectory { path: dir.clone(), source })?;

    let mut storage = MaybeUninit::<OpenObject>::uninit();
    let mut open = VlanSkelBuilder::default().open(&mut storage).map_err(load_error("open the BPF object", None))?;
    if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
        rodata.record_verdicts = options.record_verdicts;
    }
    let mut starts = BTreeMap::new();
    for (map, rows) in pinned_maps(&mut open, options.max_ports) {
        let name = map.name().to_owned();
        if options.longer_rows.iter().any(|table| name == *table) {
            let longer = map.value_size() + 8;
            map.set_value_size(longer).map_err(load_error("size a table's rows", None))?;
        }
        let start = adopt(map, &dir.join(&name))?;
        if matches!(start, Start::Fresh) {
            map.set_max_entries(rows).map_err(load_error("size a table", None))?;
        }
        starts.insert(name, start);
    }
    // Tables that are not pinned have rows for the slots there are, which an adopted table says.
    let slots = open.maps.rates_by_slot.max_entries();
    for map in [&mut open.maps.floods_by_slot, &mut open.maps.shares_by_slot] {
        map.set_max_entries(slots).map_err(load_error("size a table", None))?;
    }
    let mut skel = open.load().map_err(load_error("load the BPF programs", None))?;

    let maps = &mut skel.maps;
    let mut pinned = [
        &mut maps.room,
        &mut maps.ports_by_tag,
        &mut maps.ports_by_ifindex,
        &mut maps.trunks,
        &mut maps.answers,
        &mut maps.traffic_by_slot,
        &mut maps.drops_by_slot,
        &mut maps.rates_by_slot,
        &mut maps.limits_by_slot,
    ];
    for map in &pinned {
        if let Some(Start::Older(old)) = starts.get(map.name()) {
            layout::copy(old, map)?;
            passed("room.copied");
        }
    }
    // The room's row is written before its pin, so a pinned room is never a blank one.
    let room: Table<u32, room_row> = handle(pinned[0])?;
    belongs_here(&room, dir)?;
    for map in &mut pinned {
        let pin = dir.join(map.name());
        match starts.get(map.name()) {
            Some(Start::Fresh) => map.pin(&pin).map_err(load_error("pin", Some(&pin)))?,
            Some(Start::Older(_)) => {
                layout::replace_pin(map, &pin)?;
                passed("room.carried");
            }
            Some(Start::Adopted) | None => {}
        }
    }

    let own = |fd: std::os::fd::BorrowedFd<'_>| {
        fd.try_clone_to_owned().map_err(|e| load_error("hold a program", None)(e.into()))
    };
    Ok(Loaded {
        trunk_program: own(skel.progs.trunk_ingress.as_fd())?,
        port_program: own(skel.progs.port_ingress.as_fd())?,
        by_tag: handle(&skel.maps.ports_by_tag)?,
        by_ifindex: handle(&skel.maps.ports_by_ifindex)?,
        trunks: handle(&skel.maps.trunks)?,
        answers: handle(&skel.maps.answers)?,
        traffic: handle(&skel.maps.traffic_by_slot)?,
        drops: handle(&skel.maps.drops_by_slot)?,
        rates: handle(&skel.maps.rates_by_slot)?,
        limits: handle(&skel.maps.limits_by_slot)?,
        verdict: handle(&skel.maps.last_verdict)?,
    })
}

/// Device numbers in the tables mean something in one namespace only.
fn belongs_here(room: &Table<u32, room_row>, dir: &Path) -> Result<(), OpenError> {
    let ours = netns_cookie().map_err(OpenError::Namespace)?;
    let row = room.get(&0)?.unwrap_or_default();
    if row.netns_cookie == 0 {
        let row = room_row { netns_cookie: ours, layout: LAYOUT, pad: 0 };
        return Ok(room.put(&0, &row)?);
    }
    if row.layout != LAYOUT {
        let (pinned, ours) = (u64::from(row.layout), u64::from(LAYOUT));
        return Err(OpenError::Layout { path: dir.join("room"), field: "the layout", pinned, ours });
    }
    if row.netns_cookie != ours {
        return Err(OpenError::OtherNamespace { path: dir.to_owned(), pinned: row.netns_cookie, ours });
    }
    Ok(())
}

/// Removes the pins of a room and their directory; succeeds when they are not there. Programs that are still on devices
/// keep their tables, so this is for rooms whose namespace is gone, or after every port and trunk was removed.
pub fn discard(pin_dir: &Path) -> io::Result<()> {
    let absent = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
    let entries = match std::fs::read_dir(pin_dir) {
        Ok(entries) => entries,
        Err(e) if absent(&e) => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        match std::fs::remove_file(entry?.path()) {
            Err(e) if !absent(&e) => return Err(e),
            _ => {}
        }
    }
    match std::fs::remove_dir(pin_dir) {
        Err(e) if !absent(&e) => Err(e),
        _ => Ok(()),
    }
}
