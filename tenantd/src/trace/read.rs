//! The shell: what the tables and the kernel say of one flow. On a connection to the access server of its own, beside the
//! owner; one short visit to the patch room and one to the tenant's stack, each by a thread that ends there.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use tenant_init::client::Client;

use super::facts::{Facts, FilterFacts, Holder, Holders, Parts, RoomFacts, SocketFacts, StackFacts};
use super::{Direction, Question, Trace, TraceProtocol, follow};
use crate::access::AccessClient;
use crate::metrics::Seated;
use crate::net::ask::{Asker, Device, Routed};
use crate::net::diag::{Diag, Found, Transport};
use crate::net::filter::{FilterError, Netfilter};
use crate::net::ns::NetNs;
use crate::net::room::port_name;
use crate::owner::chain;

/// How long the tenant's init may take to say which process is of which service.
const INIT_PATIENCE: Duration = Duration::from_millis(500);
/// How long the holders of a socket are looked for: a tenant has as many processes and descriptors as it likes.
const SEARCH: Duration = Duration::from_millis(300);
/// Holders of a socket that are named with their service.
const NAMED: usize = 16;

/// Follows the flow.
pub(crate) async fn trace(question: Question, parts: Parts) -> Trace {
    let started = Instant::now();
    let desired = parts.tenant.addresses.iter().any(|net| net.addr() == question.from);
    let wanted_here = parts.tenant.addresses.iter().any(|net| net.addr() == question.to);
    let (seat, device, asked) = (parts.seat, parts.tenant.device.clone(), question.clone());
    let look = move || seat.map(|seat| visit(seat, &device, &asked));
    let stack = tokio::task::spawn_blocking(look).await.unwrap_or_else(|e| Some(Err(e.to_string())));
    // Who begins is told by the stack's real addresses; when none of them is in the question, by those that were asked for.
    let real = stack.as_ref().and_then(|stack| stack.as_ref().ok()).map(|(stack, _)| stack.addresses.clone());
    let begins = real.unwrap_or_default().contains(&question.from) || (desired && !wanted_here);
    let direction = if begins { Direction::Out } else { Direction::In };
    let site = if begins { question.to } else { question.from };
    let access = match parts.tenant.vlan {
        Some(vlan) => {
            let mut client = AccessClient::new(&parts.access.0, parts.access.1.clone());
            Some(client.look(vlan, site).await.map_err(|error| chain(&error)))
        }
        None => None,
    };
    let room = match parts.tenant.segment() {
        Some(at) => Some(room(&parts, at).await),
        None => None,
    };
    let stack = stack.map(|visited| {
        visited.map(|(mut stack, inode)| {
            stack.socket = match (direction, stack.socket) {
                (Direction::Out, _) => SocketFacts::NotAsked,
                (Direction::In, found) => found,
            };
            (stack, inode)
        })
    });
    let (tenant, control, cgroups) = (parts.tenant.clone(), parts.control.clone(), parts.cgroups.clone());
    let name = tenant.name.clone();
    let stack = match stack {
        Some(Ok((mut stack, inode))) => {
            if let (SocketFacts::Found { holders, .. }, Some(inode)) = (&mut stack.socket, inode) {
                let found = tokio::task::spawn_blocking(move || {
                    let until = Instant::now() + SEARCH;
                    let processes = cgroups.processes(&name).unwrap_or_default();
                    self::holders(processes, inode, &control, || Instant::now() < until)
                });
                *holders = found.await.unwrap_or_default();
            }
            Some(Ok(stack))
        }
        Some(Err(why)) => Some(Err(why)),
        None => None,
    };
    let facts = Facts {
        tenant,
        removing: parts.removing,
        failure: parts.failure,
        gateway_mac: parts.gateway_mac,
        access,
        room,
        stack,
    };
    let mut trace = follow::follow(&question, direction, &facts);
    trace.took_us = started.elapsed().as_micros() as u64;
    trace
}

/// The trunk, the port and their rows.
async fn room(parts: &Parts, at: stackmap::Segment) -> Result<RoomFacts, String> {
    let (pin, trunk) = (parts.room_pin.clone(), parts.trunk.clone());
    let devices = tokio::task::spawn_blocking(move || -> Result<(Option<Device>, Option<Device>), String> {
        let room = NetNs::open(&pin).map_err(|error| chain(&error))?;
        let found = room.run(|| {
            let asker = Asker::open()?;
            Ok::<_, io::Error>((asker.device(&trunk)?, asker.device(&port_name(at))?))
        });
        found.map_err(|error| chain(&error))?.map_err(|error| error.to_string())
    });
    let (trunk, port) = devices.await.map_err(|error| error.to_string())??;
    let look = parts.room.look(at, port.as_ref().map(|port| port.index)).await.map_err(|error| chain(&error))?;
    Ok(RoomFacts { trunk, port, look })
}

type Visited = Result<(StackFacts, Option<u32>), String>;

/// Everything that is asked in the stack; with the inode of the socket that was found.
fn visit(seat: Seated, device: &str, question: &Question) -> Visited {
    let space = File::open(format!("/proc/{}/ns/net", seat.pid)).map_err(|error| error.to_string())?;
    // The number may be another process's by now.
    let inode = nix::sys::stat::fstat(space.as_fd()).map_err(|error| error.to_string())?.st_ino;
    if inode != seat.inode {
        return Err("the tenant's init has just ended".into());
    }
    let here = NetNs::from(std::os::fd::OwnedFd::from(space)).run(|| look(device, question));
    here.map_err(|error| chain(&error))?.map_err(|error| error.to_string())
}

fn look(device: &str, question: &Question) -> io::Result<(StackFacts, Option<u32>)> {
    let asker = Asker::open()?;
    let device = asker.device(device)?;
    let addresses = match &device {
        Some(device) => asker.addresses(device.index)?,
        None => Vec::new(),
    };
    let begins = addresses.contains(&question.from);
    let (site, own) = if begins { (question.to, question.from) } else { (question.from, question.to) };
    let input = match &device {
        Some(device) => Some(asker.route(site, own, Some(device.index))?),
        None => None,
    };
    let output = asker.route(own, site, None)?;
    let neighbour = match &output {
        Routed::Out { device, via, .. } => asker.neighbour(*device, via.unwrap_or(site))?,
        _ => None,
    };
    let (filter, others) = filters();
    let index = device.as_ref().map_or(0, |device| device.index);
    let (socket, inode) = if begins { (SocketFacts::NotAsked, None) } else { socket(question, index) };
    Ok((StackFacts { device, addresses, input, output, neighbour, filter, others, socket }, inode))
}

/// Our filter, and the names of others.
fn filters() -> (FilterFacts, Vec<String>) {
    let netfilter = match Netfilter::open() {
        Ok(netfilter) => netfilter,
        Err(FilterError::NoFeature { .. }) => return (FilterFacts::None, legacy()),
        Err(error) => return (FilterFacts::Unknown(chain(&error)), legacy()),
    };
    let ours = match netfilter.read() {
        Ok(None) => FilterFacts::None,
        Ok(Some(found)) => match found.filter() {
            Some(filter) => FilterFacts::Ours { drops: found.drops(&filter), filter },
            None => FilterFacts::Changed,
        },
        Err(FilterError::NoFeature { .. }) => FilterFacts::None,
        Err(error) => FilterFacts::Unknown(chain(&error)),
    };
    let tables = netfilter.tables().unwrap_or_default();
    let others = tables.into_iter().filter(|name| name != "tenantd").map(|name| format!("nft table {name}"));
    (ours, others.chain(legacy()).collect())
}

/// Tables of iptables' older half, which nf_tables does not list.
fn legacy() -> Vec<String> {
    let names = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let files = ["/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"];
    let all: Vec<String> = files.into_iter().map(names).collect();
    all.iter().flat_map(|text| text.lines()).map(|name| format!("iptables table {name}")).collect()
}

/// Who would take the packet.
fn socket(question: &Question, device: u32) -> (SocketFacts, Option<u32>) {
    let (transport, port) = match (question.protocol, question.port) {
        (TraceProtocol::Icmp, _) | (_, None) => return (echo(question.to), None),
        (TraceProtocol::Tcp, Some(port)) => (Transport::Tcp, port),
        (TraceProtocol::Udp, Some(port)) => (Transport::Udp, port),
    };
    let (local, remote) = (SocketAddr::new(question.to, port), SocketAddr::new(question.from, 0));
    let found = Diag::open().and_then(|diag| diag.find(transport, local, remote, device));
    match found {
        Ok(Some(Found { local, listens, inode, .. })) => {
            (SocketFacts::Found { local, listens, holders: Holders::default() }, Some(inode))
        }
        Ok(None) => (SocketFacts::Nobody, None),
        Err(error) => (SocketFacts::Unknown(error.to_string()), None),
    }
}

fn echo(address: IpAddr) -> SocketFacts {
    // The files are those of the calling thread's network namespace.
    let file = match address {
        IpAddr::V4(_) => "/proc/sys/net/ipv4/icmp_echo_ignore_all",
        IpAddr::V6(_) => "/proc/sys/net/ipv6/icmp/echo_ignore_all",
    };
    let ignored = fs::read_to_string(file).is_ok_and(|text| text.trim() == "1");
    if ignored { SocketFacts::NoEcho } else { SocketFacts::Echo }
}

/// Processes that have the socket, with the services they are of; looked for as long as `goes_on` says.
fn holders(
    processes: impl IntoIterator<Item = i32>,
    inode: u32,
    control: &Path,
    goes_on: impl Fn() -> bool,
) -> Holders {
    let link = format!("socket:[{inode}]");
    let (mut found, mut all) = (Vec::new(), true);
    for pid in processes {
        let mut descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let holds = loop {
            all = goes_on();
            match descriptors.next().filter(|_| all) {
                Some(entry) if fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == link.as_str()) => {
                    break true;
                }
                Some(_) => {}
                None => break false,
            }
        };
        if holds {
            found.push(pid);
        }
        if !all {
            break;
        }
    }
    if found.is_empty() {
        return Holders { all, ..Holders::default() };
    }
    let services: Vec<(i32, String)> = Client::connect(control)
        .and_then(|mut init| init.list(INIT_PATIENCE))
        .map(|states| states.into_iter().filter_map(|state| Some((state.pid?, state.spec.name))).collect())
        .unwrap_or_default();
    // Lowest numbers first: who opened a socket is mostly older than those who inherited it.
    let mut known: Vec<Holder> = found.iter().take(NAMED).filter_map(|pid| holder(*pid, &services)).collect();
    // The one that init started first.
    known.sort_by_key(|holder| (holder.service.is_none(), holder.pid));
    Holders { known, found: found.len(), all }
}

/// What `/proc/PID/status` says of a process.
fn holder(pid: i32, services: &[(i32, String)]) -> Option<Holder> {
    let (command, inside, _) = status(pid)?;
    let mut service = None;
    let mut at = pid;
    // Up to init, which is process 1 inside.
    for _ in 0..64 {
        let Some((_, number, parent)) = status(at) else { break };
        if number <= 1 {
            break;
        }
        if let Some((_, name)) = services.iter().find(|(there, _)| *there == number) {
            service = Some(name.clone());
            break;
        }
        at = parent;
    }
    Some(Holder { pid: inside, command, service })
}

/// Name, number inside, and parent of a process.
fn status(pid: i32) -> Option<(String, i32, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let inside = field("NSpid:")?.split_whitespace().next_back()?.parse().ok()?;
    Some((field("Name:")?.to_owned(), inside, field("PPid:")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::Cell;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn the_holder_of_a_socket_is_found_and_the_search_ends_when_it_is_told_to() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let inode = nix::sys::stat::fstat(&socket).unwrap().st_ino as u32;
        let own = std::process::id() as i32;
        let nowhere = Path::new("/nonexistent");
        let found = holders([own], inode, nowhere, || true);
        assert!(found.all && found.found == 1 && found.known.len() == 1, "{found:?} {}", socket.as_raw_fd());
        // As many processes as one likes: a bounded number of looks.
        let looks = Cell::new(0);
        let more = || {
            looks.set(looks.get() + 1);
            looks.get() <= 100
        };
        let found = holders(std::iter::repeat(own), 0, nowhere, more);
        assert!(!found.all && found.known.is_empty() && looks.get() == 101, "{found:?} after {}", looks.get());
    }
}
