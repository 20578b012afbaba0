//! The API inside every tenant: the same routes and handlers on a socket of its own, for its administrator only.
//!
//! Everything that comes from here is hostile until shown otherwise. The peer must be the tenant's root (the kernel
//! says who it is), the path must name that tenant, the route must be one of [`ALLOWED`], bodies are short, requests
//! are counted. Another name is refused alike whether there is such a tenant or not. What is left goes to the owner
//! through a queue from which operators never wait for more than the command at hand.
//!
//! Tasks: one a tenant that accepts, at most [`CONNECTIONS`] a tenant that answer; no thread, no timer.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::serve::{IncomingStream, Listener};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, fchownat};
use socket2::{Domain, SockAddr, Socket, Type};
use stackmap::TenantName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tracing::info;

use super::account::Account;
use super::caller::who;
use super::refused::{Teller, What};
use super::socket::Peer;
use super::{described, no_such_method, no_such_path};
use crate::control::Handle;
use crate::fault;
use crate::model::{Tenant, TenantStatus};
use crate::problem::{Problem, ProblemKind};

/// Connections of one tenant that are answered at the same time; more wait in the kernel.
const CONNECTIONS: usize = 8;
/// The longest request body from inside, in bytes.
const BODY_MAX: usize = 64 * 1024;
/// Connections of one tenant that wait to be accepted.
const BACKLOG: i32 = 16;
/// Changes that a tenant may ask for at once, and how many a second it gets back.
const CHANGES: f64 = 60.0;
const CHANGES_A_SECOND: f64 = 2.0;
/// What a question costs, in changes.
const QUESTION: f64 = 0.05;
/// A question that costs as much as a change: processes and descriptors are looked through.
const TRACE: &str = "/v1/tenants/{name}/trace";

/// What a tenant's administrator may ask for: method and route. Whatever is not here is the operator's.
const ALLOWED: [(Method, &str); 35] = [
    (Method::GET, "/openapi.json"),
    (Method::GET, "/v1/here"),
    (Method::GET, "/v1/audit"),
    (Method::GET, "/v1/events"),
    (Method::GET, "/v1/templates"),
    (Method::GET, "/v1/templates/{template}"),
    (Method::GET, "/v1/tenants"),
    (Method::GET, "/v1/tenants/{name}"),
    (Method::GET, "/v1/tenants/{name}/status"),
    (Method::GET, "/v1/tenants/{name}/usage"),
    (Method::GET, TRACE),
    (Method::GET, "/v1/tenants/{name}/tunnels"),
    (Method::GET, "/v1/tenants/{name}/limits"),
    (Method::GET, "/v1/tenants/{name}/shares"),
    (Method::GET, "/v1/tenants/{name}/addresses"),
    (Method::PUT, "/v1/tenants/{name}/addresses"),
    (Method::POST, "/v1/tenants/{name}/addresses"),
    (Method::DELETE, "/v1/tenants/{name}/addresses/{address}"),
    (Method::GET, "/v1/tenants/{name}/routes"),
    (Method::PUT, "/v1/tenants/{name}/routes"),
    (Method::POST, "/v1/tenants/{name}/routes"),
    (Method::DELETE, "/v1/tenants/{name}/routes/{to}"),
    (Method::GET, "/v1/tenants/{name}/filter"),
    (Method::PUT, "/v1/tenants/{name}/filter"),
    (Method::GET, "/v1/tenants/{name}/dns"),
    (Method::PUT, "/v1/tenants/{name}/dns"),
    (Method::GET, "/v1/tenants/{name}/services"),
    (Method::POST, "/v1/tenants/{name}/services"),
    (Method::GET, "/v1/tenants/{name}/services/{service}"),
    (Method::DELETE, "/v1/tenants/{name}/services/{service}"),
    (Method::POST, "/v1/tenants/{name}/services/{service}/restart"),
    (Method::POST, "/v1/tenants/{name}/services/{service}/start"),
    (Method::POST, "/v1/tenants/{name}/services/{service}/stop"),
    (Method::POST, "/v1/tenants/{name}/services/{service}/reload"),
    (Method::GET, "/v1/tenants/{name}/logs/{service}"),
];

/// Steps whose failure a tenant may have caused and can mend; the causes of others tell of the host.
const OWN_STEPS: [&str; 6] = ["addresses", "filter", "probe", "service", "stop-service", "resolv"];

/// Why the socket of a tenant's own API could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the socket of the tenant's own API: cannot {step} {}", .path.display())]
pub struct DoorError {
    step: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The sockets of all tenants' own APIs.
#[derive(Debug)]
pub struct Doors {
    dir: PathBuf,
    handle: Handle,
    open: HashMap<TenantName, Door>,
}

#[derive(Debug)]
struct Door {
    task: JoinHandle<()>,
    /// Device and inode of the socket's file.
    file: (u64, u64),
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Doors {
    /// No door yet; each will be in a directory of its own below `dir`, which only root may pass.
    #[must_use]
    pub fn new(dir: PathBuf, handle: Handle) -> Self {
        // Now, or the first tenant would wait for it.
        LazyLock::force(&ROUTES);
        Self { dir, handle, open: HashMap::new() }
    }

    /// The directory that a tenant sees as `/run/tenantd`.
    #[must_use]
    pub fn dir_of(dir: &Path, name: &TenantName) -> PathBuf {
        dir.join(format!("{name}.api"))
    }

    /// Whether the tenant's socket is where it should be and listened on by us.
    #[must_use]
    pub fn is_open(&self, name: &TenantName) -> bool {
        let Some(door) = self.open.get(name) else { return false };
        let found = fs::symlink_metadata(Self::dir_of(&self.dir, name).join("api.sock"));
        !door.task.is_finished() && found.is_ok_and(|found| (found.dev(), found.ino()) == door.file)
    }

    /// Listens for one tenant. A socket of an earlier daemon is replaced; the directory stays, because a running tenant
    /// sees that very directory.
    ///
    /// # Errors
    /// [`DoorError`].
    pub fn open(&mut self, tenant: &Tenant) -> Result<(), DoorError> {
        self.open_for(&tenant.name, tenant.gid.get())
    }

    /// As [`open`](Self::open), for a tenant whose root is `root` on the host.
    pub(super) fn open_for(&mut self, name: &TenantName, root: u32) -> Result<(), DoorError> {
        let dir = Self::dir_of(&self.dir, name);
        let (listener, file) = bind(&dir, root)?;
        fault::point("door.bound");
        let account = Mutex::new(Account::new(CHANGES, CHANGES_A_SECOND, Instant::now()));
        let handle = self.handle.for_tenant(name.clone());
        let (name_, handle_, refusals) = (name.clone(), handle.clone(), Teller::default());
        let guard = Arc::new(Guard { name: name_, root, account, handle: handle_, refusals });
        let mut few = Few { listener, seats: Arc::new(Semaphore::new(CONNECTIONS)), first: None };
        let task = tokio::spawn(async move {
            // The routes of one tenant are some hundred allocations: made when somebody comes, which is rarely.
            few.first = Some(few.accept().await);
            let router = router(handle, guard);
            let _ = axum::serve(few, router.into_make_service_with_connect_info::<Peer>()).await;
        });
        self.open.insert(name.clone(), Door { task, file });
        Ok(())
    }

    /// Listens no longer and removes the directory; one that is not there is no error.
    pub fn close(&mut self, name: &TenantName) {
        self.open.remove(name);
        let dir = Self::dir_of(&self.dir, name);
        if let Err(error) = fs::remove_dir_all(&dir)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(tenant = %name, %error, "cannot remove the directory of the tenant's own API");
        }
    }
}

fn bind(dir: &Path, root: u32) -> Result<(UnixListener, (u64, u64)), DoorError> {
    let at = |step, path: &Path| {
        let path = path.to_owned();
        move |source| DoorError { step, path, source }
    };
    DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(at("make", dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(at("set the mode of", dir))?;
    // What the program is mounted on.
    let program = dir.join("tenantd");
    OpenOptions::new().create(true).append(true).mode(0o444).open(&program).map_err(at("make", &program))?;
    let path = dir.join("api.sock");
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at("replace", &path)(error)),
        _ => {}
    }
    let held = File::open(dir).map_err(at("open", dir))?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(at("open", &path))?;
    fchmod(socket.as_fd(), Mode::from_bits_truncate(0o600)).map_err(|e| at("set the mode of", &path)(e.into()))?;
    // A socket's path has at most 107 bytes, and a tenant's name alone may have 48.
    let short = format!("/proc/self/fd/{}/api.sock", held.as_raw_fd());
    let address = SockAddr::unix(short).map_err(at("name", &path))?;
    socket.bind(&address).map_err(at("bind", &path))?;
    let (uid, gid) = (Uid::from_raw(root), Gid::from_raw(root));
    fchownat(&held, "api.sock", Some(uid), Some(gid), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)
        .map_err(|e| at("give the tenant", &path)(e.into()))?;
    socket.listen(BACKLOG).map_err(at("listen on", &path))?;
    socket.set_nonblocking(true).map_err(at("watch", &path))?;
    let file = fs::symlink_metadata(&path).map_err(at("look at", &path))?;
    let listener = UnixListener::from_std(socket.into()).map_err(at("watch", &path))?;
    Ok((listener, (file.dev(), file.ino())))
}

/// A listener that takes few connections at a time.
struct Few {
    listener: UnixListener,
    seats: Arc<Semaphore>,
    /// The first connection, which was taken before there was anybody to serve it.
    first: Option<(Seated, tokio::net::unix::SocketAddr)>,
}

/// A connection that holds its seat.
struct Seated {
    stream: UnixStream,
    _seat: Option<OwnedSemaphorePermit>,
}

impl Listener for Few {
    type Io = Seated;
    type Addr = tokio::net::unix::SocketAddr;

    async fn accept(&mut self) -> (Seated, Self::Addr) {
        if let Some(first) = self.first.take() {
            return first;
        }
        // Never closed, so there is always a seat sooner or later.
        let seat = self.seats.clone().acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Seated { stream, _seat: seat }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        UnixListener::local_addr(&self.listener)
    }
}

impl Connected<IncomingStream<'_, Few>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Few>) -> Self {
        Self::of(&stream.io().stream)
    }
}

impl AsyncRead for Seated {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Seated {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What a request from inside is checked against.
#[derive(Debug)]
struct Guard {
    name: TenantName,
    /// The tenant's root on the host.
    root: u32,
    /// What the tenant may still ask for, in changes.
    account: Mutex<Account>,
    handle: Handle,
    refusals: Teller,
}

/// The longest body that a request may have; an operator's may be longer.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyMax(pub(super) usize);

/// The routes, described once: a tenant must not wait for that.
static ROUTES: LazyLock<Router<Handle>> = LazyLock::new(|| described().0);

fn router(handle: Handle, guard: Arc<Guard>) -> Router {
    ROUTES
        .clone()
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(guard, check))
        .with_state(handle)
}

async fn check(
    State(guard): State<Arc<Guard>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    // A path of no route has none.
    let params = RawPathParams::from_request_parts(&mut parts, &()).await.ok();
    let mut request = Request::from_parts(parts, body);
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|p| p.as_str().to_owned()).unwrap_or_default();
    let named = params.iter().flatten().find(|(key, _)| *key == "name").map(|(_, value)| value.to_owned());
    // Whatever name it says: it is the tenant itself that tried.
    let what = What::new(&method, &route, request.uri(), Some(guard.name.clone()));
    let tell = |response: &Response| {
        // Who has no say here at all is not looked up.
        if is_change(&method) {
            guard.refusals.tell(&guard.handle.by(who(&peer, &guard.handle)), &what, response);
        }
    };
    if let Err(problem) = guard.admits(&peer, &method, &route, named.as_deref()) {
        info!(tenant = %guard.name, uid = peer.uid, %method, route, kind = problem.kind, "refused from inside");
        let mut response = problem.into_response();
        if response.status().as_u16() == 429 {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        tell(&response);
        return response;
    }
    request.extensions_mut().insert(BodyMax(BODY_MAX));
    let response = next.run(request).await;
    if is_change(&method) {
        info!(tenant = %guard.name, %method, route, status = response.status().as_u16(), "request from inside");
    }
    tell(&response);
    response
}

fn is_change(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

/// Whether a tenant may ask this at all; a question without a body is a question.
pub(super) fn allows(method: &Method, route: &str) -> bool {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    ALLOWED.iter().any(|(allowed, known)| allowed == method && *known == route)
}

impl Guard {
    #[allow(clippy::result_large_err, reason = "a refusal is made once a request and leaves at once")]
    fn admits(&self, peer: &Peer, method: &Method, route: &str, named: Option<&str>) -> Result<(), Problem> {
        if peer.uid != self.root && peer.uid != 0 {
            return Err(Problem::new(
                ProblemKind::Forbidden,
                "only the tenant's root may speak to the tenant's own API",
            ));
        }
        let price = if is_change(method) || route == TRACE { 1.0 } else { QUESTION };
        if !self.account.lock().unwrap_or_else(PoisonError::into_inner).pay(price, Instant::now()) {
            let rule = format!("a tenant may ask for {CHANGES_A_SECOND} changes a second; wait and ask again");
            return Err(Problem::new(ProblemKind::TooMany, rule));
        }
        if named.is_some_and(|named| named != self.name.as_str()) {
            let detail = format!("here only tenant {} can be asked about or changed", self.name);
            return Err(Problem::new(ProblemKind::NotYours, detail));
        }
        // An unknown path is answered as such, by the fallback.
        if !route.is_empty() && !allows(method, route) {
            let detail = format!("{method} {route} is for the operator of the host, not for the tenant");
            return Err(Problem::new(ProblemKind::OperatorOnly, detail));
        }
        Ok(())
    }
}

/// A tenant as this caller may see it: from inside without the host's paths.
pub(super) fn seen(handle: &Handle, mut tenant: Tenant) -> Tenant {
    if handle.tenant().is_some() {
        for share in &mut tenant.shares {
            share.directory.clone_from(&share.target);
        }
    }
    tenant
}

/// A status as this caller may see it: from inside without the host's process ids and the causes of the host's steps.
pub(super) fn seen_status(handle: &Handle, mut status: TenantStatus) -> TenantStatus {
    if handle.tenant().is_some() {
        (status.init_pid, status.netns) = (None, None);
        if !status.step.as_deref().is_some_and(|step| OWN_STEPS.contains(&step)) {
            status.cause = status.cause.map(|_| "the operator of the host can see why".to_owned());
        }
    }
    status
}
