//! Network devices and addresses of the daemon's own namespace, read and (where the device is ours) set by netlink.

use std::net::IpAddr;

use futures::TryStreamExt;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::{Handle, LinkUnspec};
use thiserror::Error;

/// The longest packet receive offload may build on a device of ours, in bytes: with the headers of a tunnel the
/// outer length still fits its 16 bits (measured: 65,536 is the kernel's default, and beyond it transfers hang).
const GRO_MAX_SIZE: u32 = 65_000;

/// A failed netlink request.
#[derive(Debug, Error)]
#[error("netlink: cannot {what}")]
pub struct NetlinkError {
    what: String,
    #[source]
    source: rtnetlink::Error,
}

/// A device as the kernel describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Up by configuration.
    pub up: bool,
    /// A veth whose other end is in another network namespace.
    pub veth_across: bool,
    /// A veth.
    pub veth: bool,
    /// The longest packet its receive offload builds, in bytes, where the kernel says.
    pub gro_max_size: Option<u32>,
}

impl Link {
    fn of(message: LinkMessage) -> Self {
        let mut link =
            Self { ifindex: message.header.index, up: message.header.flags.contains(LinkFlags::Up), ..Self::default() };
        let mut across = false;
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::GroMaxSize(size) => link.gro_max_size = Some(size),
                LinkAttribute::LinkNetNsId(_) => across = true,
                LinkAttribute::LinkInfo(infos) => {
                    link.veth = infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
                }
                _ => {}
            }
        }
        link.veth_across = link.veth && across;
        link
    }
}

/// The device called `name`, if there is one.
///
/// # Errors
/// [`NetlinkError`] for anything but its absence.
pub async fn by_name(handle: &Handle, name: &str) -> Result<Option<Link>, NetlinkError> {
    let found = handle.link().get().match_name(name).execute().try_next().await;
    present(found, || format!("look up device {name}"))
}

/// The device numbered `ifindex`, if there is one.
///
/// # Errors
/// [`NetlinkError`] for anything but its absence.
pub async fn by_index(handle: &Handle, ifindex: u32) -> Result<Option<Link>, NetlinkError> {
    let found = handle.link().get().match_index(ifindex).execute().try_next().await;
    present(found, || format!("look up device number {ifindex}"))
}

fn present(
    found: Result<Option<LinkMessage>, rtnetlink::Error>,
    what: impl FnOnce() -> String,
) -> Result<Option<Link>, NetlinkError> {
    match found {
        Ok(message) => Ok(message.map(Link::of)),
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => Ok(None),
        Err(source) => Err(NetlinkError { what: what(), source }),
    }
}

/// All addresses of the host, of every device.
///
/// # Errors
/// [`NetlinkError`].
pub async fn addresses(handle: &Handle) -> Result<Vec<IpAddr>, NetlinkError> {
    let failed = |source| NetlinkError { what: "list the addresses".to_owned(), source };
    let mut found = Vec::new();
    let mut messages = std::pin::pin!(handle.address().get().execute());
    while let Some(message) = messages.try_next().await.map_err(failed)? {
        found.extend(message.attributes.iter().filter_map(|attribute| match attribute {
            // For IPv4 the address is the peer's on a point-to-point device; the host's own is the local one.
            AddressAttribute::Local(address) => Some(*address),
            AddressAttribute::Address(address) if address.is_ipv6() => Some(*address),
            _ => None,
        }));
    }
    Ok(found)
}

/// Bounds what receive offload builds on `link`, which must be a device of ours.
///
/// # Errors
/// [`NetlinkError`].
pub async fn bound_gro(handle: &Handle, link: &Link) -> Result<(), NetlinkError> {
    if link.gro_max_size == Some(GRO_MAX_SIZE) {
        return Ok(());
    }
    let attribute = LinkAttribute::GroMaxSize(GRO_MAX_SIZE);
    let message = LinkUnspec::new_with_index(link.ifindex).append_extra_attribute(attribute).build();
    let failed = |source| NetlinkError { what: format!("set gro_max_size of device {}", link.name), source };
    handle.link().change(message).execute().await.map_err(failed)
}

/// Makes `link` take frames to every Ethernet address, or only its own again.
///
/// # Errors
/// [`NetlinkError`].
pub async fn set_promiscuous(handle: &Handle, link: &Link, on: bool) -> Result<(), NetlinkError> {
    let message = LinkUnspec::new_with_index(link.ifindex).promiscuous(on).build();
    let failed = |source| NetlinkError { what: format!("set promiscuous mode of device {}", link.name), source };
    handle.link().change(message).execute().await.map_err(failed)
}
