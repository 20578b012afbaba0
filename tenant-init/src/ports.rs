//! Which ports are open in the tenant's stack, from the tables in `/proc/net`. Looked at only while a service is
//! starting, so an idle init never reads them.

use std::fs::File;
use std::io::{BufRead, BufReader};

use tenant_init::protocol::Ready;

/// TCP_LISTEN and, for UDP, TCP_CLOSE (bound, not connected) as the tables write them (include/net/tcp_states.h).
const LISTEN: &str = "0A";
const BOUND: &str = "07";

/// True when the port is open, with IPv4 or IPv6.
pub(crate) fn open(port: Ready) -> bool {
    let (tables, port, state, listeners_first) = match port {
        Ready::Tcp(port) => (["/proc/self/net/tcp", "/proc/self/net/tcp6"], port, LISTEN, true),
        Ready::Udp(port) => (["/proc/self/net/udp", "/proc/self/net/udp6"], port, BOUND, false),
        Ready::None | Ready::Exit | Ready::Alive(_) => return false,
    };
    tables.into_iter().filter_map(|table| File::open(table).ok()).any(|table| {
        let rows = BufReader::new(table).lines().skip(1).map_while(Result::ok);
        has(rows, port, state, listeners_first)
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
    fn open_ports_are_seen_with_both_families() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let tcp = std::net::TcpListener::bind(address).unwrap();
            let port = tcp.local_addr().unwrap().port();
            let client = std::net::TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
            assert!(open(Ready::Tcp(port)));
            assert!(!open(Ready::Tcp(client.local_addr().unwrap().port())), "a connection is no listener");
            drop(tcp);
            assert!(!open(Ready::Tcp(port)));
            let udp = std::net::UdpSocket::bind(address).unwrap();
            let port = udp.local_addr().unwrap().port();
            assert!(open(Ready::Udp(port)));
            drop(udp);
            assert!(!open(Ready::Udp(port)));
        }
    }

    #[test]
    fn a_row_that_is_not_understood_is_no_port() {
        let rows = ["", "x", "0: zz 0 0A", "1: 0100007F:ZZZZ 0:0 0A", "2: 0100007F:0050 0:0 0A"];
        let all = || rows.iter().map(|row| (*row).to_owned());
        assert!(has(all(), 80, LISTEN, false) && !has(all(), 81, LISTEN, false));
    }
}
