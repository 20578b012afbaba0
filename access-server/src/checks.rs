//! What must be true of the machine before a daemon starts: one straight list, one named error a line.

use std::net::IpAddr;
use std::time::Duration;

use caps::{CapSet, Capability};
use rtnetlink::Handle;
use thiserror::Error;
use tracing::{info, warn};

use crate::config::{DaemonConfig, Role};
use crate::link::{self, Link, NetlinkError};
use crate::mtu;

/// How long to wait for the trunk that tenantd makes.
const TRUNK_WAIT: Duration = Duration::from_secs(10);

/// The oldest kernel this program is made for.
const KERNEL_LEAST: (u32, u32) = (6, 1);

/// The kernel from which `bpf_skb_adjust_room` knows DECAP_L3 flags: IPv4 in IPv6 tunnels and the other way round.
const KERNEL_CROSS_FAMILY: (u32, u32) = (6, 3);

/// Devices as found by the checks.
#[derive(Debug, Clone)]
pub struct Found {
    /// The WAN devices, in the order given.
    pub wans: Vec<Link>,
    /// Trunk or LAN.
    pub inside: Link,
}

/// Why a daemon cannot start on this machine.
#[derive(Debug, Error)]
pub enum CheckError {
    /// A privilege is missing.
    #[error("needs to be root: the capabilities {missing} are missing")]
    Capabilities {
        /// Their names.
        missing: String,
    },
    /// The kernel is too old.
    #[error("kernel {found} is too old: eBPF data path needs {} or newer", version(*.least))]
    Kernel {
        /// What runs.
        found: String,
        /// What is needed.
        least: (u32, u32),
    },
    /// A device does not exist.
    #[error("{role} device {name} does not exist{hint}")]
    NoDevice {
        /// wan, trunk or lan.
        role: &'static str,
        /// Its name.
        name: String,
        /// What to do about it.
        hint: String,
    },
    /// A device is down.
    #[error("{role} device {name} is down; `ip link set {name} up` brings it up")]
    Down {
        /// wan, trunk or lan.
        role: &'static str,
        /// Its name.
        name: String,
    },
    /// A device takes packets that are too short.
    #[error("{role} device {name} has MTU {mtu}, at least {least} is needed: {} too small", .least - .mtu)]
    Mtu {
        /// wan, trunk or lan.
        role: &'static str,
        /// Its name.
        name: String,
        /// Its MTU.
        mtu: u32,
        /// What is needed.
        least: u32,
    },
    /// An address given as local is not the host's.
    #[error("local address {address} is not an address of this host; `ip address add {address}/{} dev {wan}` adds it", if .address.is_ipv4() { 32 } else { 128 })]
    NotLocal {
        /// The address.
        address: IpAddr,
        /// The first WAN device.
        wan: String,
    },
    /// Netlink failed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The running kernel's version cannot be read.
    #[error("cannot read /proc/sys/kernel/osrelease")]
    Release(#[source] std::io::Error),
}

/// Looks at what this process may and what the kernel can. Changes nothing.
///
/// # Errors
/// [`CheckError`] for the first thing that is not as needed.
pub fn privileges() -> Result<(), CheckError> {
    capabilities()?;
    kernel()
}

/// Looks at devices and addresses; may wait for the trunk. Changes nothing.
///
/// # Errors
/// [`CheckError`] for the first thing that is not as needed.
pub async fn network(config: &DaemonConfig, handle: &Handle) -> Result<Found, CheckError> {
    let least = mtu::wan_min(config.locals.iter().any(IpAddr::is_ipv6));
    let mut wans = Vec::with_capacity(config.wans.len());
    for name in &config.wans {
        let wan = device(handle, "wan", name).await?;
        usable("wan", &wan, least)?;
        wans.push(wan);
    }
    addresses(config, handle).await?;
    let inside = inside(config, handle).await?;
    Ok(Found { wans, inside })
}

/// What loading programs and setting up devices needs.
fn capabilities() -> Result<(), CheckError> {
    // CAP_SYS_ADMIN contains the newer CAP_BPF and CAP_PERFMON, and mounting needs it anyway.
    let needed = [Capability::CAP_NET_ADMIN, Capability::CAP_SYS_ADMIN];
    let lacks = |cap: &Capability| !caps::has_cap(None, CapSet::Effective, *cap).unwrap_or(false);
    let missing: Vec<String> = needed.into_iter().filter(lacks).map(|cap| cap.to_string()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(CheckError::Capabilities { missing: missing.join(", ") })
}

fn kernel() -> Result<(), CheckError> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").map_err(CheckError::Release)?;
    kernel_release(release.trim())
}

fn kernel_release(release: &str) -> Result<(), CheckError> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    let found: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < KERNEL_LEAST {
        return Err(CheckError::Kernel { found: release.to_owned(), least: KERNEL_LEAST });
    }
    if found < KERNEL_CROSS_FAMILY {
        warn!(
            kernel = release,
            needed = version(KERNEL_CROSS_FAMILY),
            "decapsulation across families (IPv4 in IPv6, IPv6 in IPv4) is missing in this kernel"
        );
    }
    Ok(())
}

fn version((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

async fn device(handle: &Handle, role: &'static str, name: &str) -> Result<Link, CheckError> {
    let found = link::by_name(handle, name).await?;
    found.ok_or_else(|| CheckError::NoDevice { role, name: name.to_owned(), hint: String::new() })
}

fn usable(role: &'static str, link: &Link, least: u32) -> Result<(), CheckError> {
    let name = || link.name.clone();
    if !link.up {
        return Err(CheckError::Down { role, name: name() });
    }
    if link.mtu < least {
        return Err(CheckError::Mtu { role, name: name(), mtu: link.mtu, least });
    }
    Ok(())
}

async fn addresses(config: &DaemonConfig, handle: &Handle) -> Result<(), CheckError> {
    let present = link::addresses(handle).await?;
    match config.locals.iter().find(|local| !present.contains(local)) {
        None => Ok(()),
        Some(&address) => Err(CheckError::NotLocal { address, wan: config.wans.first().cloned().unwrap_or_default() }),
    }
}

async fn inside(config: &DaemonConfig, handle: &Handle) -> Result<Link, CheckError> {
    let (role, name, wait) = match &config.role {
        Role::Server { trunk, made_by_tenantd } => ("trunk", trunk, *made_by_tenantd),
        Role::Site { lan, .. } => ("lan", lan, false),
    };
    if wait {
        wait_for_trunk(handle, name, &config.instance).await?;
    }
    let inside = device(handle, role, name).await?;
    usable(role, &inside, mtu::IPV6_MIN)?;
    Ok(inside)
}

async fn wait_for_trunk(handle: &Handle, name: &str, instance: &str) -> Result<(), CheckError> {
    let deadline = tokio::time::Instant::now() + TRUNK_WAIT;
    let mut told = false;
    loop {
        if link::by_name(handle, name).await?.is_some_and(|link| link.up) {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            let hint =
                format!(": `tenantd run --instance {instance}` makes it; or name another device with --trunk DEV");
            return Err(CheckError::NoDevice { role: "trunk", name: name.to_owned(), hint });
        }
        if !told {
            info!(trunk = name, seconds = TRUNK_WAIT.as_secs(), "waiting for tenantd to make the trunk");
            told = true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn an_old_kernel_is_named_with_what_is_needed() {
        let text = kernel_release("5.10.0-28-amd64").unwrap_err().to_string();
        assert!(text.contains("5.10.0-28-amd64") && text.contains("6.1"), "{text}");
        for fine in ["6.1.0-18-amd64", "6.18.0", "7.0-rc1"] {
            kernel_release(fine).unwrap();
        }
    }

    #[test]
    fn a_small_mtu_is_told_with_what_lacks() {
        let link = Link { name: "eth0".into(), mtu: 1200, up: true, ..Link::default() };
        let text = usable("wan", &link, 1300).unwrap_err().to_string();
        assert_eq!(text, "wan device eth0 has MTU 1200, at least 1300 is needed: 100 too small");
        let link = Link { up: false, ..link };
        assert_eq!(
            usable("trunk", &link, 0).unwrap_err().to_string(),
            "trunk device eth0 is down; `ip link set eth0 up` brings it up"
        );
    }
}
