//! Keeps a cgroup's processes in a network namespace: `keep_in CGROUP NETNS`, for example
//! `keep_in /sys/fs/cgroup/acme /run/netns/acme`. The guard stands after the program has ended, until `keep_in --end`.
//!
//! It asks the processes of the cgroup's parent directory only; a real one stands at the root of the hierarchy.

use std::error::Error;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::Duration;

use stack_guard::{Cgroup, Guard, OpenOptions, Row};

const PINS: &str = "/sys/fs/bpf/keep_in";

/// The cookie of a network namespace: asked of a socket made in it, by a thread that enters it for that.
fn cookie(netns: &File) -> Result<u64, Box<dyn Error>> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            // SAFETY: a descriptor that is open.
            if unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(std::io::Error::last_os_error());
            }
            let socket = std::os::unix::net::UnixDatagram::unbound()?;
            let (mut cookie, mut length) = (0u64, 8u32);
            let value = (&raw mut cookie).cast();
            // SAFETY: the option writes 8 bytes, which is what cookie has and length says.
            match unsafe {
                libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, value, &raw mut length)
            } {
                0 => Ok(cookie),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
        Ok(inside.join().map_err(|_| "the thread in the namespace ended")??)
    })
}

/// The program, with its words; `main` is separate so that a test can run it.
pub fn run(words: &[String]) -> Result<(), Box<dyn Error>> {
    let (cgroup, netns) = match words {
        [end] if end == "--end" => return Ok(stack_guard::discard(Path::new(PINS))?),
        [cgroup, netns] => (Path::new(cgroup), File::open(netns)?),
        _ => return Err("keep_in CGROUP NETNS | keep_in --end".into()),
    };
    let parent = cgroup.parent().ok_or("the cgroup has no parent")?;
    let mut guard = Guard::open(&OpenOptions::new(parent, PINS))?;
    let row = Row {
        cookie: cookie(&netns)?,
        cgroups: [Cgroup::at(cgroup)?].into(),
        gids_start: 524_288,
        max_connections: Some(1000),
    };
    let change = guard.put(&row, Some(netns.as_fd()))?;
    println!("{change:?}, seen of a process: {:?}", guard.sight());
    for event in guard.events()?.wait(Duration::ZERO)? {
        println!("{} {} {} ({}): {}", event.hook, event.pid, event.comm, event.uid, event.refusal.doc());
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    run(&std::env::args().skip(1).collect::<Vec<_>>())
}
