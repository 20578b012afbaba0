//! Traffic in a world and what is seen of it: pings that are counted, pages, captures.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::daemons::{self, INSTANCE};
use crate::world::{Running, World, eventually};

/// The sums of a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pings {
    /// Requests sent.
    pub sent: u32,
    /// Answers received.
    pub received: u32,
}

impl Pings {
    /// Reads the sums ping prints.
    ///
    /// # Errors
    /// There are none in `text`.
    pub fn parse(text: &str) -> Result<Self> {
        let number =
            |before: &str| -> Option<u32> { text.split_once(before)?.0.split_whitespace().last()?.parse().ok() };
        // "40 packets transmitted, 40 received, 0% packet loss"
        let (Some(sent), Some(received)) = (number(" packets transmitted"), number(" received")) else {
            bail!("ping printed no sums: {text}");
        };
        Ok(Self { sent, received })
    }
}

/// Which of the first `count` requests of a ping have no answer in what it printed.
#[must_use]
pub fn unanswered(text: &str, count: u32) -> Vec<i64> {
    // The number in an answer has 16 bits and goes round.
    const ROUND: i64 = 1 << 16;
    let mut answered = BTreeSet::new();
    let mut last = 0;
    // "64 bytes from 192.168.1.1: icmp_seq=7 ttl=64 time=0.031 ms"
    for line in text.lines().filter(|line| line.contains(" bytes from ")) {
        let number = line.split_once("icmp_seq=").and_then(|(_, rest)| rest.split(' ').next()?.parse::<i64>().ok());
        let Some(number) = number else { continue };
        let ahead = (number - last).rem_euclid(ROUND);
        let number = last + if ahead < ROUND / 2 { ahead } else { ahead - ROUND };
        answered.insert(number);
        last = last.max(number);
    }
    (1..=i64::from(count)).filter(|number| !answered.contains(number)).collect()
}

/// A ping with a fixed number of requests, so that none is under way when it is counted.
///
/// By itself ping waits for the last answer no longer than for two of the others (10 ms here), which a busy machine may
/// well take. With a deadline it goes on, also with further requests, until it has as many answers as were asked for. So
/// the sums say nothing; what counts is that each of the requests asked for has its own answer.
pub struct Pinging {
    running: Running,
    /// What it prints.
    said: File,
    count: u32,
    limit: Duration,
    what: String,
}

impl Pinging {
    /// Starts `count` pings from `node` to `address`, one every 10 ms.
    ///
    /// # Errors
    /// ping cannot be run.
    pub fn start(world: &World, node: &str, address: &str, count: u32) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let path = world.path(&format!("{}/ping-{}", daemons::DIR, NEXT.fetch_add(1, Ordering::Relaxed)));
        let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let said = File::open(&path)?;
        // Both of us have it open.
        std::fs::remove_file(&path)?;
        // Ten times as long as it should take.
        let seconds = 30 + count / 10;
        let (requests, deadline) = (count.to_string(), seconds.to_string());
        let argv = ["ping", "-n", "-i", "0.01", "-c", &requests, "-w", &deadline, address];
        let running = world.spawn_to(node, &argv, Stdio::from(file))?;
        let limit = Duration::from_secs(u64::from(seconds) + 30);
        Ok(Self { running, said, count, limit, what: format!("{node} -> {address}") })
    }

    /// Waits for the end and demands that nothing was lost. Where an answer was late, more were sent than asked for, and
    /// the last of them may have no answer.
    ///
    /// # Errors
    /// Something was lost, or ping failed.
    pub fn all_answered(mut self) -> Result<Pings> {
        let output = self.running.wait(self.limit)?;
        let mut said = String::new();
        self.said.read_to_string(&mut said)?;
        let pings = Pings::parse(&said).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let lost = unanswered(&said, self.count);
        ensure!(
            pings.sent > 0 && lost.is_empty(),
            "{}: {pings:?}, of {} these are lost: {lost:?}",
            self.what,
            self.count
        );
        Ok(pings)
    }
}

/// Waits until `address` answers a ping from `node`.
///
/// # Errors
/// It does not within `limit`.
pub fn reachable(world: &World, node: &str, address: &str, limit: Duration) -> Result<()> {
    eventually(&format!("{address} answers {node}"), limit, || {
        world.ok(node, &["ping", "-q", "-c", "1", "-W", "1", address]).ok().map(drop)
    })
}

/// Fetches a page from `node`; `extra` are more arguments for curl.
///
/// # Errors
/// curl failed: with its words.
pub fn page(world: &World, node: &str, url: &str, extra: &[&str]) -> Result<String> {
    // Only so that a server which never answers does not hold a test up.
    let mut argv = vec!["curl", "-sS", "-g", "--fail", "--max-time", "15"];
    argv.extend_from_slice(extra);
    argv.push(url);
    world.ok(node, &argv)
}

/// `http://ADDRESS/`, with brackets where the address needs them.
#[must_use]
pub fn url(scheme: &str, address: &str) -> String {
    if address.contains(':') { format!("{scheme}://[{address}]/") } else { format!("{scheme}://{address}/") }
}

/// Where a capture listens.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// A device of a node.
    Node(&'a str, &'a str),
    /// A device of the server's patch room.
    Room(&'a str),
}

/// A running capture.
pub struct Capture {
    running: Running,
    file: String,
}

/// What was captured.
pub struct Captured {
    /// The file, inside the world.
    pub file: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Capture {
    /// Starts to capture everything at `place` and waits until packets are taken.
    ///
    /// # Errors
    /// There is no such device, or tcpdump does not start.
    pub fn start(world: &World, place: Place<'_>) -> Result<Self> {
        let (node, device, room) = match place {
            Place::Node(node, device) => (node, device, false),
            Place::Room(device) => ("server", device, true),
        };
        let dir = format!("{}/captures", daemons::DIR);
        std::fs::create_dir_all(world.path(&dir))?;
        let file = format!("{dir}/{node}-{}{device}.pcap", if room { "room-" } else { "" });
        // The last run's file would look like a started capture.
        let _ = std::fs::remove_file(world.path(&file));
        let net = format!("--net=/run/tenantd/{INSTANCE}/patchroom");
        let mut argv = if room { vec!["nsenter", net.as_str()] } else { Vec::new() };
        argv.extend(["tcpdump", "-Z", "root", "-B", "16384", "-s", "2048", "-U", "-n", "-i", device, "-w", &file]);
        // Otherwise the kernel hands packets over in blocks, up to a second late, and `stop` loses the last ones. It
        // needs a fixed place a packet, hence the length limit: more than any header, less than a super-packet.
        argv.push("--immediate-mode");
        let running = world.spawn(node, &argv)?;
        let host_file = world.path(&file);
        // tcpdump writes the file's header when it is ready to take packets.
        let started = eventually(&format!("capture at {place:?}"), Duration::from_secs(60), || {
            std::fs::metadata(&host_file).ok().filter(|m| m.len() >= 24).map(drop)
        });
        if let Err(e) = started {
            let said = running.interrupt().map(|o| String::from_utf8_lossy(&o.stderr).into_owned()).unwrap_or_default();
            bail!("{e}: {said}");
        }
        Ok(Self { running, file })
    }

    /// Ends the capture and reads it.
    ///
    /// # Errors
    /// tcpdump lost packets, or the file cannot be read.
    pub fn stop(self, world: &World) -> Result<Captured> {
        // Packets of the last moment are still on their way to tcpdump's ring and through it: as long as there are any,
        // tcpdump has something to do, or waits to be let run.
        std::thread::sleep(Duration::from_millis(300));
        let mut idle = 0;
        eventually("tcpdump has read all", Duration::from_secs(60), || {
            idle = if self.running.is_idle() { idle + 1 } else { 0 };
            (idle == 5).then_some(())
        })?;
        let output = self.running.interrupt()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(said.contains("\n0 packets dropped by kernel"), "the capture is not whole: {said}");
        let bytes = std::fs::read(world.path(&self.file)).with_context(|| format!("cannot read {}", self.file))?;
        Ok(Captured { file: self.file, bytes })
    }
}

impl Captured {
    /// How often `marker` occurs in the packets.
    #[must_use]
    pub fn count(&self, marker: &str) -> usize {
        self.bytes.windows(marker.len()).filter(|w| *w == marker.as_bytes()).count()
    }

    /// What tshark says of the packets: for each one the values of the fields. A field that occurs in outer and
    /// inner header has several values, outermost first; one that does not occur has none.
    ///
    /// # Errors
    /// tshark failed.
    pub fn packets(&self, world: &World, fields: &[&str]) -> Result<Vec<Packet>> {
        let mut argv = vec!["tshark", "-n", "-r", &self.file, "-T", "fields"];
        for field in fields {
            argv.extend(["-e", field]);
        }
        let text = world.ok("server", &argv)?;
        let values = |column: &str| column.split(',').filter(|v| !v.is_empty()).map(str::to_owned).collect();
        let packet =
            |line: &str| Packet(fields.iter().map(|f| (*f).to_owned()).zip(line.split('\t').map(values)).collect());
        Ok(text.lines().map(packet).collect())
    }
}

/// One packet as tshark sees it.
#[derive(Clone, Debug)]
pub struct Packet(BTreeMap<String, Vec<String>>);

impl Packet {
    /// All values of a field, outermost first.
    #[must_use]
    pub fn all(&self, field: &str) -> &[String] {
        self.0.get(field).map_or(&[], Vec::as_slice)
    }

    /// The outermost value of a field; empty when it does not occur.
    #[must_use]
    pub fn outer(&self, field: &str) -> &str {
        self.all(field).first().map_or("", String::as_str)
    }

    /// Whether the field occurs.
    #[must_use]
    pub fn has(&self, field: &str) -> bool {
        !self.all(field).is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ping_sums_are_read() {
        let text =
            "PING x\n\n--- x ping statistics ---\n40 packets transmitted, 39 received, 2.5% packet loss, time 390ms\n";
        assert_eq!(Pings::parse(text).unwrap(), Pings { sent: 40, received: 39 });
        let errors = "4 packets transmitted, 0 received, +4 errors, 100% packet loss";
        assert_eq!(Pings::parse(errors).unwrap(), Pings { sent: 4, received: 0 });
        assert!(Pings::parse("ping: unknown host").is_err());
    }

    #[test]
    fn each_answer_is_known_by_its_number() {
        let answer = |number: i64| format!("64 bytes from 192.168.1.1: icmp_seq={number} ttl=64 time=0.03 ms\n");
        let some: String = [1, 3, 2, 5].map(answer).concat();
        assert_eq!(unanswered(&some, 5), [4]);
        assert_eq!(unanswered(&some, 3), [0_i64; 0]);
        let refused = "From 192.168.1.254 icmp_seq=1 Destination Host Unreachable\n";
        assert_eq!(unanswered(refused, 1), [1]);
        // The number of request 65,536 is 0.
        let round: String = (1..65_540).filter(|n| *n != 65_537).map(|n| answer(n % 65_536)).collect();
        assert_eq!(unanswered(&round, 65_539), [65_537]);
    }
}
