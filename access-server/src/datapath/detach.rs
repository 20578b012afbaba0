//! The end of an instance's data path without loading one: the pinned map of devices says where programs are.

use std::os::fd::AsFd;
use std::path::Path;

use libbpf_rs::{MapCore, MapHandle};

use super::attach::{self, Side};
use super::{OpenError, load};
use crate::fault;

/// Takes the programs of `instance` off all devices of the calling thread's network namespace and the pins in `pin_dir`
/// away. What is not there needs no removing.
///
/// # Errors
/// [`OpenError`] at the first thing that cannot be removed; may be called again.
pub fn detach(pin_dir: &Path, instance: &str) -> Result<(), OpenError> {
    let path = pin_dir.join("devices");
    if path.exists() {
        let devices =
            MapHandle::from_pinned_path(&path).map_err(|source| OpenError::Pin { path: path.clone(), source })?;
        for key in devices.keys() {
            let Ok(key) = <[u8; 4]>::try_from(key.as_slice()) else { continue };
            let ifindex = u32::from_ne_bytes(key);
            // libbpf finds the filter by device, priority and handle; it only needs some descriptor.
            for side in [Side::Ingress, Side::Egress] {
                attach::detach(&devices.as_fd(), ifindex, side, attach::handle(instance))
                    .map_err(|source| OpenError::Attach { ifindex, source })?;
            }
            fault::point("detach.one");
        }
    }
    fault::point("detach.programs");
    load::unpin(pin_dir)?;
    match std::fs::remove_dir(pin_dir) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(OpenError::PinDir { path: pin_dir.to_owned(), source })
        }
        _ => Ok(()),
    }
}
