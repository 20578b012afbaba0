//! Instances beside this one. Several may share a WAN device as long as each has outer addresses of its own: what goes to
//! the address of one is that one's to deliver or to drop. Two with one address, or on one trunk, would drop each
//! other's packets, so the second is refused before it changes anything.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use thiserror::Error;

use super::attach::{self, Side};
use super::{DatapathConfig, load, wire};

/// Why there is no place beside the others.
#[derive(Debug, Error)]
pub enum BesideError {
    /// Another instance takes the packets to one of our addresses.
    #[error(
        "local: {address} is an outer address of instance {instance} on a device we share; \
             `access-server detach --instance {instance}` removes its data path"
    )]
    Local {
        /// The address.
        address: IpAddr,
        /// The other instance.
        instance: String,
    },
    /// Another instance is on our trunk or LAN device.
    #[error(
        "the trunk or LAN device carries the data path of instance {instance}; \
             `access-server detach --instance {instance}` removes it"
    )]
    Inside {
        /// The other instance.
        instance: String,
    },
    /// The directory of all instances cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Looks at the pins of the other instances, all beside ours, and at the devices of the calling thread's network
/// namespace. Changes nothing.
///
/// # Errors
/// [`BesideError`] for the first conflict.
pub fn check(cfg: &DatapathConfig) -> Result<(), BesideError> {
    load::quiet();
    let Some(all) = cfg.pin_dir.parent() else { return Ok(()) };
    let failed = |source| BesideError::Read { path: all.to_owned(), source };
    let entries = match std::fs::read_dir(all) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let dir = entry.map_err(failed)?.path();
        let Some(instance) = dir.file_name().and_then(|name| name.to_str()).filter(|name| *name != cfg.instance) else {
            continue;
        };
        // Half made or half removed ones have no map of addresses, and no program that could take a packet by it.
        if let Ok(locals) = MapHandle::from_pinned_path(dir.join("locals")) {
            compare(cfg, instance, &locals)?;
        }
    }
    Ok(())
}

fn compare(cfg: &DatapathConfig, instance: &str, locals: &MapHandle) -> Result<(), BesideError> {
    let instance_on =
        |ifindex: u32| attach::is_attached(locals.as_fd(), ifindex, Side::Ingress, attach::handle(instance));
    if instance_on(cfg.role.inside_ifindex()) {
        return Err(BesideError::Inside { instance: instance.to_owned() });
    }
    let has = |address: &IpAddr| {
        let key = wire::address(*address);
        // SAFETY: a plain structure without padding (asserted beside its C twin), read as bytes while it lives.
        let key = unsafe { std::slice::from_raw_parts((&raw const key).cast::<u8>(), size_of_val(&key)) };
        locals.lookup(key, MapFlags::ANY).is_ok_and(|value| value.is_some())
    };
    match cfg.locals.iter().find(|address| has(address)) {
        // The same address in another network namespace is another address.
        Some(address) if cfg.wans.iter().any(|wan| instance_on(*wan)) => {
            Err(BesideError::Local { address: *address, instance: instance.to_owned() })
        }
        _ => Ok(()),
    }
}
