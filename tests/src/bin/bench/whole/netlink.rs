//! Rtnetlink for the floor: requests written byte by byte, sent in one go, each acknowledged.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

/// A netlink socket of the namespace it was opened in.
pub(super) struct Netlink(OwnedFd);

/// Requests that are sent together.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    count: usize,
}

impl Netlink {
    /// In the caller's network namespace.
    pub(super) fn open() -> Result<Self> {
        // SAFETY: a system call without pointers; the descriptor it returns is ours.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("cannot open a netlink socket");
        }
        // SAFETY: as above.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends the requests and reads an acknowledgement for each.
    pub(super) fn ask(&self, batch: Batch) -> Result<()> {
        let fd = self.0.as_raw_fd();
        // SAFETY: pointer and length are of a live vector.
        let sent = unsafe { libc::send(fd, batch.bytes.as_ptr().cast(), batch.bytes.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error()).context("cannot send to netlink");
        }
        let mut left = batch.count;
        let mut buffer = [0_u8; 8192];
        while left > 0 {
            // SAFETY: pointer and length are of a live array.
            let got = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            let Ok(got) = usize::try_from(got) else {
                return Err(io::Error::last_os_error()).context("cannot receive from netlink");
            };
            let mut rest = buffer.get(..got).unwrap_or_default();
            while let Some((length, _, error)) = acknowledgement(rest) {
                if error != 0 {
                    bail!(
                        "request {} of {}: {}",
                        batch.count - left + 1,
                        batch.count,
                        io::Error::from_raw_os_error(-error)
                    );
                }
                left = left.saturating_sub(1);
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
        Ok(())
    }
}

impl Netlink {
    /// Waits until a device sends. The end of a pair that comes up first does so when a worker of the kernel has seen its
    /// other end (net/core/link_watch.c); what it is given before is lost, and a lost SYN is repeated a second later.
    pub(super) fn running(&self, index: i32) -> Result<()> {
        /// RFC 2863 as the kernel counts: include/uapi/linux/if.h.
        const UP: u8 = 6;
        let until = Instant::now() + Duration::from_secs(20);
        while self.operational(index)? != UP {
            ensure!(Instant::now() < until, "device {index} does not come up");
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }

    /// Operational state of a device.
    fn operational(&self, index: i32) -> Result<u8> {
        let mut batch = Batch::default();
        batch.request(libc::RTM_GETLINK, 0, &link(index, 0), |_| {});
        let mut buffer = [0_u8; 8192];
        let fd = self.0.as_raw_fd();
        // Without NLM_F_DUMP there is one answer, and then the acknowledgement.
        // SAFETY: pointers and lengths are of a live vector and array.
        let got = unsafe {
            libc::send(fd, batch.bytes.as_ptr().cast(), batch.bytes.len(), 0);
            let got = libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0);
            libc::recv(fd, [0_u8; 512].as_mut_ptr().cast(), 512, 0);
            usize::try_from(got).context("cannot ask for a device")?
        };
        // struct nlmsghdr, struct ifinfomsg, attributes.
        let mut rest = buffer.get(32..got).unwrap_or_default();
        while let [a, b, c, d, value @ ..] = rest {
            let (length, kind) = (usize::from(u16::from_ne_bytes([*a, *b])), u16::from_ne_bytes([*c, *d]));
            if kind == IFLA_OPERSTATE {
                return value.first().copied().context("an attribute without a value");
            }
            rest = rest.get(length.max(4).next_multiple_of(4)..).unwrap_or_default();
        }
        bail!("the kernel does not tell the state of device {index}")
    }
}

/// Length, type and error of the first message.
fn acknowledgement(bytes: &[u8]) -> Option<(usize, u16, i32)> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let error = i32::from_ne_bytes(bytes.get(16..20)?.try_into().ok()?);
    Some((usize::try_from(length).ok()?.max(20), kind, error))
}

impl Batch {
    /// A veth pair: `near` here, `far` with its hardware address in the namespace of `netns`.
    pub(super) fn veth(&mut self, near: (&str, [u8; 6]), far: (&str, [u8; 6]), netns: i32) {
        let named = |bytes: &mut Vec<u8>, (name, mac): (&str, [u8; 6])| {
            attribute(bytes, IFLA_IFNAME, name.as_bytes());
            attribute(bytes, IFLA_ADDRESS, &mac);
        };
        self.request(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &link(0, 0), |bytes| {
            named(bytes, near);
            nested(bytes, IFLA_LINKINFO, |bytes| {
                attribute(bytes, IFLA_INFO_KIND, b"veth");
                nested(bytes, IFLA_INFO_DATA, |bytes| {
                    nested(bytes, VETH_INFO_PEER, |bytes| {
                        bytes.extend(link(0, 0));
                        named(bytes, far);
                        attribute(bytes, IFLA_NET_NS_FD, &netns.to_ne_bytes());
                    });
                });
            });
        });
    }

    /// Sets a device up.
    pub(super) fn up(&mut self, index: i32) {
        self.request(libc::RTM_NEWLINK, 0, &link(index, libc::IFF_UP.unsigned_abs()), |_| {});
    }

    /// Deletes a device.
    pub(super) fn delete(&mut self, index: i32) {
        self.request(libc::RTM_DELLINK, 0, &link(index, 0), |_| {});
    }

    /// Gives a device an address of a /24.
    pub(super) fn address(&mut self, index: i32, address: Ipv4Addr) {
        // struct ifaddrmsg: family, prefix length, flags, scope, index.
        let mut header = vec![libc::AF_INET as u8, 24, 0, 0];
        header.extend(index.to_ne_bytes());
        self.request(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &header, |bytes| {
            attribute(bytes, IFA_LOCAL, &address.octets());
            attribute(bytes, IFA_ADDRESS, &address.octets());
        });
    }

    /// A neighbour that is never asked for.
    pub(super) fn neighbour(&mut self, index: i32, address: Ipv4Addr, mac: [u8; 6]) {
        // struct ndmsg: family, padding, index, state (NUD_PERMANENT), flags, type.
        let mut header = vec![libc::AF_INET as u8, 0, 0, 0];
        header.extend(index.to_ne_bytes());
        header.extend(0x80_u16.to_ne_bytes());
        header.extend([0, 0]);
        self.request(libc::RTM_NEWNEIGH, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &header, |bytes| {
            attribute(bytes, NDA_DST, &address.octets());
            attribute(bytes, NDA_LLADDR, &mac);
        });
    }

    fn request(&mut self, kind: u16, flags: i32, header: &[u8], fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16;
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend([0; 8]);
        self.bytes.extend(header);
        fill(&mut self.bytes);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.get_mut(start..start + 4) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        self.count += 1;
    }
}

/// `struct ifinfomsg`.
fn link(index: i32, flags: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend(index.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes
}

fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn nested(bytes: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend([0; 2]);
    bytes.extend(kind.to_ne_bytes());
    fill(bytes);
    let length = u16::try_from(bytes.len() - start).unwrap_or(u16::MAX);
    if let Some(place) = bytes.get_mut(start..start + 2) {
        place.copy_from_slice(&length.to_ne_bytes());
    }
}
