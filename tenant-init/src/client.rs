//! A blocking client of a tenant's control socket.
//!
//! In: the path of the socket. Out: replies, each within a deadline, and the process id of init as the caller's pid
//! namespace sees it. An async caller runs it on a blocking thread.
//!
//! The process id comes with each message (`SO_PASSCRED`), not from `SO_PEERCRED`: the socket is bound and first
//! listened on by the daemon, so the credentials of the connection may be the daemon's own.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{PassCred, SendTimeout};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials, connect, recvmsg,
    sendmsg, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::protocol::{
    Answer, Envelope, Event, Hello, MAX_MESSAGE, PROTOCOL, Refusal, Reply, Request, ServiceSpec, ServiceState,
};

/// Why a request got no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: the tenant's init is gone (or was never there).
    #[error("no init listens on {path}")]
    Gone {
        /// The control socket.
        path: PathBuf,
        /// Why connecting failed.
        #[source]
        source: io::Error,
    },
    /// The control socket could not be reached for another reason.
    #[error("cannot connect to {path}")]
    Connect {
        /// The control socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Sending or receiving failed.
    #[error("control socket of the tenant's init broke")]
    Io(#[source] io::Error),
    /// Init closed the connection: it ended, or it refuses this user.
    #[error("the tenant's init closed the connection")]
    Closed,
    /// No answer in time.
    #[error("the tenant's init did not answer within {0:?}")]
    Deadline(Duration),
    /// The request is longer than [`MAX_MESSAGE`].
    #[error("the request is {0} bytes long; at most {MAX_MESSAGE} are taken")]
    TooLong(usize),
    /// The answer is not of this protocol.
    #[error("the answer of the tenant's init is not understood")]
    Answer(#[source] serde_json::Error),
    /// The answer does not fit the question.
    #[error("the tenant's init answered something else than was asked")]
    Unexpected,
    /// Init refused the request; nothing was changed.
    #[error(transparent)]
    Refused(Refusal),
}

/// A connection to one init.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    next_id: u64,
    peer: Option<i32>,
    events: Vec<Event>,
}

impl Client {
    /// Connects to the control socket at `path`.
    ///
    /// # Errors
    /// [`ClientError::Gone`] when nobody listens there, [`ClientError::Connect`] otherwise.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        Self::connect_io(path).map_err(|source| match source.raw_os_error() {
            Some(libc::ENOENT | libc::ECONNREFUSED) => ClientError::Gone { path: path.to_owned(), source },
            _ => ClientError::Connect { path: path.to_owned(), source },
        })
    }

    fn connect_io(path: &Path) -> io::Result<Client> {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        // A full backlog would make connect() wait for ever behind an init that is stopped.
        setsockopt(&socket, SendTimeout, &TimeVal::seconds(5))?;
        setsockopt(&socket, PassCred, &true)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Client { socket, next_id: 1, peer: None, events: Vec::new() })
    }

    /// Process id of init in the caller's pid namespace; known after the first answer.
    pub fn peer_pid(&self) -> Option<i32> {
        self.peer
    }

    /// Sends a request and waits for its reply for at most `deadline`. Events that come first are kept for
    /// [`Client::next_event`].
    ///
    /// # Errors
    /// Any [`ClientError`] but the two of connecting; [`Reply::Error`] comes back as [`ClientError::Refused`].
    pub fn request(&mut self, request: Request, deadline: Duration) -> Result<Reply, ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        let message = serde_json::to_vec(&Envelope { protocol: PROTOCOL, id, request }).map_err(ClientError::Answer)?;
        if message.len() > MAX_MESSAGE {
            return Err(ClientError::TooLong(message.len()));
        }
        self.send(&message)?;
        let until = Instant::now() + deadline;
        loop {
            let answer = self.receive(until)?.ok_or(ClientError::Deadline(deadline))?;
            match answer.reply {
                Reply::Event(event) => self.events.push(event),
                Reply::Error(refusal) if answer.id == id || answer.id == 0 => {
                    return Err(ClientError::Refused(refusal));
                }
                reply if answer.id == id => return Ok(reply),
                // The late answer to a request whose deadline passed.
                _ => {}
            }
        }
    }

    /// Who is there; waits until the set-up of the tenant is done or has failed.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn hello(&mut self, deadline: Duration) -> Result<Hello, ClientError> {
        match self.request(Request::Hello, deadline)? {
            Reply::Hello(hello) => Ok(hello),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Starts a service; returns its process id inside the tenant when it is ready. A `deadline` of
    /// [`ServiceSpec::longest_start`] is long enough for the service to be ready or to be refused.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn start(&mut self, service: ServiceSpec, deadline: Duration) -> Result<i32, ClientError> {
        match self.request(Request::Start { service: Box::new(service) }, deadline)? {
            Reply::Started { pid } => Ok(pid),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Stops a service; SIGKILL follows SIGTERM after `grace`.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn stop(&mut self, name: &str, grace: Duration) -> Result<(), ClientError> {
        let timeout_ms = millis(grace);
        self.done(Request::Stop { name: name.to_owned(), timeout_ms }, grace + SLACK)
    }

    /// Stops a service and forgets it.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn remove(&mut self, name: &str, grace: Duration) -> Result<(), ClientError> {
        let timeout_ms = millis(grace);
        self.done(Request::Remove { name: name.to_owned(), timeout_ms }, grace + SLACK)
    }

    /// Stops and starts a service; returns its new process id inside the tenant when it is ready again.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn restart(&mut self, name: &str, grace: Duration) -> Result<i32, ClientError> {
        self.restart_within(name, grace, SLACK)
    }

    /// As [`Client::restart`], for a service that takes up to `start` until it is ready
    /// ([`ServiceSpec::longest_start`]).
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn restart_within(&mut self, name: &str, grace: Duration, start: Duration) -> Result<i32, ClientError> {
        let timeout_ms = millis(grace);
        match self.request(Request::Restart { name: name.to_owned(), timeout_ms }, grace + start)? {
            Reply::Started { pid } => Ok(pid),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// All services.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn list(&mut self, deadline: Duration) -> Result<Vec<ServiceState>, ClientError> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            match self.request(Request::List { after: after.take() }, deadline)? {
                Reply::Services { mut services, more } => {
                    all.append(&mut services);
                    after = all.last().map(|last: &ServiceState| last.spec.name.clone());
                    if !more {
                        return Ok(all);
                    }
                }
                _ => return Err(ClientError::Unexpected),
            }
        }
    }

    /// Sends a signal to the first process of a service that runs.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn signal(&mut self, name: &str, signal: i32, deadline: Duration) -> Result<(), ClientError> {
        self.done(Request::Signal { name: name.to_owned(), signal }, deadline)
    }

    /// The last lines of a service's log.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn tail(&mut self, name: &str, lines: usize, deadline: Duration) -> Result<Vec<String>, ClientError> {
        match self.request(Request::Tail { name: name.to_owned(), lines }, deadline)? {
            Reply::Lines { lines } => Ok(lines),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Number of processes beside init.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn processes(&mut self, deadline: Duration) -> Result<usize, ClientError> {
        match self.request(Request::Processes, deadline)? {
            Reply::Processes { count } => Ok(count),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Asks for events on this connection.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn subscribe(&mut self, deadline: Duration) -> Result<(), ClientError> {
        self.done(Request::Subscribe, deadline)
    }

    /// The next event, or none when `wait` passes without one.
    ///
    /// # Errors
    /// [`ClientError::Closed`] when init is gone.
    pub fn next_event(&mut self, wait: Duration) -> Result<Option<Event>, ClientError> {
        if !self.events.is_empty() {
            return Ok(Some(self.events.remove(0)));
        }
        let until = Instant::now() + wait;
        while let Some(answer) = self.receive(until)? {
            if let Reply::Event(event) = answer.reply {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn done(&mut self, request: Request, deadline: Duration) -> Result<(), ClientError> {
        match self.request(request, deadline)? {
            Reply::Done => Ok(()),
            _ => Err(ClientError::Unexpected),
        }
    }

    fn send(&self, message: &[u8]) -> Result<(), ClientError> {
        let fd = self.socket.as_raw_fd();
        loop {
            return match sendmsg::<UnixAddr>(fd, &[IoSlice::new(message)], &[], MsgFlags::MSG_NOSIGNAL, None) {
                Ok(_) => Ok(()),
                Err(Errno::EINTR) => continue,
                Err(Errno::EPIPE | Errno::ECONNRESET) => Err(ClientError::Closed),
                Err(error) => Err(ClientError::Io(error.into())),
            };
        }
    }

    /// One message, or none when `until` passes.
    fn receive(&mut self, until: Instant) -> Result<Option<Answer>, ClientError> {
        let mut buffer = vec![0_u8; MAX_MESSAGE];
        let mut space = nix::cmsg_space!(UnixCredentials);
        loop {
            if !readable(self.socket.as_fd(), until)? {
                return Ok(None);
            }
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let (length, peer) = match recvmsg::<UnixAddr>(
                self.socket.as_raw_fd(),
                &mut parts,
                Some(&mut space),
                MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(message) => {
                    let peer = message.cmsgs().ok().and_then(|mut all| {
                        all.find_map(|one| match one {
                            ControlMessageOwned::ScmCredentials(sender) => Some(sender.pid()),
                            _ => None,
                        })
                    });
                    (message.bytes, peer)
                }
                Err(Errno::EINTR | Errno::EAGAIN) => continue,
                Err(Errno::ECONNRESET) => return Err(ClientError::Closed),
                Err(error) => return Err(ClientError::Io(error.into())),
            };
            if length == 0 {
                return Err(ClientError::Closed);
            }
            self.peer = peer.filter(|pid| *pid > 0).or(self.peer);
            return serde_json::from_slice(&buffer[..length]).map(Some).map_err(ClientError::Answer);
        }
    }
}

/// What init may need beyond the grace it was given: the kill, the last exit, a start.
const SLACK: Duration = Duration::from_secs(5);

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn readable(fd: BorrowedFd<'_>, until: Instant) -> Result<bool, ClientError> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // Rounded up, or the last millisecond would be a busy loop.
        let left = PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], left) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(ClientError::Io(error.into())),
        }
    }
}
