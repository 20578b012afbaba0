//! One look at the kernel: straight through, what is cheap first. What walks all processes does so on a thread that may
//! block; nothing here waits for the owner, and the owner not for this.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Instant, SystemTime};

use super::facts::{Device, Expected, Facts, Gathered, Place, Stack};
use super::process::Known;
use super::{Verification, compare, link, namespace, process};
use crate::access::AccessClient;
use crate::net::ns::{NsError, enter};
use crate::net::room::PatchError;
use crate::net::rtnl::Netlink;

/// The kernel could not be asked; nothing is known then.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// A namespace.
    #[error("cannot look at the network namespace of {whose}")]
    Namespace {
        /// Whose.
        whose: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Devices.
    #[error("cannot list the devices of {whose}")]
    Devices {
        /// Whose.
        whose: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Entering a namespace.
    #[error("cannot look into a network namespace")]
    Enter(#[from] NsError),
    /// The patch room's tables.
    #[error("cannot read the tables of the patch room")]
    Room(#[from] PatchError),
    /// Processes.
    #[error("cannot walk through the processes")]
    Processes(#[source] io::Error),
}

/// Reads the kernel and compares.
///
/// # Errors
/// [`LookError`]: something could not be read at all. What is merely missing is a disagreement, not an error.
pub async fn look(gathered: Gathered) -> Result<Verification, LookError> {
    let started = Instant::now();
    let mut facts = Facts::new(std::process::id().cast_signed(), gathered.trunks.clone());
    let spaces = Spaces::open(&gathered)?;
    let visits = tokio::task::spawn_blocking(move || {
        // On a thread that ends afterwards: it goes from stack to stack.
        let visits = std::thread::scope(|scope| scope.spawn(|| spaces.visit(&gathered)).join());
        (visits.unwrap_or_else(|_| Err(LookError::Processes(io::ErrorKind::Other.into()))), spaces, gathered)
    });
    let (visits, spaces, gathered) = visits.await.map_err(io::Error::other).map_err(LookError::Processes)?;
    (facts.room, facts.stacks) = visits?;
    facts.ports = gathered.room.ports().await?;
    for at in gathered.expected.iter().filter_map(|tenant| tenant.at) {
        facts.tags.insert(at, gathered.room.bound(at).await?);
    }
    facts.guard.clone_from(&gathered.guard);
    for (trunk, socket) in &gathered.access {
        facts.access.insert(*trunk, stated(socket, &gathered.owner).await);
    }
    let known = spaces.known(&gathered.expected, &facts)?;
    let census = tokio::task::spawn_blocking(move || process::census(&known)).await;
    facts.census = census.map_err(io::Error::other).and_then(|census| census).map_err(LookError::Processes)?;
    let mut found = compare(&gathered.expected, &facts);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    found.at_ms = now.as_millis() as u64;
    found.took_us = started.elapsed().as_micros() as u64;
    Ok(found)
}

/// On a connection of our own: the owner's is busy with what it does.
async fn stated(socket: &Path, owner: &str) -> Result<Vec<crate::access::StatedRow>, String> {
    let mut client = AccessClient::new(socket, owner.to_owned());
    client.stated().await.map_err(|error| crate::owner::chain(&error))
}

fn devices(whose: &str, netlink: &Netlink) -> Result<Vec<Device>, LookError> {
    link::devices(netlink).map_err(|source| LookError::Devices { whose: whose.to_owned(), source })
}

fn id(netlink: &Netlink, space: &File) -> Result<Option<i32>, LookError> {
    let failed = |source| LookError::Devices { whose: "another namespace".into(), source };
    link::number_of(netlink, space.as_fd()).map_err(failed)
}

/// Moves the calling thread there.
fn netlink_in(space: &File) -> Result<Netlink, LookError> {
    enter(space.as_fd())?;
    Ok(Netlink::open().map_err(NsError::Netlink)?)
}

/// The namespaces of this look, held open.
struct Spaces {
    host: File,
    room: File,
    /// By number of the tenant: what its init is in now.
    stacks: Vec<(usize, File)>,
    /// Inits by number of the tenant.
    inits: Vec<(usize, i32)>,
}

impl Spaces {
    fn open(gathered: &Gathered) -> Result<Self, LookError> {
        let open = |whose: &str, path: &Path| {
            File::open(path).map_err(|source| LookError::Namespace { whose: whose.to_owned(), source })
        };
        let mut spaces = Self {
            host: open("the host", Path::new("/proc/self/ns/net"))?,
            room: open("the patch room", &gathered.room_pin)?,
            stacks: Vec::new(),
            inits: Vec::new(),
        };
        for (number, expected) in gathered.expected.iter().enumerate() {
            let Some(init) = expected.init else { continue };
            match File::open(format!("/proc/{}/ns/net", init.pid)) {
                Ok(space) => {
                    spaces.stacks.push((number, space));
                    spaces.inits.push((number, init.pid));
                }
                Err(error) if process::is_gone(&error) => {}
                Err(source) => return Err(LookError::Namespace { whose: expected.name.to_string(), source }),
            }
        }
        Ok(spaces)
    }

    /// Devices of the patch room, and of every stack its inode, cookie and devices. For a thread that has nothing else to
    /// do; a socket is open only as long as its stack is looked at.
    fn visit(&self, gathered: &Gathered) -> Result<(Vec<Device>, HashMap<usize, Stack>), LookError> {
        let room = netlink_in(&self.room)?;
        let mut in_room = devices("the patch room", &room)?;
        let mut to_stack = HashMap::new();
        for (number, space) in &self.stacks {
            if let Some(known_as) = id(&room, space)? {
                to_stack.insert(known_as, Place::Stack(*number));
            }
        }
        if let Some(known_as) = id(&room, &self.host)? {
            to_stack.insert(known_as, Place::Host);
        }
        for device in &mut in_room {
            device.leads = device.peer_ns.map(|number| to_stack.get(&number).copied().unwrap_or(Place::Elsewhere));
        }
        let mut stacks = HashMap::new();
        for (number, space) in &self.stacks {
            let Some(expected) = gathered.expected.get(*number) else { continue };
            let whose = expected.name.as_str();
            let failed = |source| LookError::Namespace { whose: whose.to_owned(), source };
            let netlink = netlink_in(space)?;
            let inode = namespace::inode(space.as_fd()).map_err(failed)?;
            let cookie = namespace::own_cookie().map_err(failed)?;
            let mut stack = Stack { inode, cookie, devices: Vec::new() };
            // One in another stack than the daemon knows has none of the devices that are looked for.
            if expected.init.is_some_and(|init| init.inode == inode) {
                stack.devices = devices(whose, &netlink)?;
                let to_room = id(&netlink, &self.room)?;
                for device in &mut stack.devices {
                    let Some(number) = device.peer_ns else { continue };
                    let in_room = to_room == Some(number);
                    device.leads = Some(if in_room { Place::Room } else { self.find(&netlink, number)? });
                }
            }
            stacks.insert(*number, stack);
        }
        Ok((in_room, stacks))
    }

    /// Where the namespace is that a stack knows by a number; asked only about devices that lead elsewhere than into
    /// the patch room.
    fn find(&self, netlink: &Netlink, number: i32) -> Result<Place, LookError> {
        if id(netlink, &self.host)? == Some(number) {
            return Ok(Place::Host);
        }
        for (tenant, space) in &self.stacks {
            if id(netlink, space)? == Some(number) {
                return Ok(Place::Stack(*tenant));
            }
        }
        Ok(Place::Elsewhere)
    }

    /// By what processes and sockets are told apart. Where two tenants would be known by the same thing, the first is;
    /// the stacks' check tells of it.
    fn known(&self, expected: &[Expected], facts: &Facts) -> Result<Known, LookError> {
        let failed = |source| LookError::Namespace { whose: "the host".into(), source };
        let own = |kind: &str| namespace::inode_at(Path::new(&format!("/proc/self/ns/{kind}"))).map_err(failed);
        let (own_pids, own_users) = (own("pid")?, own("user")?);
        let mut known = Known { own_pids, ..Known::default() };
        for (tenant, stack) in &facts.stacks {
            // By what the daemon holds: an init that was moved shows as one that is elsewhere.
            let seat = expected.get(*tenant).and_then(|expected| expected.init);
            let (inode, cookie) = seat.map_or((stack.inode, stack.cookie), |seat| (seat.inode, seat.cookie));
            known.nets.entry(inode).or_insert(Place::Stack(*tenant));
            known.cookies.entry(cookie).or_insert(Place::Stack(*tenant));
        }
        let spaces = [self.host.try_clone().map_err(failed)?, self.room.try_clone().map_err(failed)?];
        let cookies = namespace::cookies(&spaces).map_err(failed)?;
        for ((space, cookie), place) in spaces.iter().zip(cookies).zip([Place::Host, Place::Room]) {
            known.nets.insert(namespace::inode(space.as_fd()).map_err(failed)?, place);
            known.cookies.insert(cookie, place);
        }
        for (tenant, pid) in &self.inits {
            for (kind, own, into) in [("pid", own_pids, &mut known.pids), ("user", own_users, &mut known.users)] {
                match namespace::inode_at(Path::new(&format!("/proc/{pid}/ns/{kind}"))) {
                    // One that shares ours would make every process of the host a tenant's.
                    Ok(inode) if inode != own => drop(into.entry(inode).or_insert(*tenant)),
                    Ok(_) => {}
                    Err(error) if process::is_gone(&error) => {}
                    Err(error) => return Err(failed(error)),
                }
            }
        }
        for (number, tenant) in expected.iter().enumerate() {
            known.ids.insert(tenant.ids.get() >> 16, number);
            known.cgroups.extend(tenant.cgroups.iter().map(|directory| (directory.clone(), number)));
        }
        Ok(known)
    }
}
