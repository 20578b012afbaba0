//! What is left on the machine of tenants that the store does not know: found by their cgroups, control sockets and
//! files. What lives is only told, never ended: a store that was lost or is older than the machine must not cost a
//! tenant its processes (docs/decisions/0015-fault-points.md).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;

use stackmap::{GidRange, Segment, StackIndex, TenantName};
use tenant_init::client::Client;

use super::{END_DEADLINE, StepError, World};
use crate::net::link::{self, Link};
use crate::net::ns::NetNs;
use crate::net::room::port_segment;

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
}

impl Orphan {
    /// Whether processes of it run.
    #[must_use]
    pub fn lives(&self) -> bool {
        !self.processes.is_empty()
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
        for name in names.difference(known) {
            let mut orphan = Orphan {
                name: name.clone(),
                processes: self.cgroups.processes(name)?,
                init: None,
                ids: None,
                stack: None,
                segments: BTreeSet::new(),
                files: Some(self.files(name)).filter(|dir| dir.exists()).map(|dir| dir.display().to_string()),
            };
            // Where no cgroup tells, its init does.
            let answers = Client::connect(&self.control_socket(name)).ok().and_then(|client| client.peer_pid());
            orphan.processes.extend(answers);
            orphan.init = answers.or_else(|| orphan.processes.iter().copied().find(|pid| is_init(*pid)));
            if let Some(init) = orphan.init {
                orphan.ids = ids_of(init);
                self.look_into(init, &mut orphan).await?;
            }
            if orphan.lives() || orphan.files.is_some() {
                found.push(orphan);
            }
        }
        Ok(found)
    }

    /// Which ports of the patch room lead into the stack of `init`.
    async fn look_into(&self, init: i32, orphan: &mut Orphan) -> Result<(), StepError> {
        let Ok(stack) = NetNs::open(Path::new(&format!("/proc/{init}/ns/net"))) else { return Ok(()) };
        let inside = link::list(&stack.netlink()?)?;
        for (name, near) in self.room.work(|inside| link::list(&inside.netlink)).await? {
            let Some(at) = port_segment(&name) else { continue };
            let far = inside.iter().find(|(_, far)| leads(far, &near) && leads(&near, far));
            if let Some((device, _)) = far {
                orphan.segments.insert(at);
                let number = device.strip_prefix("dev").map(|n| format!("inet{n}"));
                orphan.stack = number.and_then(|stack| stack.parse().ok()).or(orphan.stack);
            }
        }
        Ok(())
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
            self.cgroups.remove(name, END_DEADLINE)?;
        }
        let dir = self.doors_dir();
        for name in named(&dir, ".sock").difference(names) {
            let socket = self.control_socket(name);
            if UnixStream::connect(&socket).is_err() {
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
