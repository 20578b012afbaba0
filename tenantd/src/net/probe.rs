//! Proof that a stack answers through its port: a tagged ARP request (or neighbour solicitation) goes out on the trunk
//! and the tagged answer must come back. The sender address is unspecified (RFC 5227 probe, RFC 4861 section 7.2.2),
//! so the probe leaves nothing behind in any neighbour table.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use stackmap::{MacAddr, Vlan};
use tokio::io::unix::AsyncFd;

const ETH_P_ARP: u16 = 0x0806;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_IPV6: u16 = 0x86dd;

/// Why a stack did not prove itself.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The packet socket could not be made.
    #[error("cannot open a packet socket on device {ifindex}")]
    Open {
        /// Device.
        ifindex: u32,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Sending or receiving failed.
    #[error("cannot send a probe")]
    Io(#[source] io::Error),
    /// Nothing came back in time.
    #[error("{target} on {way} did not answer {tries} probes within {waited:?}")]
    Silent {
        /// The address asked.
        target: IpAddr,
        /// VLAN or device.
        way: String,
        /// Probes sent.
        tries: u32,
        /// Time waited.
        waited: Duration,
    },
}

/// What is asked, and on which way.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// Device to send on, in the namespace the socket is opened in.
    pub ifindex: u32,
    /// Tag of the frames; none on a port's own device.
    pub vlan: Option<Vlan>,
    /// Address that must answer.
    pub target: IpAddr,
    /// Its Ethernet address.
    pub server_mac: MacAddr,
    /// Ethernet address of the asker.
    pub gateway_mac: MacAddr,
}

/// A packet socket bound to one device that sees nothing but ARP and neighbour advertisements. Opening belongs in
/// the device's namespace; asking may happen anywhere.
pub struct Prober {
    socket: Option<AsyncFd<OwnedFd>>,
    question: Question,
}

impl Prober {
    /// Open the socket in the calling thread's network namespace; must run inside a tokio runtime.
    pub fn open(question: Question) -> Result<Self, ProbeError> {
        let failed = |source| ProbeError::Open { ifindex: question.ifindex, source };
        let socket = open(question.ifindex).map_err(failed)?;
        // SAFETY: an owned descriptor names the same open socket until it is dropped with the registration.
        let socket = unsafe { AsyncFd::register(socket) }.map_err(|e| failed(e.into()))?;
        Ok(Self { socket: Some(socket), question })
    }

    /// Ask until an answer comes or `deadline` has passed. A frame sent right after link-up can be lost, so the first
    /// repeats come quickly.
    pub async fn ask(self, deadline: Duration) -> Result<(), ProbeError> {
        let Some(socket) = self.socket.as_ref() else { return Err(ProbeError::Io(io::ErrorKind::NotConnected.into())) };
        let frame = self.question.frame();
        let started = Instant::now();
        let (mut tries, mut pause) = (0, Duration::from_millis(1));
        loop {
            send(socket, &frame).map_err(ProbeError::Io)?;
            tries += 1;
            let next = Instant::now() + pause;
            loop {
                let left = next.saturating_duration_since(Instant::now());
                let Ok(ready) = tokio::time::timeout(left, socket.readable()).await else { break };
                let mut ready = ready.map_err(ProbeError::Io)?;
                match ready.try_io(|fd| receive(fd.get_ref())) {
                    Ok(Ok((bytes, tag))) if self.question.answered_by(&bytes, tag) => return Ok(()),
                    Ok(Ok(_)) => {}
                    Ok(Err(source)) => return Err(ProbeError::Io(source)),
                    Err(_would_block) => {}
                }
            }
            let waited = started.elapsed();
            if waited >= deadline {
                let way = match self.question.vlan {
                    Some(vlan) => format!("vlan {vlan}"),
                    None => format!("device {}", self.question.ifindex),
                };
                return Err(ProbeError::Silent { target: self.question.target, way, tries, waited });
            }
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        // Closing a packet socket waits for an RCU grace period (kernel 6.18: packet_release, synchronize_net),
        // milliseconds that no tenant should wait for.
        if let Some(socket) = self.socket.take() {
            let socket = socket.into_inner();
            let _ = std::thread::Builder::new().name("probe-close".into()).spawn(move || drop(socket));
        }
    }
}

impl Question {
    fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(96);
        let (destination, ethertype, body) = match self.target {
            IpAddr::V4(target) => {
                let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
                arp.extend(self.gateway_mac.octets());
                arp.extend([0; 4]);
                arp.extend([0; 6]);
                arp.extend(target.octets());
                (self.server_mac.octets(), ETH_P_ARP, arp)
            }
            IpAddr::V6(target) => {
                let low = target.octets();
                let group = [0x33, 0x33, 0xff, low[13], low[14], low[15]];
                (group, ETH_P_IPV6, neighbour_solicitation(target))
            }
        };
        frame.extend(destination);
        frame.extend(self.gateway_mac.octets());
        if let Some(vlan) = self.vlan {
            frame.extend(ETH_P_8021Q.to_be_bytes());
            frame.extend(vlan.get().to_be_bytes());
        }
        frame.extend(ethertype.to_be_bytes());
        frame.extend(body);
        frame.resize(frame.len().max(60), 0);
        frame
    }

    /// `bytes` is a frame as the kernel shows it: the outer tag taken out and given beside it.
    fn answered_by(&self, bytes: &[u8], tag: Option<u16>) -> bool {
        if tag.map(|tci| tci & 0xfff) != self.vlan.map(|v| v.get()) || bytes.len() < 42 {
            return false;
        }
        let (ethertype, body) = (u16::from_be_bytes([bytes[12], bytes[13]]), &bytes[14..]);
        match self.target {
            IpAddr::V4(target) => ethertype == ETH_P_ARP && body[6..8] == [0, 2] && body[14..18] == target.octets(),
            IpAddr::V6(target) => {
                ethertype == ETH_P_IPV6
                    && body.len() >= 64
                    && body[6] == 58
                    && body[40] == 136
                    && body[48..64] == target.octets()
            }
        }
    }
}

/// IPv6 packet with a neighbour solicitation from the unspecified address (RFC 4861 section 4.3).
fn neighbour_solicitation(target: Ipv6Addr) -> Vec<u8> {
    let low = target.octets();
    let group =
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(low[13]), u16::from_be_bytes([low[14], low[15]]));
    let mut icmp = vec![135, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend(target.octets());
    let mut sum: u32 = group.octets().chunks(2).chain(icmp.chunks(2)).map(word).sum();
    sum += icmp.len() as u32 + 58;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    icmp[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((icmp.len() as u16).to_be_bytes());
    packet.extend([58, 255]);
    packet.extend(Ipv6Addr::UNSPECIFIED.octets());
    packet.extend(group.octets());
    packet.extend(icmp);
    packet
}

fn word(pair: &[u8]) -> u32 {
    u32::from(u16::from_be_bytes([pair[0], pair[1]]))
}

fn cvt(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Classic BPF: ARP, or IPv6 with next header ICMPv6 and type 136; everything else on a busy trunk stays in the kernel.
const ONLY_ANSWERS: [libc::sock_filter; 9] = [
    op(0x28, 0, 0, 12),                // ldh  ethertype
    op(0x15, 5, 0, ETH_P_ARP as u32),  // jeq  arp -> accept
    op(0x15, 0, 5, ETH_P_IPV6 as u32), // jeq  ipv6, else refuse
    op(0x30, 0, 0, 20),                // ldb  next header
    op(0x15, 0, 3, 58),                // jeq  icmpv6, else refuse
    op(0x30, 0, 0, 54),                // ldb  icmp type
    op(0x15, 0, 1, 136),               // jeq  neighbour advertisement, else refuse
    op(0x06, 0, 0, 256),               // accept
    op(0x06, 0, 0, 0),                 // refuse
];

const fn op(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

fn open(ifindex: u32) -> io::Result<OwnedFd> {
    let mut filter = ONLY_ANSWERS.to_vec();
    // SAFETY: plain socket calls; every pointer is to a live value of the length given.
    unsafe {
        // Protocol 0 receives nothing until bound: no frame of another device is ever queued.
        let fd = cvt(libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0))?;
        let socket = OwnedFd::from_raw_fd(fd);
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        set(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
        set(fd, libc::SOL_PACKET, libc::PACKET_AUXDATA, &1i32)?;
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = ifindex as i32;
        cvt(libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as u32))?;
        Ok(socket)
    }
}

/// # Safety
/// `T` must be what the option expects.
unsafe fn set<T>(fd: i32, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: the pointer is to a live value of the size given.
    cvt(unsafe { libc::setsockopt(fd, level, option, std::ptr::from_ref(value).cast(), size_of::<T>() as u32) })?;
    Ok(())
}

fn send(socket: &AsyncFd<OwnedFd>, frame: &[u8]) -> io::Result<()> {
    // SAFETY: the buffer is live for the call.
    let sent = unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
    if sent < 0 {
        let error = io::Error::last_os_error();
        // A device on its way up, or a full queue: as good as a lost frame, the next try follows.
        if !matches!(error.raw_os_error(), Some(libc::ENETDOWN | libc::ENOBUFS | libc::EAGAIN)) {
            return Err(error);
        }
    }
    Ok(())
}

fn receive(socket: &OwnedFd) -> io::Result<(Vec<u8>, Option<u16>)> {
    let mut bytes = vec![0u8; 256];
    let mut control = [0u64; 16];
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: msghdr points to live buffers of the lengths given; control messages are walked with the CMSG macros.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        let length = libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0);
        if length < 0 {
            let error = io::Error::last_os_error();
            // The device went down and up again: not an end.
            return if error.raw_os_error() == Some(libc::ENETDOWN) { Ok((Vec::new(), None)) } else { Err(error) };
        }
        bytes.truncate(length as usize);
        let mut tag = None;
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_PACKET && (*header).cmsg_type == libc::PACKET_AUXDATA {
                let aux: libc::tpacket_auxdata = std::ptr::read_unaligned(libc::CMSG_DATA(header).cast());
                if aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                    tag = Some(aux.tp_vlan_tci);
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
        Ok((bytes, tag))
    }
}
