//! Of a running tenant's house: its name files, and ending it in good order.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use stackmap::TenantName;
use tokio::sync::oneshot;

use super::{END_DEADLINE, StepError, World};
use crate::fault;
use crate::launch;
use crate::model::Tenant;

/// How long all services of a tenant may take to end before they are killed: longer than any one of them may.
const GOOD_ORDER: Duration = Duration::from_secs(30);

impl World {
    /// True when the tenant's resolv.conf names its name servers; a tenant that was never launched has none to mend.
    pub(super) fn names_are(&self, tenant: &Tenant) -> bool {
        let found = fs::read_to_string(self.files(&tenant.name).join("etc/resolv.conf"));
        found.is_ok_and(|found| found == launch::resolv_conf(&tenant.dns))
    }

    pub(super) fn write_names(&self, tenant: &Tenant) -> Result<(), StepError> {
        let files = self.files(&tenant.name);
        launch::write_resolv_conf(&files, &tenant.dns).map_err(|source| StepError::File {
            verb: "write etc/resolv.conf in",
            path: files.display().to_string(),
            source,
        })
    }

    /// Tells init to end its services and then itself, and kills what is left after a while. The receiver hears when
    /// all is gone, at once when there is nothing.
    pub async fn stop(&mut self, tenant: &Tenant) -> Result<oneshot::Receiver<()>, StepError> {
        let (done, gone) = oneshot::channel();
        if tenant.whole_device {
            // A card whose stack ends would end in the machine's first namespace.
            self.return_device(tenant).await?;
        }
        let Some(seat) = self.seats.get(&tenant.name) else {
            self.end_unreached(tenant)?;
            return Ok(gone);
        };
        let pidfd = seat.process.clone();
        // SAFETY: plain system call on a live descriptor. One that is gone needs no signal.
        unsafe {
            let nothing = std::ptr::null::<u8>();
            libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGTERM, nothing, 0);
        }
        fault::point("restart.told");
        tokio::task::spawn_blocking(move || {
            wait(&pidfd, GOOD_ORDER);
            if let Err(error) = launch::end(&pidfd, END_DEADLINE) {
                tracing::warn!(%error, "a tenant that is to be restarted does not end");
            }
            drop(done);
        });
        Ok(gone)
    }

    /// Refuses where processes of the tenant live although the socket of its init is not there: somebody emptied the run
    /// directory. A socket that is there and on which nobody listens is that of an init that died.
    pub(super) fn check_nobody_left(&self, tenant: &Tenant) -> Result<(), StepError> {
        let path = self.control_socket(&tenant.name);
        if path.exists() {
            return Ok(());
        }
        let processes: Vec<i32> = self.cgroups.processes(&tenant.name)?.into_iter().filter(|pid| lives(*pid)).collect();
        if processes.is_empty() {
            return Ok(());
        }
        Err(StepError::LostSocket { name: tenant.name.clone(), path: path.display().to_string(), processes })
    }

    /// Ends the processes of a tenant whose init cannot be reached.
    fn end_unreached(&self, tenant: &Tenant) -> Result<(), StepError> {
        if self.check_nobody_left(tenant).is_ok() {
            return Ok(());
        }
        // With the directories: in one that `cgroup.kill` was written to, Linux 6.18 also kills whoever is born into it later.
        self.cgroups.remove(&tenant.name, END_DEADLINE)?;
        let until = Instant::now() + END_DEADLINE;
        while self.check_nobody_left(tenant).is_err() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Lets go of an init that has ended, if nobody has been told yet.
    pub fn forget_ended(&mut self, name: &TenantName) {
        let ended = self.seats.get(name).filter(|seat| wait(&seat.process, Duration::ZERO)).map(|seat| seat.pid);
        if let Some(pid) = ended {
            self.forget_seat(name, pid);
        }
    }
}

/// False for a process that has ended and was not waited for.
fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}

/// True when the process has ended within `patience`.
fn wait(pidfd: &OwnedFd, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    loop {
        let left = PollTimeout::try_from(until.saturating_duration_since(Instant::now())).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], left) {
            Err(nix::errno::Errno::EINTR) => {}
            answer => return answer.is_ok_and(|n| n > 0),
        }
    }
}
