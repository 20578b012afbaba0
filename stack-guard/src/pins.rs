//! Loading: programs are always new, tables and attachments are adopted from the pin directory when they are there.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{Link, MapCore, MapHandle, MapMut, OpenMapMut, OpenObject, ProgramMut};

use crate::cgroup::{self, CgroupError};
use crate::layout::{self, CarryError, Found};
use crate::limits::LimitError;
use crate::skel::guard::types::{event, guard_row, owner_row, refusal_row, stack_row};
use crate::skel::guard::{GuardSkelBuilder, OpenGuardSkel};
use crate::steps::passed;
use crate::tables::{Table, TableError};
use crate::task;

/// Version of the pinned tables.
const LAYOUT: u32 = 1;

/// How the names of the pins of attachments begin: to the guard's cgroup, and to a stack whose connections are limited.
const LINK: &str = "link_";
pub(crate) const LIMIT: &str = "limit_";

/// Stacks a guard has place for unless told otherwise.
pub const DEFAULT_MAX_STACKS: u32 = 8192;

/// Cgroup directories there is place for, for each stack there is place for.
const CGROUPS_PER_STACK: u32 = 4;

/// `statfs` type of a bpffs.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Where a guard stands.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// The cgroup2 directory whose processes are asked: the root of the hierarchy for all of the machine. A socket is
    /// asked about by the directory its *maker* was in.
    pub cgroup: PathBuf,
    /// A directory in a bpffs, made when it is not there; one guard each.
    pub pin_dir: PathBuf,
    /// Stacks there is place for. Tables that are there already keep their size.
    pub max_stacks: u32,
    /// Read the credentials of processes by the kernel's BTF; off, only what helpers tell is seen, as on a kernel
    /// without BTF. For tests.
    pub read_tasks: bool,
    /// Tables whose rows are 8 bytes longer than this version's, as a later version's may be. For tests.
    pub longer_rows: &'static [&'static str],
}

impl OpenOptions {
    /// With the defaults.
    pub fn new(cgroup: impl Into<PathBuf>, pin_dir: impl Into<PathBuf>) -> Self {
        let (cgroup, pin_dir) = (cgroup.into(), pin_dir.into());
        Self { cgroup, pin_dir, max_stacks: DEFAULT_MAX_STACKS, read_tasks: true, longer_rows: &[] }
    }
}

/// A guard could not be opened. What stood before still stands.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The cgroup cannot be attached to.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
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
    /// A pinned table is of a newer version, or of one that this one does not know. Nothing was changed: the programs that
    /// are attached go on with it.
    #[error("pinned table {}: {field} is {pinned}, this version has {ours}: made by another version, probably a newer one; run that one, or discard() the directory", path.display())]
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
    /// The pins are of a guard on another cgroup.
    #[error("the guard in {} stands on cgroup {pinned}, not on {ours}; discard() it first", path.display())]
    OtherCgroup {
        /// The pin directory.
        path: PathBuf,
        /// Id of its cgroup.
        pinned: u64,
        /// Id of the cgroup asked for.
        ours: u64,
    },
    /// The kernel refused a step.
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
    /// The limit of a stack could not be adopted.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

fn load_error(step: &'static str, path: Option<&Path>) -> impl FnOnce(libbpf_rs::Error) -> OpenError {
    let path = path.map(Path::to_owned);
    move |source| OpenError::Load { step, path, source }
}

/// Everything that is loaded.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) stacks: Table<u64, stack_row>,
    pub(crate) by_cgroup: Table<u64, owner_row>,
    pub(crate) guard: Table<u32, guard_row>,
    pub(crate) by_gids: Table<u32, u64>,
    pub(crate) connections: Table<u64, u64>,
    pub(crate) refusals: Table<u64, refusal_row>,
    pub(crate) events: MapHandle,
    /// Attachments that were there and got the new program.
    pub(crate) replaced: usize,
    pub(crate) reads_tasks: bool,
}

fn is_bpffs(path: &Path) -> bool {
    File::open(path).and_then(|dir| cgroup::file_system(&dir)).is_ok_and(|kind| kind == BPF_FS_MAGIC)
}

/// Takes the pinned table in place of a new one; one of an older version is returned, to be carried over.
pub(crate) fn adopt(map: &mut OpenMapMut<'_>, options: &OpenOptions) -> Result<Start, OpenError> {
    let pin = options.pin_dir.join(map.name());
    if options.longer_rows.iter().any(|table| map.name() == *table) {
        let longer = map.value_size() + 8;
        map.set_value_size(longer).map_err(load_error("size a table's rows", None))?;
    }
    let found = layout::look(map, &pin).map_err(load_error("look at the pin", Some(&pin)))?;
    let pinned = match &found {
        Found::Absent => return Ok(Start::Fresh),
        Found::Other(field, pinned, ours) => {
            let (pinned, ours) = (u64::from(*pinned), u64::from(*ours));
            return Err(OpenError::Layout { path: pin, field, pinned, ours });
        }
        Found::Same(pinned) | Found::Older(pinned) => pinned,
    };
    map.set_max_entries(pinned.max_entries()).map_err(load_error("size the table as", Some(&pin)))?;
    if let Found::Older(pinned) = found {
        return Ok(Start::Older(pinned));
    }
    map.reuse_fd(pinned.as_fd()).map_err(load_error("adopt", Some(&pin)))?;
    Ok(Start::Adopted)
}

/// What a table begins with.
pub(crate) enum Start {
    /// Nothing.
    Fresh,
    /// What is pinned.
    Adopted,
    /// The rows of this one.
    Older(MapHandle),
}

fn handle<K: crate::tables::Plain, V: crate::tables::Plain>(map: &MapMut<'_>) -> Result<Table<K, V>, OpenError> {
    Ok(Table::new(MapHandle::try_from(map).map_err(load_error("hold a table", None))?))
}

/// The tables that are pinned, with the rows they have place for; None: as the program says.
pub(crate) fn pinned_maps<'a, 'obj>(
    open: &'a mut OpenGuardSkel<'obj>,
    stacks: u32,
) -> [(&'a mut OpenMapMut<'obj>, Option<u32>); 8] {
    let maps = &mut open.maps;
    [
        (&mut maps.guard, None),
        (&mut maps.stacks, Some(stacks)),
        (&mut maps.owners_by_cgroup, Some(stacks.saturating_mul(CGROUPS_PER_STACK))),
        (&mut maps.owners_by_gids, Some(stacks)),
        (&mut maps.connections, Some(stacks)),
        (&mut maps.refusals, Some(stacks)),
        (&mut maps.counted_sockets, None),
        (&mut maps.events, None),
    ]
}

/// What the programs are told before they are loaded. Says whether they can read tasks.
pub(crate) fn configure(open: &mut OpenGuardSkel<'_>, read_tasks: bool, limited_stack: u64) -> bool {
    let layout = read_tasks.then(task::layout).flatten();
    if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
        rodata.task_readable = layout.is_some();
        rodata.at = layout.unwrap_or_default();
        rodata.limited_stack = limited_stack;
        rodata.event_layout = event::default();
    }
    layout.is_some()
}

/// Loads the programs, adopts or makes the tables and attachments.
pub(crate) fn load(options: &OpenOptions) -> Result<Loaded, OpenError> {
    let dir = &options.pin_dir;
    let (cgroup, id) = cgroup::open(&options.cgroup)?;
    // Asked before anything is made: a plain directory must not be littered.
    let existing = dir.ancestors().find(|path| path.exists()).unwrap_or(dir);
    if !is_bpffs(existing) {
        return Err(OpenError::NotBpffs { path: dir.clone() });
    }
    std::fs::create_dir_all(dir).map_err(|source| OpenError::PinDirectory { path: dir.clone(), source })?;

    let mut storage = MaybeUninit::<OpenObject>::uninit();
    let mut open = GuardSkelBuilder::default().open(&mut storage).map_err(load_error("open the BPF object", None))?;
    let reads_tasks = configure(&mut open, options.read_tasks, 0);
    open.progs.guard_incoming.set_autoload(false);
    let mut starts = BTreeMap::new();
    for (map, rows) in pinned_maps(&mut open, options.max_stacks) {
        let start = adopt(map, options)?;
        if let (Start::Fresh, Some(rows)) = (&start, rows) {
            map.set_max_entries(rows).map_err(load_error("size a table", None))?;
        }
        starts.insert(map.name().to_owned(), start);
    }
    let mut skel = open.load().map_err(load_error("load the BPF programs", None))?;

    let maps = &mut skel.maps;
    let mut pinned = [
        &mut maps.guard,
        &mut maps.stacks,
        &mut maps.owners_by_cgroup,
        &mut maps.owners_by_gids,
        &mut maps.connections,
        &mut maps.refusals,
        &mut maps.counted_sockets,
        &mut maps.events,
    ];
    for map in &pinned {
        if let Some(Start::Older(old)) = starts.get(map.name()) {
            layout::copy(old, map)?;
            passed("guards.copied");
        }
    }
    // The guard's row is written before its pin, so a pinned guard is never a blank one.
    belongs_here(&handle(pinned[0])?, id, dir)?;
    for map in &mut pinned {
        let pin = dir.join(map.name());
        match starts.get(map.name()) {
            Some(Start::Fresh) => map.pin(&pin).map_err(load_error("pin", Some(&pin)))?,
            Some(Start::Older(_)) => {
                layout::replace_pin(map, &pin)?;
                passed("guards.carried");
            }
            Some(Start::Adopted) | None => {}
        }
    }
    let progs = &mut skel.progs;
    let mut replaced = 0;
    for program in [
        &mut progs.guard_create,
        &mut progs.guard_bind4,
        &mut progs.guard_bind6,
        &mut progs.guard_connect4,
        &mut progs.guard_connect6,
        &mut progs.guard_sendmsg4,
        &mut progs.guard_sendmsg6,
        &mut progs.guard_watch,
    ] {
        replaced += usize::from(attach(program, &cgroup, dir)?);
        passed("guards.replaced");
    }
    Ok(Loaded {
        stacks: handle(&skel.maps.stacks)?,
        by_cgroup: handle(&skel.maps.owners_by_cgroup)?,
        guard: handle(&skel.maps.guard)?,
        by_gids: handle(&skel.maps.owners_by_gids)?,
        connections: handle(&skel.maps.connections)?,
        refusals: handle(&skel.maps.refusals)?,
        events: MapHandle::try_from(&skel.maps.events).map_err(load_error("hold a table", None))?,
        replaced,
        reads_tasks,
    })
}

/// Puts the program in the place of the one that is attached, which the kernel does at once, or attaches it.
fn attach(program: &mut ProgramMut<'_>, cgroup: &File, dir: &Path) -> Result<bool, OpenError> {
    let pin = dir.join(format!("{LINK}{}", program.name().to_string_lossy()));
    // Asked first: libbpf prints a failure to open.
    match pin.exists().then(|| Link::open(&pin)) {
        Some(Ok(mut link)) => match link.update_prog(program) {
            Ok(()) => return Ok(true),
            // ENOLINK: the cgroup is gone, and one with the same id cannot be. The pin is of no use.
            Err(_) if pinned_link_is_dead(&link) => {
                std::fs::remove_file(&pin).map_err(|e| load_error("remove the dead pin", Some(&pin))(e.into()))?;
            }
            Err(e) => return Err(load_error("replace the program at", Some(&pin))(e)),
        },
        Some(Err(e)) => return Err(load_error("open the pin", Some(&pin))(e)),
        None => {}
    }
    let mut link = program
        .attach_cgroup(cgroup.as_raw_fd())
        .map_err(load_error("attach to the cgroup (needs Linux 5.11) what is pinned at", Some(&pin)))?;
    link.pin(&pin).map_err(load_error("pin", Some(&pin)))?;
    Ok(false)
}

fn pinned_link_is_dead(link: &Link) -> bool {
    match link.info().map(|info| info.info) {
        Ok(libbpf_rs::query::LinkTypeInfo::Cgroup(info)) => info.cgroup_id == 0,
        _ => false,
    }
}

/// A guard's rows are about the processes of its cgroup only.
fn belongs_here(guard: &Table<u32, guard_row>, ours: u64, dir: &Path) -> Result<(), OpenError> {
    let row = guard.get(&0)?.unwrap_or_default();
    if row.cgroup == 0 {
        return Ok(guard.put(&0, &guard_row { cgroup: ours, layout: LAYOUT, levels: 0 })?);
    }
    if row.layout != LAYOUT {
        let (pinned, ours) = (u64::from(row.layout), u64::from(LAYOUT));
        return Err(OpenError::Layout { path: dir.join("guard"), field: "the layout", pinned, ours });
    }
    if row.cgroup != ours {
        return Err(OpenError::OtherCgroup { path: dir.to_owned(), pinned: row.cgroup, ours });
    }
    Ok(())
}

/// Ends a guard: removes its attachments, its tables and the directory; succeeds when they are not there. Once it has
/// returned nothing is refused.
pub fn discard(pin_dir: &Path) -> io::Result<()> {
    let absent = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
    let entries = match std::fs::read_dir(pin_dir) {
        Ok(entries) => entries,
        Err(e) if absent(&e) => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if [LINK, LIMIT].iter().any(|kind| name.as_bytes().starts_with(kind.as_bytes())) {
            detach(&entry.path())?;
        }
        match std::fs::remove_file(entry.path()) {
            Err(e) if !absent(&e) => return Err(e),
            _ => {}
        }
    }
    match std::fs::remove_dir(pin_dir) {
        Err(e) if !absent(&e) => Err(e),
        _ => Ok(()),
    }
}

/// Takes a pinned attachment off, now: the kernel lets go of one whose last pin is removed at a later time, from a work
/// queue. Succeeds when there is none, or it has nothing left that it is attached to.
pub(crate) fn detach(pin: &Path) -> io::Result<()> {
    // Asked first: libbpf prints a failure to open.
    if pin.exists() {
        Link::open(pin).and_then(|link| link.detach()).map_err(|e| io::Error::other(e.to_string()))?;
    }
    Ok(())
}

/// A path as the kernel's calls take it.
pub(crate) fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
}
