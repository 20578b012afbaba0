//! Who lives where: a tenant's init is held by one descriptor, its pidfd, which cannot come to mean another process. Its
//! stack is not held open: whoever wants into it goes by the pidfd and leaves again, so that a stack costs the daemon
//! nothing and ends when its processes do.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use stackmap::TenantName;
use tenant_init::client::{Client, ClientError};
use tenant_init::protocol::{Hello, ServiceState};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{PASS_DEADLINE, StepError, World, guard};
use crate::kernel::KernelEvent;
use crate::launch::{self, AdoptError, Launched};
use crate::model::Tenant;
use crate::net::filter::{FilterError, Found, Netfilter};
use crate::net::link::NetlinkError;
use crate::net::ns::{NetNs, NsError, enter};
use crate::net::rtnl::Netlink;
use crate::net::stack::{self, StackActual};
use crate::store::Desired;

/// How long an init that does not answer is left alone.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// A tenant's living init and its stack.
pub(super) struct Seat {
    pub(super) pid: i32,
    pub(super) process: Arc<OwnedFd>,
    pub(super) inode: u64,
    /// The namespace's cookie, by which the guard knows it.
    pub(super) cookie: u64,
    /// Init did not answer when it was asked last; a task asks it on, and no pass waits for it until it has answered.
    pub(super) silent: bool,
}

/// All of them.
pub(super) type Seats = HashMap<TenantName, Seat>;

impl Seat {
    /// Its stack, held open for one use.
    pub(super) fn netns(&self) -> Result<NetNs, NsError> {
        let path = format!("/proc/{}/ns/net", self.pid);
        let open = |source| NsError::Open { path: path.clone(), source };
        let namespace = File::open(&path).map_err(open)?;
        // Alive after it was opened: the number meant init.
        if self.has_ended().map_err(open)? {
            return Err(open(Errno::ESRCH.into()));
        }
        Ok(NetNs::from(OwnedFd::from(namespace)))
    }

    /// True when init is gone.
    pub(super) fn has_ended(&self) -> io::Result<bool> {
        Ok(poll(&mut [PollFd::new(self.process.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO)? > 0)
    }
}

/// What one visit found.
pub(super) struct Visited {
    /// The stack's device with what is set on it.
    pub(super) stack: Result<Option<StackActual>, NetlinkError>,
    /// The packet filter.
    pub(super) filter: Result<Option<Found>, FilterError>,
    /// Init's answer; it is not asked on its way out.
    pub(super) house: Option<Result<(Hello, Vec<ServiceState>), ClientError>>,
}

/// Who was found again.
struct Taken {
    launched: Launched,
    cookie: u64,
}

impl World {
    /// Everything that is read of a tenant's init and in its stack, in one visit. An init that the daemon does not hold
    /// yet is looked for at its control socket. `None`: there is none.
    pub(super) async fn look_inside(&mut self, desired: &Desired) -> Result<Option<Visited>, StepError> {
        let (name, device) = (desired.tenant.name.clone(), desired.tenant.device.clone());
        let seat = self.seats.get(&name).map(|seat| seat.process.clone());
        let pid = self.seats.get(&name).map(|seat| seat.pid);
        let (socket, removing) = (self.control_socket(&name), desired.removing);
        let silent = self.seats.get(&name).is_some_and(|seat| seat.silent);
        let looked = self.visitor.run(move || {
            let Some(process) = seat else {
                return Ok(take(&socket, &name, &device)?.map(|(taken, visited)| (Some(taken), visited)));
            };
            enter(process.as_fd())?;
            let house = (!removing).then(|| match silent {
                true => Err(ClientError::Deadline(PASS_DEADLINE)),
                false => ask(&socket),
            });
            Ok::<_, StepError>(Some((None, visit(&device, house)?)))
        });
        match looked.await? {
            Ok(Some((taken, visited))) => {
                if let Some(Taken { launched, cookie }) = taken {
                    self.hold(&desired.tenant.name, launched, cookie);
                }
                if matches!(visited.house, Some(Err(ClientError::Deadline(_)))) {
                    self.ask_on(&desired.tenant.name);
                }
                Ok(Some(visited))
            }
            Ok(None) => Ok(None),
            // It ended and nobody has told us yet.
            Err(StepError::Ns(NsError::Enter(error))) if error.raw_os_error() == Some(libc::ESRCH) => {
                if let Some(pid) = pid {
                    self.forget_seat(&desired.tenant.name, pid);
                }
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    /// Takes hold of an init that was just started.
    pub(super) async fn sit(&mut self, name: &TenantName, launched: Launched) -> Result<(), StepError> {
        let (launched, cookie) = self
            .visitor
            .run(move || {
                enter(launched.pidfd.as_fd())?;
                let cookie = guard::cookie().map_err(StepError::Watch)?;
                Ok::<_, StepError>((launched, cookie))
            })
            .await??;
        self.hold(name, launched, cookie);
        Ok(())
    }

    fn hold(&mut self, name: &TenantName, launched: Launched, cookie: u64) {
        let Launched { pid, pidfd, netns_inode: inode, .. } = launched;
        let process = Arc::new(pidfd);
        let (tenant, events, watched) = (name.clone(), self.events.clone(), process.clone());
        tokio::spawn(async move {
            // SAFETY: an owned descriptor names the same process until it is dropped with the registration.
            let fd = unsafe { AsyncFd::register_with_interest(watched, Interest::READABLE) };
            if let Ok(fd) = fd {
                let _ = fd.readable().await;
                drop(fd);
                let _ = events.send(KernelEvent::InitEnded { tenant, pid }).await;
            }
        });
        self.seats.insert(name.clone(), Seat { pid, process, inode, cookie, silent: false });
    }

    /// Goes on asking an init that did not answer, beside the owner, and tells when it has answered.
    fn ask_on(&mut self, name: &TenantName) {
        let (socket, tenant, events) = (self.control_socket(name), name.clone(), self.events.clone());
        let Some(seat) = self.seats.get_mut(name).filter(|seat| !seat.silent) else { return };
        seat.silent = true;
        let pid = seat.pid;
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(ASK_AGAIN).await;
                let socket = socket.clone();
                let ask = move || Client::connect(&socket)?.hello(PASS_DEADLINE).map(drop);
                match tokio::task::spawn_blocking(ask).await {
                    Ok(Err(ClientError::Deadline(_))) => {}
                    // Gone is an answer too: whoever looks finds out.
                    _ => break,
                }
            }
            let _ = events.send(KernelEvent::InitAnswers { tenant, pid }).await;
        });
    }

    pub(super) fn seat_of(&self, name: &TenantName) -> Result<&Seat, StepError> {
        self.seats.get(name).ok_or_else(|| StepError::NoInit(name.clone()))
    }

    /// Runs `work` with a netlink socket in the tenant's stack.
    pub(super) async fn in_stack<T: Send + 'static>(
        &self,
        tenant: &Tenant,
        work: impl FnOnce(&Netlink) -> Result<T, StepError> + Send + 'static,
    ) -> Result<T, StepError> {
        let process = self.seat_of(&tenant.name)?.process.clone();
        self.visitor.visit(process, || work(&Netlink::open().map_err(NsError::Netlink)?)).await?
    }

    /// Runs `work` with the packet filter of the tenant's stack.
    pub(super) async fn in_filter<T: Send + 'static>(
        &self,
        name: &TenantName,
        work: impl FnOnce(&Netfilter) -> Result<T, FilterError> + Send + 'static,
    ) -> Result<T, StepError> {
        let process = self.seat_of(name)?.process.clone();
        Ok(self.visitor.visit(process, || work(&Netfilter::open()?)).await??)
    }
}

/// Finds an init by its control socket, and looks at its stack.
fn take(socket: &Path, name: &TenantName, device: &str) -> Result<Option<(Taken, Visited)>, StepError> {
    let (launched, hello, mut client) = match launch::find(socket, name) {
        Err(AdoptError::Client(ClientError::Gone { .. })) => return Ok(None),
        found => found?,
    };
    enter(launched.pidfd.as_fd())?;
    let cookie = guard::cookie().map_err(StepError::Watch)?;
    // It still answers, so the number meant init all the time.
    let services = client.list(PASS_DEADLINE)?;
    let visited = visit(device, Some(Ok((hello, services))))?;
    Ok(Some((Taken { launched, cookie }, visited)))
}

fn ask(socket: &Path) -> Result<(Hello, Vec<ServiceState>), ClientError> {
    let mut client = Client::connect(socket)?;
    Ok((client.hello(PASS_DEADLINE)?, client.list(PASS_DEADLINE)?))
}

/// On a thread that is in the stack.
fn visit(device: &str, house: Option<Result<(Hello, Vec<ServiceState>), ClientError>>) -> Result<Visited, StepError> {
    let netlink = Netlink::open().map_err(NsError::Netlink)?;
    let stack = stack::read(&netlink, device);
    let filter = Netfilter::open().and_then(|netfilter| netfilter.read());
    Ok(Visited { stack, filter, house })
}
