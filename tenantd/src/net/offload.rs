//! One switch of a tenant's port: super-packets that came out of a tunnel are cut before they leave the stack again.
//!
//! A packet that a tenant routes from one site to another still carries the mark of the tunnel it came from; whoever
//! cuts it behind the next tunnel does so by the first one's kind, and drops it when the kinds differ (kernel 6.18,
//! docs/decisions/0007). What the tenant sends of its own has no such mark and leaves whole as before.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Features of a device that take super-packets with the mark of a tunnel, as ethtool names them.
const TUNNELLED: [&str; 6] = [
    "tx-gre-segmentation",
    "tx-gre-csum-segmentation",
    "tx-ipxip4-segmentation",
    "tx-ipxip6-segmentation",
    "tx-udp_tnl-segmentation",
    "tx-udp_tnl-csum-segmentation",
];

/// `SIOCETHTOOL` of linux/sockios.h.
const SIOCETHTOOL: libc::Ioctl = 0x8946;
/// Commands and the string set of linux/ethtool.h.
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETH_SS_FEATURES: u32 = 4;
/// Length of a name in a string set.
const ETH_GSTRING_LEN: usize = 32;

/// Lets the device `name` of the calling thread's network namespace cut what carries the mark of a tunnel.
///
/// # Errors
/// There is no such device, or it does not let its features be changed.
pub fn cut_tunnelled(name: &str) -> io::Result<()> {
    let device = Device::open(name)?;
    let names = device.feature_names()?;
    let mut request = vec![ETHTOOL_SFEATURES, 0];
    request.extend(switched_off(&names, &TUNNELLED));
    request[1] = (request.len() as u32 - 2) / 2;
    device.ask(&mut request)
}

/// What SFEATURES wants: for each 32 features a word that says which are meant, and one with their new values.
fn switched_off(names: &[String], wanted: &[&str]) -> Vec<u32> {
    let mut blocks = vec![0; names.len().div_ceil(32) * 2];
    for (bit, _) in names.iter().enumerate().filter(|(_, name)| wanted.contains(&name.as_str())) {
        blocks[bit / 32 * 2] |= 1 << (bit % 32);
    }
    blocks
}

struct Device {
    socket: OwnedFd,
    name: [libc::c_char; libc::IFNAMSIZ],
}

impl Device {
    fn open(name: &str) -> io::Result<Self> {
        let text = CString::new(name)?;
        let bytes = text.as_bytes_with_nul();
        let mut chars = [0; libc::IFNAMSIZ];
        if bytes.len() > chars.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in chars.iter_mut().zip(bytes) {
            *to = *from as libc::c_char;
        }
        // SAFETY: a plain socket call; the descriptor is ours alone.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Self { socket, name: chars })
    }

    /// One ethtool command, in place: it says itself how long it is, and the answer is no longer.
    fn ask(&self, request: &mut [u32]) -> io::Result<()> {
        let data = request.as_mut_ptr().cast();
        let mut ifreq = libc::ifreq { ifr_name: self.name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: data } };
        // SAFETY: `ifreq` and the buffer it points to live through the call, and the buffer is as long as it says.
        let answer = unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL, &raw mut ifreq) };
        if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Names of all features, in the order of their bits; they are the kernel's, not the device's.
    fn feature_names(&self) -> io::Result<Vec<String>> {
        // struct ethtool_sset_info: command, reserved, mask (64 bits), then one number for each bit of the mask.
        let mut info = [ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0, 0];
        if cfg!(target_endian = "big") {
            info.swap(2, 3);
        }
        self.ask(&mut info)?;
        let count = info[4] as usize;
        // struct ethtool_gstrings: command, set, number of names, then the names.
        let mut strings = vec![0; 3 + count * ETH_GSTRING_LEN / 4];
        strings[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, info[4]]);
        self.ask(&mut strings)?;
        let bytes: Vec<u8> = strings[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let name = |chunk: &[u8]| {
            let end = chunk.iter().position(|b| *b == 0).unwrap_or(chunk.len());
            String::from_utf8_lossy(&chunk[..end]).into_owned()
        };
        Ok(bytes.chunks(ETH_GSTRING_LEN).map(name).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn only_the_features_meant_are_switched_off() {
        let names: Vec<String> = (0..40).map(|n| format!("f{n}")).collect();
        assert_eq!(switched_off(&names, &["f1", "f33", "f99"]), [1 << 1, 0, 1 << 1, 0]);
        assert!(switched_off(&[], &["f1"]).is_empty());
    }

    #[test]
    fn the_kernel_knows_the_names() {
        // Reading needs no privilege, and every namespace has `lo`.
        let names = Device::open("lo").unwrap().feature_names().unwrap();
        for feature in TUNNELLED {
            assert!(names.iter().any(|name| name == feature), "{feature} is not among {names:?}");
        }
        assert!(Device::open("a-name-that-is-too-long").is_err());
    }
}
