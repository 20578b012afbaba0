//! Every process of the machine as `/proc` tells it, and which tenants it has to do with: by cgroup, by any id, by pid
//! namespace, by the network namespace of any of its threads.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use super::facts::{Census, Member, Place};
use super::namespace;
use super::socket::Sockets;

/// By what a tenant's things are known.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Network namespaces by inode.
    pub(super) nets: HashMap<u64, Place>,
    /// Network namespaces by cookie.
    pub(super) cookies: HashMap<u64, Place>,
    /// Pid namespaces by inode.
    pub(super) pids: HashMap<u64, usize>,
    /// User namespaces by inode.
    pub(super) users: HashMap<u64, usize>,
    /// Directories: controllers and path.
    pub(super) cgroups: HashMap<(String, String), usize>,
    /// Ranges of ids by their first id / 65,536.
    pub(super) ids: HashMap<u32, usize>,
    /// Our own pid namespace.
    pub(super) own_pids: u64,
}

/// True for the errors with which the kernel says that the process or descriptor is there no more.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::EBADF))
}

impl Known {
    /// Where the namespace behind a file of `/proc` is.
    fn place(&self, path: &Path, cache: &mut HashMap<u64, Place>) -> io::Result<Place> {
        let inode = namespace::inode_at(path)?;
        if let Some(place) = self.nets.get(&inode).or_else(|| cache.get(&inode)) {
            return Ok(*place);
        }
        let place = self.inside(std::os::fd::AsFd::as_fd(&fs::File::open(path)?))?;
        cache.insert(inode, place);
        Ok(place)
    }

    /// Where a socket is, by its namespace's cookie, and by who owns it when that is not known.
    pub(super) fn place_of_socket(&self, cookie: u64, socket: BorrowedFd<'_>) -> io::Result<Place> {
        match self.cookies.get(&cookie) {
            Some(place) => Ok(*place),
            None => self.inside(std::os::fd::AsFd::as_fd(&namespace::of_socket(socket)?)),
        }
    }

    /// A namespace of no table: one that a tenant made inside its user namespace, or another one of the machine.
    fn inside(&self, net: BorrowedFd<'_>) -> io::Result<Place> {
        let owner = match namespace::owner_of(net) {
            Ok(owner) => owner,
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Ok(Place::Elsewhere),
            Err(error) => return Err(error),
        };
        let found = namespace::first_above(owner, |inode| self.users.get(&inode).copied())?;
        Ok(found.map_or(Place::Elsewhere, Place::Private))
    }
}

/// Looks at every process but kernel threads and those that are dead.
pub(super) fn census(known: &Known) -> io::Result<Census> {
    let mut census = Census::default();
    let mut reader = Reader { known, sockets: Sockets::default(), nets: HashMap::new(), pids: HashMap::new() };
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        match reader.process(pid) {
            Ok(None) => {}
            Ok(Some(member)) => {
                census.processes += 1;
                if has_to_do(&member) {
                    census.members.push(member);
                }
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => census.unseen.push((format!("process {pid}"), error.to_string())),
        }
    }
    census.sockets = reader.sockets.count();
    Ok(census)
}

fn has_to_do(member: &Member) -> bool {
    let tenants = |place: &Place| matches!(place, Place::Stack(_) | Place::Private(_));
    !member.cgroups.is_empty()
        || !member.ids.is_empty()
        || member.pid_ns.is_some()
        || member.places.iter().any(tenants)
        || member.sockets.iter().any(|socket| tenants(&socket.place))
}

struct Reader<'a> {
    known: &'a Known,
    sockets: Sockets,
    nets: HashMap<u64, Place>,
    pids: HashMap<u64, Option<usize>>,
}

impl Reader<'_> {
    fn process(&mut self, pid: i32) -> io::Result<Option<Member>> {
        let at = |file: &str| PathBuf::from(format!("/proc/{pid}/{file}"));
        let stat = fs::read_to_string(at("stat"))?;
        let Some(Stat { command, start, alive: true }) = stat_of(&stat) else { return Ok(None) };
        let status = fs::read_to_string(at("status"))?;
        if status.lines().any(|line| line == "Kthread:\t1") {
            return Ok(None);
        }
        let Ids { users, groups } = ids_of(&status);
        let mut member = Member { pid, start, command, root: users == BTreeSet::from([0]), ..Member::default() };
        for id in users.union(&groups) {
            match self.known.ids.get(&(id >> 16)) {
                Some(tenant) => drop(member.ids.insert(*tenant)),
                None => drop(member.other_ids.insert(*id)),
            }
        }
        member.cgroups = cgroups_of(&fs::read_to_string(at("cgroup"))?, &self.known.cgroups);
        member.pid_ns = self.pid_ns(&at("ns/pid"))?;
        for task in fs::read_dir(at("task"))? {
            match self.known.place(&task?.path().join("ns/net"), &mut self.nets) {
                Ok(place) => drop(member.places.insert(place)),
                // A thread that ended; of a whole process that ended more is gone.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        member.sockets = self.sockets.of(pid, self.known)?;
        // The number may have passed to another process meanwhile: then all this is of nobody.
        let same = stat_of(&fs::read_to_string(at("stat"))?).is_some_and(|now| now.start == start);
        Ok(same.then_some(member))
    }

    fn pid_ns(&mut self, path: &Path) -> io::Result<Option<usize>> {
        let inode = namespace::inode_at(path)?;
        if inode == self.known.own_pids {
            return Ok(None);
        }
        if let Some(tenant) = self.known.pids.get(&inode) {
            return Ok(Some(*tenant));
        }
        if let Some(found) = self.pids.get(&inode) {
            return Ok(*found);
        }
        let open = fs::File::open(path)?;
        let found = namespace::first_above(open.into(), |inode| self.known.pids.get(&inode).copied())?;
        self.pids.insert(inode, found);
        Ok(found)
    }
}

struct Stat {
    command: String,
    start: u64,
    alive: bool,
}

/// `PID (COMMAND) STATE ...`; the command may hold blanks and brackets, so it ends at the last one.
fn stat_of(text: &str) -> Option<Stat> {
    let (front, back) = text.rsplit_once(") ")?;
    let (_, command) = front.split_once(" (")?;
    let mut fields = back.split(' ');
    let state = fields.next()?;
    // Field 22 of proc_pid_stat(5); the state is the third.
    let start = fields.nth(18)?.parse().ok()?;
    Some(Stat { command: command.escape_debug().to_string(), start, alive: !matches!(state, "Z" | "X" | "x") })
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Ids {
    users: BTreeSet<u32>,
    groups: BTreeSet<u32>,
}

/// Real, effective, saved and file system ids and the supplementary groups.
fn ids_of(status: &str) -> Ids {
    let numbers = |line: &str| line.split_whitespace().filter_map(|n| n.parse().ok()).collect::<BTreeSet<u32>>();
    let mut ids = Ids::default();
    for line in status.lines() {
        match line.split_once(':') {
            Some(("Uid", rest)) => ids.users.extend(numbers(rest)),
            Some(("Gid" | "Groups", rest)) => ids.groups.extend(numbers(rest)),
            _ => {}
        }
    }
    ids
}

/// How many hierarchies have the process in a directory of each tenant, or below one.
fn cgroups_of(text: &str, known: &HashMap<(String, String), usize>) -> BTreeMap<usize, usize> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let mut at = Some(Path::new(path));
        while let Some(dir) = at {
            if let Some(tenant) = known.get(&(controllers.to_owned(), dir.to_string_lossy().into_owned())) {
                *found.entry(*tenant).or_insert(0) += 1;
                break;
            }
            at = dir.parent();
        }
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn commands_may_look_like_anything() {
        let rest = "1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        let stat = stat_of(&format!("12 (a) b (c\n) S {rest}")).unwrap();
        assert_eq!((stat.command.as_str(), stat.start, stat.alive), ("a) b (c\\n", 4711, true));
        assert!(!stat_of(&format!("12 (x) Z {rest}")).unwrap().alive);
        assert!(stat_of("12 (x) S 1").is_none());
    }

    #[test]
    fn every_id_counts() {
        let ids = ids_of("Name:\tx\nUid:\t0\t524288\t0\t0\nGid:\t1\t2\t3\t4\nGroups:\t589824 5 \n");
        assert_eq!(ids.users, BTreeSet::from([0, 524_288]));
        assert_eq!(ids.groups, BTreeSet::from([1, 2, 3, 4, 5, 589_824]));
    }

    #[test]
    fn directories_below_count_and_names_that_only_begin_alike_do_not() {
        let known = HashMap::from([
            ((String::new(), "/t/tenant-a".to_owned()), 0),
            (("cpu,cpuacct".to_owned(), "/t/tenant-a".to_owned()), 0),
            (("pids".to_owned(), "/t/tenant-b".to_owned()), 1),
        ]);
        let text = "4:pids:/t/tenant-b\n3:memory:/t/tenant-a\n2:cpu,cpuacct:/t/tenant-a/x/y\n0::/t/tenant-ab\n";
        assert_eq!(cgroups_of(text, &known), BTreeMap::from([(0, 1), (1, 1)]));
    }

    #[test]
    fn this_process_is_found_by_its_ids_and_namespaces() {
        let user = nix::unistd::getuid().as_raw();
        let net = namespace::inode_at(Path::new("/proc/self/ns/net")).unwrap();
        let own_pids = namespace::inode_at(Path::new("/proc/self/ns/pid")).unwrap();
        let known = Known {
            nets: HashMap::from([(net, Place::Stack(3))]),
            ids: HashMap::from([(user >> 16, 3)]),
            own_pids,
            ..Known::default()
        };
        let mut reader =
            Reader { known: &known, sockets: Sockets::default(), nets: HashMap::new(), pids: HashMap::new() };
        let me = i32::try_from(std::process::id()).unwrap();
        let member = reader.process(me).unwrap().unwrap();
        assert_eq!((member.pid, member.pid_ns), (me, None));
        assert_eq!(member.places, BTreeSet::from([Place::Stack(3)]));
        assert_eq!(member.ids, BTreeSet::from([3]));
    }
}
