//! What is left on the machine of tenants that the store does not know: found by their cgroups, control sockets and
//! files. What lives is only told, never ended: a store that was lost or is older than the machine must not cost a
//! tenant its processes (docs/decisions/0015-fault-points.md).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use stackmap::{GidRange, Segment, StackIndex, TenantName};
use tenant_init::client::{Client, ClientError};

use super::{END_DEADLINE, PASS_DEADLINE, StepError, World};
use crate::net::link::{self, Link};
use crate::net::ns::NetNs;
use crate::net::room::port_segment;

/// So many inits of orphans may fail to answer in one look: each takes [`PASS_DEADLINE`], and the owner waits.
const SILENT: u32 = 20;
/// How long the removal of a cgroup without processes may take.
const SWEEP_DEADLINE: Duration = Duration::from_millis(500);

/// A tenant that lives, or has files, and that the store does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Its name.
    pub name: TenantName,
    /// Its processes; none when only files are left.
    pub processes: BTreeSet<i32>,
    /// Its init.
    pub init: Option<i32>,
    /// Its ids, as its init has them.
    pub ids: Option<GidRange>,
    /// Its stack, as its port is called in it.
    pub stack: Option<StackIndex>,
    /// The VLANs whose ports lead into its stack.
    pub segments: BTreeSet<Segment>,
    /// Directory of its files, if there are some.
    pub files: Option<String>,
    /// Somebody listens on its socket and does not say who.
    pub silent: bool,
}

impl Orphan {
    /// Whether processes of it run, or may.
    #[must_use]
    pub fn lives(&self) -> bool {
        self.silent || !self.processes.is_empty()
    }

    /// Whether all that it holds could be found out: then what is nobody's can be told from what is its.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.lives() || (self.ids.is_some() && self.init.is_some())
    }

    /// What is to be said of it, with what can be done.
    #[must_use]
    pub fn words(&self) -> String {
        let name = &self.name;
        if !self.lives() {
            let files = self.files.as_deref().unwrap_or_default();
            return format!("{name}: files in {files} belong to no tenant; keep them, or remove the directory");
        }
        let of = |at: &Segment| match at.trunk.get() {
            0 => format!(", vlan {}", at.vlan),
            trunk => format!(", vlan {} of trunk number {trunk}", at.vlan),
        };
        let vlans: Vec<String> = self.segments.iter().map(of).collect();
        format!(
            "{name}: {} processes{} live and the store does not know the tenant; nothing of it is touched: bring the \
             store back, or end it with: tenantd remove-tenant {name} --force",
            self.processes.len(),
            vlans.concat()
        )
    }
}

/// True when one device's other end is the other.
fn leads(from: &Link, to: &Link) -> bool {
    from.across.is_some_and(|across| across.index == to.index)
}

impl World {
    /// The tenants on this machine that are not in `known`.
    ///
    /// # Errors
    /// Cgroups or the patch room cannot be read.
    pub(super) async fn orphans(&self, known: &BTreeSet<TenantName>) -> Result<Vec<Orphan>, StepError> {
        let mut names = self.cgroups.tenants()?;
        names.extend(named(&self.doors_dir(), ".sock"));
        names.extend(named(&self.config.state_dir.join("tenants"), ""));
        let mut found = Vec::new();
        // Read once: there may be as many orphans as ports.
        let mut ports = None;
        let mut patience = SILENT;
        for name in names.difference(known) {
            let mut orphan = Orphan {
                name: name.clone(),
                processes: self.cgroups.processes(name)?,
                init: None,
                ids: None,
                stack: None,
                segments: BTreeSet::new(),
                files: Some(self.files(name)).filter(|dir| dir.exists()).map(|dir| dir.display().to_string()),
                silent: false,
            };
            // Where no cgroup tells, its init does: who it is comes with its first answer.
            let answers = if patience == 0 {
                orphan.silent = !is_dead(&self.control_socket(name));
                None
            } else {
                match self.ask_init(name, |init| init.hello(PASS_DEADLINE).map(|_| init.peer_pid())).await {
                    Ok(answers) => answers,
                    Err(StepError::Init(ClientError::Gone { .. })) => None,
                    Err(_) => {
                        patience -= 1;
                        orphan.silent = true;
                        None
                    }
                }
            };
            orphan.processes.extend(answers);
            orphan.init = answers.or_else(|| orphan.processes.iter().copied().find(|pid| is_init(*pid)));
            if let Some(init) = orphan.init {
                orphan.ids = ids_of(init);
                let ports = match &mut ports {
                    Some(ports) => ports,
                    none => none.insert(self.room.work(|inside| link::list(&inside.netlink)).await?),
                };
                look_into(init, ports, &mut orphan)?;
            }
            if orphan.lives() || orphan.files.is_some() {
                found.push(orphan);
            }
        }
        Ok(found)
    }

    /// Removes rows of the guard of ids that are not in `ids`, and of names that are not in `names` what holds no
    /// process: cgroups, sockets.
    ///
    /// # Errors
    /// What could not be removed.
    pub(super) fn sweep_dead(&mut self, names: &BTreeSet<TenantName>, ids: &BTreeSet<u32>) -> Result<(), StepError> {
        let rows = self.guard.kernel_rows().map_err(stack_guard::PutError::from)?;
        // 0 is a row that does not lead back to its ids: its tenant's pass makes it whole.
        for row in rows.iter().filter(|row| row.gids_start != 0 && !ids.contains(&row.gids_start)) {
            tracing::warn!(cookie = row.cookie, ids = row.gids_start, "removing a row of the guard that is nobody's");
            self.guard.remove(row.cookie)?;
        }
        for name in self.cgroups.tenants()?.difference(names) {
            // Removing also ends: nothing that lives is ended here.
            if !self.cgroups.processes(name)?.is_empty() {
                continue;
            }
            tracing::warn!(tenant = %name, "removing cgroups that are nobody's");
            // One that somebody holds (a process of the host in it, a mount) must not keep the others.
            if let Err(error) = self.cgroups.remove(name, SWEEP_DEADLINE) {
                tracing::warn!(tenant = %name, error = crate::owner::chain(&error), "cgroups that are nobody's stay");
            }
        }
        let dir = self.doors_dir();
        for name in named(&dir, ".sock").difference(names) {
            let socket = self.control_socket(name);
            if is_dead(&socket) {
                tracing::warn!(tenant = %name, "removing a socket that nobody listens on");
                let _ = fs::remove_file(&socket);
            }
        }
        for name in named(&dir, ".api").difference(names) {
            self.doors.close(name);
        }
        Ok(())
    }

    /// Ends an orphan: its processes, ports, rows, cgroups and sockets; its files stay.
    ///
    /// # Errors
    /// The step that failed; it can be asked for again.
    pub(super) async fn end_orphan(&mut self, orphan: &Orphan) -> Result<(), StepError> {
        for at in &orphan.segments {
            self.room.unbind(*at).await?;
            self.free_class(*at).await?;
            self.room.delete_port(*at).await?;
        }
        self.cgroups.remove(&orphan.name, END_DEADLINE)?;
        if let Some(ids) = orphan.ids {
            self.remove_guard_rows(ids, None)?;
        }
        let _ = fs::remove_file(self.control_socket(&orphan.name));
        self.doors.close(&orphan.name);
        Ok(())
    }
}

/// Which of the patch room's ports lead into the stack of `init`.
fn look_into(init: i32, ports: &[(String, Link)], orphan: &mut Orphan) -> Result<(), StepError> {
    let Ok(stack) = NetNs::open(Path::new(&format!("/proc/{init}/ns/net"))) else { return Ok(()) };
    let inside = link::list(&stack.netlink()?)?;
    for (device, far) in inside.iter().filter(|(_, far)| far.across.is_some()) {
        for (name, _) in ports.iter().filter(|(_, near)| leads(far, near) && leads(near, far)) {
            let Some(at) = port_segment(name) else { continue };
            orphan.segments.insert(at);
            let number = device.strip_prefix("dev").map(|n| format!("inet{n}"));
            orphan.stack = number.and_then(|stack| stack.parse().ok()).or(orphan.stack);
        }
    }
    Ok(())
}

/// True when nobody listens on the socket of an init. Only a refused connection says so: any other answer (a full queue,
/// another kind of socket) may come from somebody who lives.
fn is_dead(socket: &Path) -> bool {
    matches!(Client::connect(socket), Err(ClientError::Gone { .. }))
}

/// Tenants by the names of what lies in a directory.
fn named(dir: &Path, suffix: &str) -> BTreeSet<TenantName> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(suffix)?.parse().ok()).collect()
}

/// Whether a process is the first of a pid namespace below ours.
fn is_init(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.split_whitespace().count() > 1 && numbers.trim_end().ends_with("\t1"))
}

/// The ids that are root's and on in the user namespace of a process.
fn ids_of(pid: i32) -> Option<GidRange> {
    let map = fs::read_to_string(format!("/proc/{pid}/gid_map")).ok()?;
    let mut words = map.lines().next()?.split_whitespace();
    (words.next()? == "0").then(|| words.next()?.parse().ok().and_then(|first| GidRange::new(first).ok()))?
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_socket_is_dead_only_when_nobody_listens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acme.sock");
        let init = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(init.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&init, Backlog::new(1).unwrap()).unwrap();
        assert!(!is_dead(&path), "an init listens");
        drop(init);
        assert!(is_dead(&path));
        fs::remove_file(&path).unwrap();
        let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(!is_dead(&path), "somebody else listens");
    }
}
