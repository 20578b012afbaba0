//! Services of a tenant, as its init is told about them. What may take its time is a [`Job`], which runs beside the
//! owner: no tenant waits for the server of another.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use stackmap::TenantName;
use tenant_init::client::{Client, ClientError};
use tenant_init::protocol::{Ready, RefusalKind};
use tenant_init::service::ServiceSpec;

use super::{INIT_DEADLINE, STOP_GRACE, StepError, World};
use crate::model::{ServiceRequest, Tenant};
use crate::services::{self, ServiceError, holder};

/// How long a pass waits for a service: one that takes longer goes on starting, and the next pass finds it there.
const PASS_PATIENCE: Duration = Duration::from_millis(300);

/// What can be done to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Start it, if it does not run.
    Start,
    /// Stop it until it is started again, or its tenant is.
    Stop,
    /// Stop and start it.
    Restart,
    /// Stop it and forget it.
    Remove,
    /// Send SIGHUP: most servers read their files again.
    Reload,
}

/// Something to be done to a service by the tenant's init.
#[derive(Debug)]
pub struct Job {
    socket: PathBuf,
    init: Option<i32>,
    spec: ServiceSpec,
    verb: Verb,
    /// The program that has to be there, and what is said when it is not.
    needs: Option<(PathBuf, ServiceError)>,
}

impl World {
    /// Directory of the user's templates.
    pub fn templates(&self) -> PathBuf {
        self.config.state_dir.join("templates")
    }

    pub(super) fn service_spec(&self, tenant: &Tenant, service: &ServiceRequest) -> Result<ServiceSpec, StepError> {
        Ok(services::spec(tenant, service, &self.templates())?)
    }

    /// What is to be done for a service; nothing has been done yet.
    ///
    /// # Errors
    /// The template, or a value of it.
    pub fn job(&self, tenant: &Tenant, service: &ServiceRequest, verb: Verb) -> Result<Job, StepError> {
        let init = self.seats.get(&tenant.name).map(|seat| seat.pid);
        let socket = self.control_socket(&tenant.name);
        if matches!(verb, Verb::Stop | Verb::Remove) {
            // Also one whose template or program is gone.
            let bare = || ServiceSpec { name: service.name.to_string(), ..ServiceSpec::default() };
            let spec = self.service_spec(tenant, service).unwrap_or_else(|_| bare());
            return Ok(Job { socket, init, spec, verb, needs: None });
        }
        let spec = self.service_spec(tenant, service)?;
        let needs = services::template(service, &self.templates())?.map(|template| {
            let missing = services::not_installed(tenant, service, &template);
            (template.needs, missing)
        });
        Ok(Job { socket, init, spec, verb, needs })
    }

    /// Start a service in a pass.
    pub(super) async fn start_service(&self, tenant: &Tenant, service: &ServiceRequest) -> Result<(), StepError> {
        let job = self.job(tenant, service, Verb::Start)?;
        let patience = PASS_PATIENCE;
        match tokio::task::spawn_blocking(move || job.run_within(patience)).await.map_err(super::joined)? {
            // A service that is not ready yet is no reason to make the others wait.
            Err(StepError::Init(ClientError::Deadline(waited))) if waited >= patience => Ok(()),
            done => done,
        }
    }

    /// Stop and forget a service at the tenant's init, in a pass. One that takes its time goes on ending, and is killed
    /// by init after its grace.
    pub async fn stop_service(&self, tenant: &TenantName, service: &TenantName) -> Result<(), StepError> {
        let service = service.clone();
        let stop = self.ask_init(tenant, move |c| c.remove(service.as_str(), STOP_GRACE));
        tokio::time::timeout(PASS_PATIENCE, stop).await.unwrap_or(Ok(()))
    }
}

impl Job {
    /// What it does.
    pub fn verb(&self) -> Verb {
        self.verb
    }

    /// Does it and waits until it is done: a start, until the service is ready. Blocks.
    ///
    /// # Errors
    /// Init does not answer, or refuses; the template's program is not in the tenant's root.
    pub fn run(self) -> Result<(), StepError> {
        let longest = self.spec.longest_start();
        self.run_within(longest)
    }

    fn run_within(self, start: Duration) -> Result<(), StepError> {
        let mut client = match Client::connect(&self.socket) {
            // With init everything that it ran is gone.
            Err(ClientError::Gone { .. }) if self.verb == Verb::Remove => return Ok(()),
            client => client?,
        };
        let hello = client.hello(INIT_DEADLINE)?;
        if !hello.ready {
            return Err(StepError::NotReady(hello.failed.unwrap_or_default()));
        }
        // Not before init is ready: until then its root is the host's, or none.
        if let (Some(init), Some((program, missing))) = (self.init, self.needs)
            && !is_there(init, &program)
        {
            return Err(missing.into());
        }
        let (ready, grace) = (self.spec.ready, self.spec.stop_timeout());
        let name = self.spec.name.clone();
        let done = match self.verb {
            Verb::Start => client.start(self.spec, start).map(drop),
            Verb::Stop => client.stop(&name, grace),
            Verb::Remove => client.remove(&name, grace),
            Verb::Restart => client.restart_within(&name, grace, start).map(drop),
            Verb::Reload => client.signal(&name, libc::SIGHUP, INIT_DEADLINE),
        };
        Ok(done.map_err(|error| with_holder(error, self.init, ready))?)
    }
}

/// A port that is taken is told with who has it.
fn with_holder(error: ClientError, init: Option<i32>, ready: Ready) -> ClientError {
    let ClientError::Refused(mut refusal) = error else { return error };
    let port = match ready {
        Ready::Tcp(port) => Some((false, port)),
        Ready::Udp(port) => Some((true, port)),
        _ => None,
    };
    if let (RefusalKind::Port, Some(init), Some((udp, port))) = (refusal.kind, init, port)
        && let Some(holder) = holder(init, udp, port)
    {
        refusal.rule = format!("{}, by {holder}", refusal.rule);
    }
    ClientError::Refused(refusal)
}

/// Is the program in the root of process `init`? The tree is the tenant's: no link of it leads out (`RESOLVE_IN_ROOT`,
/// Linux 5.6), and nothing is opened but the name. In doubt it is: then the start says what is wrong.
fn is_there(init: i32, program: &Path) -> bool {
    let Ok(root) = File::open(format!("/proc/{init}/root")) else { return true };
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
    !matches!(openat2(&root, program, how), Err(Errno::ENOENT | Errno::ENOTDIR))
}
