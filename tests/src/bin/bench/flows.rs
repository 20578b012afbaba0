//! The measurements: each opens its sockets in two namespaces, sends for a while and says what arrived.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use crate::cpu;
use crate::netns::Netns;
use crate::sample;

/// Payload of the small packets, bytes.
const SMALL: usize = 64;
/// What a TCP sender writes, and a receiver reads, at a time.
const CHUNK: usize = 128 * 1024;
/// Until windows are open and buffers are there.
const WARM_UP: Duration = Duration::from_millis(60);

/// From whom to whom.
pub(crate) struct Way<'a> {
    /// Who sends, or asks.
    pub(crate) from: &'a Netns,
    /// Who receives, or answers.
    pub(crate) to: &'a Netns,
    /// Its address.
    pub(crate) address: Ipv4Addr,
}

/// What a run of small packets came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Small {
    /// Packets received a second, in thousands.
    pub(crate) kpps: f64,
    /// Part of those sent that did not arrive.
    pub(crate) lost: f64,
    /// Processor time of the machine a received packet, microseconds.
    pub(crate) cpu_us: f64,
}

/// Times of the round trips of one byte, microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PingPong {
    /// Half are faster.
    pub(crate) p50: f64,
    /// One in a hundred is slower.
    pub(crate) p99: f64,
}

fn receiver(way: &Way<'_>) -> Result<UdpSocket> {
    way.to.run(|| {
        let socket = UdpSocket::bind((way.address, 0)).context("cannot bind")?;
        // What is lost should be lost on the way, not because the reader was not scheduled for a millisecond.
        let bytes: i32 = 16 << 20;
        // SAFETY: a live descriptor, a value of the size given.
        let rc = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                (&raw const bytes).cast(),
                libc::socklen_t::try_from(size_of_val(&bytes))?,
            )
        };
        anyhow::ensure!(rc == 0, "cannot set the receive buffer: {}", std::io::Error::last_os_error());
        // The receiver polls: to wake a sleeping one costs the sender an interrupt to another processor, on a virtual
        // machine as much as the whole path, and whether it sleeps depends on which of the two is a little faster.
        socket.set_nonblocking(true)?;
        Ok(socket)
    })
}

/// As many small packets as one sender can.
pub(crate) fn small_packets(way: &Way<'_>, duration: Duration) -> Result<Small> {
    let to = receiver(way)?;
    let from = way.from.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(to.local_addr()?)?;
        Ok(socket)
    })?;
    let received = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            cpu::pin(1);
            let mut buffer = [0; 2 * SMALL];
            while !done.load(Ordering::Relaxed) {
                if to.recv(&mut buffer).is_ok() {
                    received.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let sender = scope.spawn(|| {
            cpu::pin(0);
            let result = send_small(&from, &received, duration);
            // What is under way still counts as arrived.
            std::thread::sleep(Duration::from_millis(20));
            done.store(true, Ordering::Relaxed);
            result
        });
        let sent = sender.join().map_err(|_| anyhow!("the sender died"));
        reader.join().map_err(|_| anyhow!("the receiver died"))?;
        let (sent, small) = sent??;
        let arrived = received.load(Ordering::Relaxed);
        Ok(Small { lost: 1.0 - arrived as f64 / sent as f64, ..small })
    })
}

/// Number sent in all, and the rates while it was under way.
fn send_small(from: &UdpSocket, received: &AtomicU64, duration: Duration) -> Result<(u64, Small)> {
    let payload = [0x55; SMALL];
    let mut sent = 0u64;
    let mut burst = |until: Instant| -> Result<()> {
        while Instant::now() < until {
            for _ in 0..64 {
                // A full queue or a refused packet is a lost packet, not the end.
                match from.send(&payload) {
                    Ok(_) => sent += 1,
                    Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => sent += 1,
                    Err(e) => return Err(e).context("cannot send"),
                }
            }
        }
        Ok(())
    };
    burst(Instant::now() + WARM_UP)?;
    let (started, busy, before) = (Instant::now(), cpu::busy()?, received.load(Ordering::Relaxed));
    burst(started + duration)?;
    let packets = (received.load(Ordering::Relaxed) - before) as f64;
    let (took, busy) = (started.elapsed().as_secs_f64(), cpu::busy()? - busy);
    anyhow::ensure!(packets > 0.0, "no small packet arrived");
    Ok((sent, Small { kpps: packets / took / 1e3, lost: 0.0, cpu_us: busy / packets * 1e6 }))
}

/// Both ends of `count` connections: (sender, receiver).
fn connections(way: &Way<'_>, count: usize) -> Result<Vec<(TcpStream, TcpStream)>> {
    let listener = way.to.run(|| TcpListener::bind((way.address, 0)).context("cannot listen"))?;
    let address: SocketAddr = listener.local_addr()?;
    (0..count)
        .map(|_| {
            let from = way.from.run(|| {
                TcpStream::connect_timeout(&address, Duration::from_secs(3))
                    .with_context(|| format!("cannot connect to {address}"))
            })?;
            let (to, _) = listener.accept()?;
            for socket in [&from, &to] {
                socket.set_nodelay(true)?;
                steady(socket)?;
                socket.set_read_timeout(Some(Duration::from_secs(3)))?;
                socket.set_write_timeout(Some(Duration::from_secs(3)))?;
            }
            Ok((from, to))
        })
        .collect()
}

/// What may lie in a sender's socket unsent, bytes. Without a bound a sender runs megabytes ahead of its receiver now and
/// then, everything is copied from cold memory, and a path is as fast as the memory: 13 Gbit/s, or 60.
const UNSENT: libc::c_int = 128 * 1024;

/// What makes TCP show the path. Congestion control is the upstream default, whatever this machine has: one that paces
/// its sender (BBR) measures its own model of the path.
fn steady(socket: &TcpStream) -> Result<()> {
    let name = c"cubic";
    let unsent = UNSENT;
    let set = |option, value: *const libc::c_void, length: usize| -> Result<()> {
        // SAFETY: a live descriptor, a pointer to a value of the length given.
        let rc = unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, value, libc::socklen_t::try_from(length)?)
        };
        anyhow::ensure!(rc == 0, "socket option {option}: {}", std::io::Error::last_os_error());
        Ok(())
    };
    set(libc::TCP_CONGESTION, name.as_ptr().cast(), name.count_bytes())?;
    set(libc::TCP_NOTSENT_LOWAT, (&raw const unsent).cast(), size_of_val(&unsent))
}

/// Gbit/s that `streams` connections carry together. One stream has both its ends on one processor, so that every
/// nanosecond of the path counts; on two, veth reorders (sender and acknowledgements transmit on both) and the limit is
/// slower than what is compared with it. Several streams share all processors.
pub(crate) fn tcp(way: &Way<'_>, streams: usize, duration: Duration) -> Result<f64> {
    let connections = connections(way, streams)?;
    let received = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (from, to) in &connections {
            let (done, received) = (&done, &received);
            scope.spawn(move || {
                if streams == 1 {
                    cpu::pin(0);
                }
                let (mut from, chunk) = (from, vec![0x55; CHUNK]);
                while !done.load(Ordering::Relaxed) && from.write(&chunk).is_ok() {}
                let _ = from.shutdown(std::net::Shutdown::Write);
            });
            scope.spawn(move || {
                if streams == 1 {
                    cpu::pin(0);
                }
                let (mut to, mut chunk) = (to, vec![0; CHUNK]);
                while let Ok(n @ 1..) = to.read(&mut chunk) {
                    received.fetch_add(n as u64, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(WARM_UP);
        let (started, before) = (Instant::now(), received.load(Ordering::Relaxed));
        std::thread::sleep(duration);
        let bytes = received.load(Ordering::Relaxed) - before;
        let took = started.elapsed().as_secs_f64();
        done.store(true, Ordering::Relaxed);
        anyhow::ensure!(bytes > 0, "no byte arrived over TCP");
        Ok(bytes as f64 * 8.0 / took / 1e9)
    })
}

/// One byte there and back again, over TCP. Both ends on one processor: what is measured is the path, not how long
/// an idle processor takes to wake.
pub(crate) fn ping_pong(way: &Way<'_>, duration: Duration) -> Result<PingPong> {
    let connection = connections(way, 1)?.pop().context("no connection")?;
    let (mut from, mut to) = connection;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            cpu::pin(0);
            let mut byte = [0; 1];
            while to.read_exact(&mut byte).is_ok() && to.write_all(&byte).is_ok() {}
        });
        let asker = scope.spawn(move || -> Result<Vec<f64>> {
            cpu::pin(0);
            let mut byte = [1; 1];
            let mut times = Vec::with_capacity(1 << 16);
            let started = Instant::now();
            while started.elapsed() < WARM_UP + duration {
                let sent = Instant::now();
                from.write_all(&byte)?;
                from.read_exact(&mut byte).context("a byte did not come back")?;
                let took = sent.elapsed();
                if started.elapsed() > WARM_UP {
                    times.push(took.as_nanos() as f64 / 1e3);
                }
            }
            from.shutdown(std::net::Shutdown::Both)?;
            Ok(times)
        });
        let times = asker.join().map_err(|_| anyhow!("the asker died"))??;
        Ok(PingPong { p50: sample::percentile(&times, 50.0), p99: sample::percentile(&times, 99.0) })
    })
}
