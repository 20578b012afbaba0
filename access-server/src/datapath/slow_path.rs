//! The slow path: takes packets that are too long and may be cut from the programs, cuts them, and sends the pieces out of
//! the inside device with a mark, where a program takes them into the tunnel as it would have taken the whole.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use libbpf_rs::{MapHandle, PerfBuffer, PerfBufferBuilder};
use thiserror::Error;
use tracing::{trace, warn};

use super::fragment::{complete_checksum, fragment};

/// `INJECT_MARK` in `config.h`.
const INJECT_MARK: u32 = 0x7464_0000;
/// `struct slow_packet`: VLAN, MTU, length of the frame, zero.
const META: usize = 16;
const ETHERNET: usize = 14;
const TAG: usize = 4;
/// Pages of each CPU's buffer; a power of two. Holds some 80 full-size packets.
const PAGES: usize = 32;

/// Why there is no slow path.
#[derive(Debug, Error)]
pub enum SlowPathError {
    /// The socket to send pieces with.
    #[error("cannot open a packet socket on device {ifindex}")]
    Socket {
        /// The inside device.
        ifindex: u32,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The buffer the programs write to.
    #[error("cannot read the programs' slow path")]
    Buffer(#[source] libbpf_rs::Error),
}

/// The user-space half of the slow path. While there is none, the programs count `frag_lost`.
pub struct SlowPath {
    buffer: PerfBuffer<'static>,
    packets: Receiver<Vec<u8>>,
    socket: OwnedFd,
    tagged: bool,
}

impl SlowPath {
    pub(super) fn new(map: &MapHandle, ifindex: u32, tagged: bool) -> Result<Self, SlowPathError> {
        let socket = packet_socket(ifindex).map_err(|source| SlowPathError::Socket { ifindex, source })?;
        let (sender, packets) = channel();
        let buffer = PerfBufferBuilder::new(map)
            // The receiver lives as long as the buffer.
            .sample_cb(move |_cpu, sample: &[u8]| drop(sender.send(sample.to_vec())))
            .lost_cb(|_cpu, count| warn!(count, "packets to be fragmented were lost"))
            .pages(PAGES)
            .build()
            .map_err(SlowPathError::Buffer)?;
        Ok(Self { buffer, packets, socket, tagged })
    }

    /// Waits at most `timeout` for packets and sends on what came; returns how many pieces were sent. Call it in a loop
    /// from a thread of its own.
    ///
    /// # Errors
    /// [`SlowPathError`] when the buffer cannot be read; a packet that cannot be cut or sent is only lost.
    pub fn poll(&mut self, timeout: Duration) -> Result<usize, SlowPathError> {
        match self.buffer.poll(timeout) {
            Err(e) if e.kind() != libbpf_rs::ErrorKind::Interrupted => return Err(SlowPathError::Buffer(e)),
            _ => {}
        }
        let mut sent = 0;
        while let Ok(sample) = self.packets.try_recv() {
            for frame in frames(&sample, self.tagged).unwrap_or_default() {
                match send(&self.socket, &frame) {
                    Ok(()) => sent += 1,
                    Err(error) => trace!(%error, "a fragment was not sent"),
                }
            }
        }
        Ok(sent)
    }
}

/// The frames to send for one packet from the programs; `None` where it is not what they write.
fn frames(sample: &[u8], tagged: bool) -> Option<Vec<Vec<u8>>> {
    let word = |at: usize| Some(u32::from_ne_bytes(sample.get(at..at + 4)?.try_into().ok()?));
    let (vlan, mtu, len) = (word(0)?, word(4)? as usize, word(8)? as usize);
    let frame = sample.get(META..META.checked_add(len)?)?;
    let (ethernet, packet) = frame.split_at_checked(ETHERNET)?;
    let mut packet = packet.to_vec();
    complete_checksum(&mut packet);
    let pieces = fragment(&packet, mtu).inspect_err(|error| trace!(%error, "packet not fragmented")).ok()?;
    let frame = |piece: Vec<u8>| {
        let mut frame = Vec::with_capacity(ETHERNET + TAG + piece.len());
        frame.extend_from_slice(&ethernet[..12]);
        if tagged {
            frame.extend_from_slice(&[0x81, 0x00]);
            frame.extend_from_slice(&(vlan as u16).to_be_bytes());
        }
        frame.extend_from_slice(&ethernet[12..]);
        frame.extend(piece);
        frame
    };
    Some(pieces.into_iter().map(frame).collect())
}

/// A socket that sends whole frames out of `ifindex`, marked, and receives nothing.
fn packet_socket(ifindex: u32) -> io::Result<OwnedFd> {
    let check = |result: libc::c_int| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) };
    // SAFETY: creates a socket; the result is checked and owned at once.
    let socket =
        unsafe { OwnedFd::from_raw_fd(check(libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0))?) };
    let mark = INJECT_MARK;
    // SAFETY: the option's value is a u32 that lives through the call.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MARK,
            (&raw const mark).cast(),
            size_of_val(&mark) as libc::socklen_t,
        )
    })?;
    // SAFETY: an all-zero sockaddr_ll is valid.
    let mut addr: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    addr.sll_family = libc::AF_PACKET as u16;
    addr.sll_ifindex = ifindex as i32;
    // SAFETY: the address is a sockaddr_ll of the length given.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const addr).cast(), size_of_val(&addr) as libc::socklen_t) })?;
    Ok(socket)
}

fn send(socket: &OwnedFd, frame: &[u8]) -> io::Result<()> {
    // SAFETY: the buffer lives through the call.
    let sent = unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), libc::MSG_DONTWAIT) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample(vlan: u32, mtu: u32, data: usize) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 192, 168, 1, 10, 192, 168, 1, 1];
        packet.resize(20 + data, 7);
        let total = packet.len() as u16;
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        let len = (ETHERNET + packet.len()) as u32;
        let mut sample: Vec<u8> = [vlan, mtu, len, 0].iter().flat_map(|w| w.to_ne_bytes()).collect();
        sample.extend([1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 8, 0]);
        sample.extend(packet);
        sample.extend([0; 4]); // perf pads its samples
        sample
    }

    #[test]
    fn pieces_carry_the_frame_and_the_tag() {
        let tagged = frames(&sample(600, 1400, 2000), true).unwrap();
        assert_eq!(tagged.len(), 2);
        assert_eq!(tagged[0][..20], [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x81, 0, 0x02, 0x58, 8, 0, 0x45, 0]);
        let bare = frames(&sample(1, 1400, 2000), false).unwrap();
        assert_eq!(bare[0][..16], [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 8, 0, 0x45, 0]);
        assert_eq!(bare[0].len(), ETHERNET + 1396); // 20 + 172 * 8
    }

    #[test]
    fn nonsense_is_left_out() {
        let whole = sample(600, 1400, 2000);
        for len in [0, 3, META, META + 13, whole.len() - 5] {
            assert_eq!(frames(&whole[..len], true), None, "{len}");
        }
    }
}
