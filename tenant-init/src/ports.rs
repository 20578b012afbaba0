//! Which ports are open in the tenant's stack. The kernel is asked for the listeners of one port (`sock_diag(7)`): its
//! tables in `/proc/net` go through every connection of the machine, which takes milliseconds each time, while a service
//! is starting. They are read where the kernel has no `sock_diag`.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use tenant_init::protocol::Ready;

/// TCP_LISTEN and, for UDP, TCP_CLOSE (bound, not connected) as the kernel counts (include/net/tcp_states.h).
const LISTEN: u8 = 10;
const BOUND: u8 = 7;
/// SOCK_DIAG_BY_FAMILY (include/uapi/linux/sock_diag.h): type of the question and of each answer.
const BY_FAMILY: u16 = 20;
/// Question: `struct nlmsghdr` and `struct inet_diag_req_v2`.
const QUESTION: usize = 16 + 56;

/// True when the port is open, with IPv4 or IPv6.
pub(crate) fn open(port: Ready) -> bool {
    asked(port).unwrap_or_else(|_| listed(port))
}

/// Protocol, number and wanted state of a port.
fn meant(port: Ready) -> Option<(i32, u16, u8)> {
    match port {
        Ready::Tcp(port) => Some((libc::IPPROTO_TCP, port, LISTEN)),
        Ready::Udp(port) => Some((libc::IPPROTO_UDP, port, BOUND)),
        Ready::None | Ready::Exit | Ready::Alive(_) => None,
    }
}

fn asked(port: Ready) -> io::Result<bool> {
    let Some((protocol, port, state)) = meant(port) else { return Ok(false) };
    // SAFETY: a system call without pointers; the descriptor it returns is ours.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_SOCK_DIAG);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    for family in [libc::AF_INET, libc::AF_INET6] {
        match ask(&socket, &question(family, protocol, port, state)) {
            Ok(false) => {}
            // A kernel without IPv6.
            Err(error) if family == libc::AF_INET6 && error.raw_os_error() == Some(libc::ENOENT) => {}
            other => return other,
        }
    }
    Ok(false)
}

fn question(family: i32, protocol: i32, port: u16, state: u8) -> [u8; QUESTION] {
    let mut bytes = [0; QUESTION];
    let mut put = |at: usize, value: &[u8]| {
        if let Some(place) = bytes.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    };
    put(0, &(QUESTION as u32).to_ne_bytes());
    put(4, &BY_FAMILY.to_ne_bytes());
    put(6, &((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
    put(16, &[family as u8, protocol as u8]);
    put(20, &(1_u32 << state).to_ne_bytes());
    put(24, &port.to_be_bytes());
    bytes
}

/// True when there is an answer before the end.
fn ask(socket: &OwnedFd, question: &[u8; QUESTION]) -> io::Result<bool> {
    let (fd, mut found) = (socket.as_raw_fd(), false);
    // SAFETY: pointer and length are of a live array.
    if unsafe { libc::send(fd, question.as_ptr().cast(), QUESTION, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut answers = [0_u8; 4096];
    loop {
        // SAFETY: as above.
        let length = unsafe { libc::recv(fd, answers.as_mut_ptr().cast(), answers.len(), 0) };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        let mut rest = answers.get(..length).unwrap_or_default();
        while let [a, b, c, d, kind, more, _, _, ..] = rest {
            match i32::from(u16::from_ne_bytes([*kind, *more])) {
                libc::NLMSG_DONE => return Ok(found),
                libc::NLMSG_ERROR => {
                    let code = rest.get(16..20).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes);
                    return Err(io::Error::from_raw_os_error(-code));
                }
                kind => found |= kind == i32::from(BY_FAMILY),
            }
            let length = usize::try_from(u32::from_ne_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX).max(16);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn listed(port: Ready) -> bool {
    let Some((protocol, port, state)) = meant(port) else { return false };
    let tables = match protocol {
        libc::IPPROTO_TCP => ["/proc/self/net/tcp", "/proc/self/net/tcp6"],
        _ => ["/proc/self/net/udp", "/proc/self/net/udp6"],
    };
    tables.into_iter().filter_map(|table| File::open(table).ok()).any(|table| {
        let rows = BufReader::new(table).lines().skip(1).map_while(Result::ok);
        has(rows, port, &format!("{state:02X}"), protocol == libc::IPPROTO_TCP)
    })
}

/// Looks through the rows of a table. That of TCP begins with the listeners, and a busy server's connections that come
/// after them are not worth reading.
fn has(rows: impl Iterator<Item = String>, port: u16, state: &str, listeners_first: bool) -> bool {
    for row in rows {
        let mut words = row.split_ascii_whitespace().skip(1);
        let (local, found) = (words.next(), words.nth(1));
        if found == Some(state) {
            let local = local.and_then(|address| address.rsplit_once(':'));
            if local.is_some_and(|(_, number)| u16::from_str_radix(number, 16) == Ok(port)) {
                return true;
            }
        } else if listeners_first {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn open_ports_are_seen_with_both_families_and_in_both_ways() {
        for look in [|port| asked(port).unwrap(), listed] as [fn(Ready) -> bool; 2] {
            for address in ["127.0.0.1:0", "[::1]:0"] {
                let tcp = std::net::TcpListener::bind(address).unwrap();
                let port = tcp.local_addr().unwrap().port();
                let client = std::net::TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
                assert!(look(Ready::Tcp(port)));
                assert!(!look(Ready::Tcp(client.local_addr().unwrap().port())), "a connection is no listener");
                drop(tcp);
                assert!(!look(Ready::Tcp(port)));
                let udp = std::net::UdpSocket::bind(address).unwrap();
                let port = udp.local_addr().unwrap().port();
                assert!(look(Ready::Udp(port)));
                drop(udp);
                assert!(!look(Ready::Udp(port)));
            }
        }
    }

    #[test]
    fn a_row_that_is_not_understood_is_no_port() {
        let rows = ["", "x", "0: zz 0 0A", "1: 0100007F:ZZZZ 0:0 0A", "2: 0100007F:0050 0:0 0A"];
        let all = || rows.iter().map(|row| (*row).to_owned());
        assert!(has(all(), 80, "0A", false) && !has(all(), 81, "0A", false));
    }
}
