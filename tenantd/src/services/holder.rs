//! Who has a port in a tenant's stack: asked only when a service was refused because of it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// TCP_LISTEN and, for UDP, TCP_CLOSE (bound, not connected) as the tables write them (include/net/tcp_states.h).
const LISTEN: &str = "0A";
const BOUND: &str = "07";

/// The program that has the port open in the stack of process `init`, with its process id inside the tenant. None when
/// it has just been closed, or is held by nobody's process.
pub fn holder(init: i32, udp: bool, port: u16) -> Option<String> {
    let (names, state) = if udp { (["udp", "udp6"], BOUND) } else { (["tcp", "tcp6"], LISTEN) };
    let inodes: Vec<String> = names
        .iter()
        .filter_map(|name| fs::read_to_string(format!("/proc/{init}/net/{name}")).ok())
        .flat_map(|table| inodes(&table, port, state))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let stack = fs::metadata(format!("/proc/{init}/ns/net")).ok()?.ino();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.map(|entry| entry.path()).filter(|path| in_stack(path, stack)).find(|path| has(path, &inodes)).map(words)
}

fn inodes(table: &str, port: u16, state: &str) -> Vec<String> {
    let row = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, local) = words.get(1)?.rsplit_once(':')?;
        let ours = u16::from_str_radix(local, 16) == Ok(port) && words.get(3) == Some(&state);
        ours.then(|| words.get(9).map(|inode| (*inode).to_owned())).flatten()
    };
    table.lines().filter_map(row).collect()
}

fn in_stack(process: &Path, stack: u64) -> bool {
    let number = process.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<i32>().is_ok());
    number && fs::metadata(process.join("ns/net")).is_ok_and(|found| found.ino() == stack)
}

fn has(process: &Path, sockets: &[String]) -> bool {
    let Ok(files) = fs::read_dir(process.join("fd")) else { return false };
    let target = |path| fs::read_link(path).ok();
    files.flatten().filter_map(|entry| target(entry.path())).any(|link| sockets.iter().any(|s| link == Path::new(s)))
}

fn words(process: std::path::PathBuf) -> String {
    // Its name is whatever the tenant wants.
    let name: String = fs::read_to_string(process.join("comm")).unwrap_or_default();
    let name: String = name.trim_end().chars().filter(|c| !c.is_control()).collect();
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    let pid = status.lines().find_map(|line| line.strip_prefix("NSpid:")?.split_ascii_whitespace().last());
    format!("{name}, process {}", pid.unwrap_or("?"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn we_have_what_we_have_opened() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("[::1]:0").unwrap();
        let us = i32::try_from(std::process::id()).unwrap();
        let name = fs::read_to_string("/proc/self/comm").unwrap();
        for (udp, port) in [(false, tcp.local_addr().unwrap().port()), (true, udp.local_addr().unwrap().port())] {
            let found = holder(us, udp, port).unwrap();
            assert!(found.starts_with(name.trim_end()) && found.ends_with(&us.to_string()), "{found}");
        }
        let port = tcp.local_addr().unwrap().port();
        drop(tcp);
        assert_eq!(holder(us, false, port), None);
    }
}
