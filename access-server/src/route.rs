//! The routing table of the host: which way the outer packets of a tunnel leave, and word when that may change.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::daemon::{Device, Event, Network, Survey};
use crate::gateway::{Ends, Path};
use crate::link;
use crate::row::NextHop;

/// Changes of routes come in bursts (a routing daemon, a device that goes down): how long to gather them.
const GATHER: Duration = Duration::from_millis(50);

/// Look-ups under way at once when all paths are looked up again.
const AT_ONCE: usize = 32;

/// The routing table, asked through netlink.
#[derive(Debug, Clone)]
pub struct Routes {
    handle: Handle,
    wans: Arc<[String]>,
    trunk: Arc<str>,
}

impl Routes {
    /// A view of the routing table that takes paths through `wans` only and also reports the state of `trunk`.
    pub fn new(handle: Handle, wans: &[String], trunk: &str) -> Self {
        Self { handle, wans: wans.into(), trunk: trunk.into() }
    }

    /// The path between `ends`; `None` without a route through one of the WAN devices.
    async fn path(&self, (local, remote): Ends) -> Option<Path> {
        let answer = match self.ask(Some(local), remote).await {
            // The local address is not on the host (now): the route by destination alone is the best known.
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EINVAL => {
                self.ask(None, remote).await
            }
            answer => answer,
        };
        let (ifindex, via, route_mtu) = match answer {
            Ok(message) => next_hop(&message?, remote)?,
            Err(error) => {
                debug!(%remote, %error, "no route");
                return None;
            }
        };
        let device = link::by_index(&self.handle, ifindex).await.ok().flatten()?;
        if !self.wans.contains(&device.name) {
            warn!(
                device = device.name,
                "a route to a tunnel's remote leads through a device that is not given as --wan; not used"
            );
            debug!(%remote, "that remote");
            return None;
        }
        let mtu = route_mtu.map_or(device.mtu, |mtu| mtu.min(device.mtu));
        Some(Path { next_hop: NextHop { ifindex, via }, mtu })
    }

    async fn ask(&self, local: Option<IpAddr>, remote: IpAddr) -> Result<Option<RouteMessage>, rtnetlink::Error> {
        let question = match (local, remote) {
            (Some(IpAddr::V4(local)), IpAddr::V4(remote)) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .source_prefix(local, 32)
                .destination_prefix(remote, 32)
                .build(),
            (Some(IpAddr::V6(local)), IpAddr::V6(remote)) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .source_prefix(local, 128)
                .destination_prefix(remote, 128)
                .build(),
            (_, IpAddr::V4(remote)) => {
                RouteMessageBuilder::<std::net::Ipv4Addr>::new().destination_prefix(remote, 32).build()
            }
            (_, IpAddr::V6(remote)) => {
                RouteMessageBuilder::<std::net::Ipv6Addr>::new().destination_prefix(remote, 128).build()
            }
        };
        std::pin::pin!(self.handle.route().get(question).execute()).try_next().await
    }

    async fn device(&self, name: &str) -> Device {
        let gone = || Device { name: name.to_owned(), ifindex: 0, mtu: 0, up: false, veth_across: false };
        match link::by_name(&self.handle, name).await {
            Ok(Some(link)) => Device {
                name: link.name,
                ifindex: link.ifindex,
                mtu: link.mtu,
                up: link.up,
                veth_across: link.veth_across,
            },
            Ok(None) => gone(),
            Err(error) => {
                warn!(device = name, %error, "device cannot be looked up");
                gone()
            }
        }
    }
}

impl Network for Routes {
    async fn paths(&self, ends: HashSet<Ends>) -> HashMap<Ends, Option<Path>> {
        stream::iter(ends).map(async |ends| (ends, self.path(ends).await)).buffer_unordered(AT_ONCE).collect().await
    }

    async fn survey(&self, ends: HashSet<Ends>) -> Survey {
        let mut wan = Vec::with_capacity(self.wans.len());
        for name in self.wans.iter() {
            wan.push(self.device(name).await);
        }
        let trunk = Some(self.device(&self.trunk).await);
        Survey { wan, trunk, paths: self.paths(ends).await }
    }
}

/// Device, router (the remote itself on a link) and route MTU of an answer to a route question.
fn next_hop(message: &RouteMessage, remote: IpAddr) -> Option<(u32, IpAddr, Option<u32>)> {
    // A remote that is an address of this host, or that is to be refused, has no way out.
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut ifindex, mut via, mut mtu) = (None, remote, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(router)) => via = (*router).into(),
            RouteAttribute::Gateway(RouteAddress::Inet6(router)) => via = (*router).into(),
            // An IPv4 destination behind an IPv6 router.
            RouteAttribute::Via(RouteVia::Inet6(router)) => via = (*router).into(),
            RouteAttribute::Via(RouteVia::Inet(router)) => via = (*router).into(),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some((ifindex?, via, mtu.filter(|&mtu| mtu != 0)))
}

/// Sends [`Event::NetworkChanged`] after each burst of changes of routes, rules, addresses or of the devices named in
/// `devices`. Ends with the owner.
///
/// # Errors
/// When the netlink socket cannot be had.
pub fn watch(devices: Vec<String>, owner: mpsc::Sender<Event>) -> std::io::Result<()> {
    let (connection, _handle, mut messages) = new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv6Rule,
    ])?;
    tokio::spawn(connection);
    tokio::spawn(async move {
        // Kept alive: the connection ends when its last handle is dropped.
        let _handle = _handle;
        while let Some((message, _)) = messages.next().await {
            if !matters(&message.payload, &devices) {
                continue;
            }
            tokio::time::sleep(GATHER).await;
            while messages.next().now_or_never().flatten().is_some() {}
            if owner.send(Event::NetworkChanged).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

fn matters(payload: &NetlinkPayload<RouteNetlinkMessage>, devices: &[String]) -> bool {
    use rtnetlink::packet_route::link::LinkAttribute;
    match payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link)) => {
            link.attributes.iter().any(|attribute| match attribute {
                LinkAttribute::IfName(name) => devices.contains(name),
                _ => false,
            })
        }
        // Routes and rules; and an overrun, after which anything may have changed.
        _ => true,
    }
}
