//! The daemons are killed with `kill -9` at every place of every operation, started again, and must bring the world to
//! what was asked for: a command that was recorded is done, of one that was not there is nothing. Nothing is left over,
//! and another tenant loses no packet and no connection all the while.
//!
//! The places are not sampled: each operation is done once undisturbed while the daemon writes down which places it
//! passes, then once for each of them. What the program lists and no operation passes fails the test. The short form
//! takes each place of an operation once, of `apply` and `restore` once there or back; `FULL=1` each time that an operation
//! passes it, there and back.
//!
//! One long file, because an operation, its places and what must be true after a kill at each are one table and one walk.

pub(crate) mod ask;
pub(crate) mod hand;
mod pairs;
pub(crate) mod stream;
pub(crate) mod traces;
mod upgrade;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use system_tests::plan::{Kind, Options};
use system_tests::tenants;
use system_tests::world::World;

use crate::floor::{Need, explain, trial};
use ask::{Ask, access_socket, ask, tenantd_socket};
use hand::Hand;
use pairs::{CHANGING, Deed, Pair, VICTIM, many_at_once, pairs};
use stream::Stream;
use traces::{Traces, difference, traces};

/// How long a daemon may take from its start until all is as it should be.
const CONVERGE: Duration = Duration::from_secs(60);

pub(crate) const NEEDS: &[Need] = &[
    Need::Root,
    Need::Daemons,
    Need::Program("ip", "iproute2"),
    Need::Program("bpftool", "bpftool"),
    Need::Program("nft", "nftables"),
    Need::Program("python3", "python3"),
    Need::Program("nginx", "nginx-light"),
    Need::Program("curl", "curl"),
];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("kill_points::tenantd", NEEDS, tenantd),
        trial("kill_points::access_server", NEEDS, access_server),
        trial("kill_points::a_name_that_is_none_refuses_the_start", NEEDS, unknown_names),
    ]
}

/// A place of an operation: its name and which of its passes.
type Place = (String, usize);

/// Tables of the patch room of which a row may get longer, those of the guard, and the guard's programs.
const ROOM_TABLES: usize = 8;
const GUARD_TABLES: usize = 5;
const GUARD_PROGRAMS: usize = 8;
/// Tables of the access server of which a row may get longer.
const ACCESS_TABLES: usize = 10;

/// How often an operation may end before it came to a place that it passed once. Who is the faster is for the scheduler to
/// say, and it says the same for a while: a place that is never come to is still found.
const MISSES: usize = 30;

/// Whether every pass of every place is taken.
fn full() -> bool {
    std::env::var_os("FULL").is_some_and(|full| full == "1")
}

fn tenantd() -> Result<()> {
    let kinds = vec![Kind::Ipip, Kind::Vxlan, Kind::Ipip];
    let world = with_quiet("killpts", Options { sites: 3, kinds, ..Options::default() })?;
    explain(&world, walk(&world))
}

/// A world of which every site but the last has a tenant.
pub(crate) fn with_quiet(stem: &str, options: Options) -> Result<World> {
    let world = crate::floor::world(stem, options)?;
    let sites: Vec<_> = world.options().sites().collect();
    for site in sites.iter().take(sites.len() - 1) {
        tenants::add(&world, site)?;
        stream::serve(&world, &site.tenant())?;
    }
    let card = "ip link add card0 type veth peer name card1; ip link set card1 up; ip link set card0 up";
    // What is shared must not lie below /run; in the world's own mount namespace it is nobody else's.
    world.ok("server", &["sh", "-ec", &format!("{card}; mount -t tmpfs shared /srv")])?;
    Ok(world)
}

fn walk(world: &World) -> Result<()> {
    let hosts: Vec<String> = world.options().sites().take(2).map(|site| site.host()).collect();
    let streams = hosts.iter().map(|host| Stream::start(world, host)).collect::<Result<Vec<_>>>()?;
    let mut walk =
        Walk { world, hand: Hand::tenantd(world)?, reached: BTreeSet::new(), kills: 0, began: Instant::now() };
    let mut started = walk.hand.up("")?;
    // The first tenant that is removed makes a directory that stays for all.
    let [add, remove] = {
        let first = pairs(world)?.remove(0);
        [first.there, first.back]
    };
    add.granted(world, walk.hand.socket())?;
    remove.granted(world, walk.hand.socket())?;
    let home = walk.settled()?;
    started = walk.starts(started, &home)?;
    started.kill()?;
    let mut all = pairs(world)?;
    let up = walk.hand.up("")?;
    let more = many_at_once(world, walk.hand.socket())?;
    walk.settled()?;
    up.kill()?;
    // First, because the tenants of them are there already; the last of them takes them away.
    all.splice(0..0, more);
    for pair in all {
        let one = Stream::start(world, &hosts[0])?;
        walk.pair(&pair).with_context(|| format!("operation {}", pair.name))?;
        one.unharmed().with_context(|| format!("during {}", pair.name))?;
        println!("{:4} kills after {:3.0} s: {}", walk.kills, walk.began.elapsed().as_secs_f64(), pair.name);
    }
    walk.recoveries()?;
    let end = walk.hand.up("")?;
    walk.becomes(&home, "the end")?;
    drop(end);
    // The last of this instance: no version that is older goes on from there.
    walk.upgrade(&home)?;
    for stream in streams {
        println!("a stream through it all: {}", stream.unharmed()?);
    }
    walk.fresh_rooms()?;
    walk.nothing_is_left_out()?;
    println!("{} kills in {:.0} s", walk.kills, walk.began.elapsed().as_secs_f64());
    Ok(())
}

struct Walk<'a> {
    world: &'a World,
    hand: Hand<'a>,
    reached: BTreeSet<String>,
    kills: usize,
    began: Instant,
}

impl Walk<'_> {
    /// The world as it is, when it stands still.
    fn settled(&self) -> Result<Traces> {
        let until = Instant::now() + CONVERGE;
        let mut before = traces(self.world, &CHANGING)?;
        // Twice the same may be one who was not let run meanwhile.
        let mut same = 0;
        loop {
            std::thread::sleep(Duration::from_millis(50));
            let now = traces(self.world, &CHANGING)?;
            let done = !now.keys().any(|line| line.contains("HalfDone") || line.contains("half-done"));
            same = if now == before && done { same + 1 } else { 0 };
            if same == 2 {
                return Ok(now);
            }
            ensure!(Instant::now() < until, "the world does not stand still:\n{}", difference(&before, &now));
            before = now;
        }
    }

    /// Waits until the world is as wanted, and the daemon agrees that it is.
    fn becomes(&self, wanted: &Traces, when: &str) -> Result<()> {
        let until = Instant::now() + CONVERGE;
        loop {
            let now = traces(self.world, &CHANGING);
            if now.as_ref().is_ok_and(|now| now == wanted) {
                let verified = ask("GET", "/v1/verify").granted(&tenantd_socket(self.world))?;
                if verified["agree"] == true {
                    return Ok(());
                }
                ensure!(Instant::now() < until, "{when}: tenantd verify says {verified:#}");
            }
            if Instant::now() > until {
                bail!("{when}: the world is not as it should be:\n{}", difference(wanted, &now?));
            }
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    /// Does it undisturbed and returns the places it passes, in order, and the state it leads to.
    fn learn(&mut self, what: &Deed) -> Result<(Vec<Place>, Traces)> {
        let mark = self.hand.log().len();
        what.granted(self.world, self.hand.socket())?;
        let mut log = self.hand.log();
        let state = self.settled()?;
        if matches!(what, Deed::Restored(_)) {
            // What it leads to is done after it was answered.
            log = self.hand.log();
        }
        let mut passes = BTreeMap::<&str, usize>::new();
        let mut places = Vec::new();
        for line in log[mark..].lines() {
            let Some(name) = line.strip_prefix("fault-point ") else { continue };
            // The timer's own, at whatever moment.
            if name.starts_with("start.") {
                continue;
            }
            let n = passes.entry(name).or_default();
            *n += 1;
            places.push((name.to_owned(), *n));
        }
        ensure!(!places.is_empty(), "{what:?} passes no fault point");
        self.reached.extend(places.iter().map(|(name, _)| name.clone()));
        Ok((places, state))
    }

    fn pair(&mut self, pair: &Pair) -> Result<()> {
        let started = self.hand.up("record:asked")?;
        for asked in &pair.before {
            self.learn(&Deed::Asked(asked.clone()))?;
        }
        let home = self.settled()?;
        let (there, away) = self.learn(&pair.there)?;
        let (back, home_again) = self.learn(&pair.back)?;
        ensure!(home == home_again, "undisturbed, there and back is not the same:\n{}", difference(&home, &home_again));
        started.kill()?;
        let states = [home, away];
        let asks = [&pair.there, &pair.back];
        let records = [record_of(&there), record_of(&back)];
        let orders = [there, back];
        let chosen = |places: &Vec<Place>| -> VecDeque<Place> {
            places.iter().filter(|(_, n)| full() || *n == 1).cloned().collect()
        };
        let mut todo = [chosen(&orders[0]), chosen(&orders[1])];
        if !full() && !matches!(pair.there, Deed::Asked(_)) {
            // Both ways add, change and remove: a place that is taken on the one is not taken on the other.
            let mut n = 0;
            todo[0].retain(|_| {
                n += 1;
                n % 2 == 1
            });
            let taken = todo[0].clone();
            todo[1].retain(|place| !taken.contains(place));
        }
        let (mut at, mut last, mut missed) = (0, "an undisturbed run".to_owned(), 0);
        while at == 1 || todo.iter().any(|places| !places.is_empty()) {
            let place = todo[at].pop_front();
            let fault = place.as_ref().map_or_else(String::new, |(name, n)| format!("{name}:{n}:asked"));
            let started = self.hand.up(&fault)?;
            self.becomes(&states[at], &format!("after {last}"))?;
            let what = asks[at];
            let Some(place) = place else {
                what.granted(self.world, self.hand.socket())?;
                // What is done after the answer, too.
                self.becomes(&states[1 - at], &format!("{what:?}, undisturbed"))?;
                started.kill()?;
                at = 1 - at;
                last = format!("{what:?}, undisturbed");
                continue;
            };
            self.kills += 1;
            if what.goes_on() {
                let client = what.begin(self.world)?;
                started.killed().with_context(|| format!("{place:?} of {what:?}"))?;
                let next = self.hand.up("")?;
                what.succeeds(client).with_context(|| format!("killed at {place:?}"))?;
                next.kill()?;
                at = 1 - at;
                last = format!("{what:?} killed at {place:?}");
                continue;
            }
            match what {
                Deed::Asked(ask) => {
                    if let Some((code, answer)) = ask.of(self.hand.socket())? {
                        // A port goes with its stack, if the kernel is faster than the step that deletes it.
                        ensure!(code < 300 && missed < MISSES, "{place:?} was not reached: {ask:?}: {code} {answer}");
                        missed += 1;
                        self.kills -= 1;
                        todo[at].push_back(place);
                        started.kill()?;
                        at = 1 - at;
                        last = format!("{what:?} that was to be killed");
                        continue;
                    }
                }
                // It may have been answered: its passes come afterwards.
                _ => drop(what.begin(self.world)?.wait(CONVERGE)?),
            }
            started.killed().with_context(|| format!("{place:?} of {what:?}"))?;
            let position = orders[at].iter().position(|other| *other == place).unwrap_or(usize::MAX);
            let recorded = records[at].is_some_and(|record| position >= record);
            last = format!("{what:?} killed at {place:?}, recorded: {recorded}");
            if recorded {
                at = 1 - at;
            }
        }
        let started = self.hand.up("record:asked")?;
        self.becomes(&states[0], &format!("after {last}"))?;
        for asked in &pair.after {
            self.learn(&Deed::Asked(asked.clone()))?;
        }
        started.kill()
    }

    /// At every place of a start and of an end.
    fn starts(&mut self, started: hand::Started, home: &Traces) -> Result<hand::Started> {
        started.kill()?;
        let points = listed(self.world, "tenantd")?;
        for name in points.iter().filter(|name| name.starts_with("start.") || *name == "room.trunk") {
            let passes = if name == "start.one" { 2 } else { 1 };
            for n in 1..=passes {
                self.hand.start(&format!("{name}:{n}"))?.killed().with_context(|| format!("{name}, pass {n}"))?;
                self.kills += 1;
                self.reached.insert(name.clone());
            }
        }
        for name in ["stop.begun", "stop.silent"] {
            let started = self.hand.up(name)?;
            self.becomes(home, name)?;
            started.signal(Signal::SIGTERM)?;
            started.killed().with_context(|| name.to_owned())?;
            self.kills += 1;
            self.reached.insert(name.to_owned());
        }
        let mut quiet = self.hand.up("")?;
        quiet.signal(Signal::SIGTERM)?;
        ensure!(quiet.end(Duration::from_secs(60))? == 0, "SIGTERM is no failure");
        let started = self.hand.up("")?;
        self.becomes(home, "after all the starts")?;
        Ok(started)
    }

    /// What only a daemon does that mends: killed while it does.
    fn recoveries(&mut self) -> Result<()> {
        let socket = tenantd_socket(self.world);
        let add = pairs(self.world)?.remove(0).there;
        let started = self.hand.up("")?;
        add.granted(self.world, &socket)?;
        let home = self.settled()?;
        started.kill()?;
        let service = json!({"name": "nap", "command": ["/bin/sleep", "7000000"]});
        let service = ask("POST", format!("/v1/tenants/{VICTIM}/services")).with(service);
        for point in ["stop-service.before", "stop-service.after"] {
            // Init runs it, nothing recorded it: the next daemon stops it.
            let started = self.hand.up("service.done:1:asked")?;
            ensure!(service.of(&socket)?.is_none(), "service.done was not reached");
            started.killed()?;
            self.hand.start(point)?.killed().with_context(|| point.to_owned())?;
            self.kills += 2;
            self.reached.insert(point.to_owned());
            let started = self.hand.up("")?;
            self.becomes(&home, point)?;
            started.kill()?;
        }
        let started = self.hand.up("")?;
        ask("DELETE", format!("/v1/tenants/{VICTIM}?force=true")).granted(&socket)?;
        started.kill()
    }

    /// A version with longer rows takes over.
    fn upgrade(&mut self, home: &Traces) -> Result<()> {
        let pins = "/sys/fs/bpf/tenantd/main";
        let quiet = self.world.options().sites().count() - 1;
        self.kills += upgrade::carried(self.world, &self.hand, pins, "room", ROOM_TABLES)?;
        // The trunk and the quiet tenants' ports.
        self.kills += upgrade::taken_over(&self.hand, &[("room.replaced", 1 + quiet)])?;
        self.kills += upgrade::carried(self.world, &self.hand, pins, "guards", GUARD_TABLES)?;
        self.kills += upgrade::taken_over(&self.hand, &[("guards.replaced", GUARD_PROGRAMS)])?;
        let points = listed(self.world, "tenantd")?;
        let starts: Vec<_> = points.iter().filter(|name| name.starts_with("start.")).map(|name| (&**name, 1)).collect();
        self.kills += upgrade::taken_over(&self.hand, &starts)?;
        self.reached.extend(points.iter().filter(|name| name.starts_with("guards.")).cloned());
        self.reached.extend(["copied", "beside", "carried", "replaced"].map(|place| format!("room.{place}")));
        let mark = self.hand.log().len();
        let started = self.hand.up("record:longer")?;
        self.becomes(home, "after the upgrade")?;
        upgrade::all_is_carried(self.world, pins, &self.hand.log()[mark..])?;
        // The new tables are used: something is made and taken away.
        let Pair { there, back, .. } = pairs(self.world)?.remove(0);
        there.granted(self.world, self.hand.socket())?;
        back.granted(self.world, self.hand.socket())?;
        self.becomes(home, "an add and a removal after the upgrade")?;
        println!("{:4} kills after {:3.0} s: upgrade", self.kills, self.began.elapsed().as_secs_f64());
        started.kill()
    }

    /// The first start of an instance.
    fn fresh_rooms(&mut self) -> Result<()> {
        for (n, point) in ["room.pinned", "room.trunk"].into_iter().enumerate() {
            let (instance, dir) = (format!("k{n}"), format!("/run/lab/k{n}"));
            let argv = ["tenantd", "run", "--instance", &instance, "--state-dir", &dir];
            let hand = self.hand.other(&argv, &format!("/run/tenantd/{instance}/api.sock"));
            hand.start(point)?.killed().with_context(|| point.to_owned())?;
            self.kills += 1;
            self.reached.insert(point.to_owned());
            let started = hand.up("")?;
            let add = json!({"name": "fresh", "addresses": ["192.168.1.1/24"]});
            ask("POST", "/v1/tenants").with(add).granted(hand.socket())?;
            ask("DELETE", "/v1/tenants/fresh?force=true").granted(hand.socket())?;
            started.kill()?;
        }
        Ok(())
    }

    fn nothing_is_left_out(&self) -> Result<()> {
        let missed: Vec<String> =
            listed(self.world, "tenantd")?.into_iter().filter(|name| !self.reached.contains(name)).collect();
        ensure!(missed.is_empty(), "fault points that no operation passes: {missed:?}");
        Ok(())
    }
}

/// From which place on a command is recorded; none when it records nothing.
fn record_of(places: &[Place]) -> Option<usize> {
    places.iter().position(|(name, _)| name == "store.put.after")
}

/// The names a program lists.
fn listed(world: &World, program: &str) -> Result<Vec<String>> {
    let list: Value = serde_json::from_str(&world.ok("server", &[program, "fault-points", "--json"])?)?;
    let names = list.as_array().context("no list")?.iter().map(|point| point["name"].as_str().map(str::to_owned));
    names.collect::<Option<_>>().context("a point without a name")
}

fn unknown_names() -> Result<()> {
    let world = crate::floor::world("killnames", Options { sites: 1, ..Options::default() })?;
    for (program, variable) in [("tenantd", "TENANTD_FAULT"), ("access-server", "ACCESS_SERVER_FAULT")] {
        let run: &[&str] = match program {
            "tenantd" => &["tenantd", "run", "--instance", "x", "--state-dir", "/run/lab/x"],
            _ => &[
                "access-server",
                "run",
                "--instance",
                "x",
                "--trunk",
                "wan0",
                "--wan",
                "wan0",
                "--local",
                "203.0.113.1",
            ],
        };
        for fault in ["no.such.point", "request.received:0", "request.received:1:error", ""] {
            let output = world.command("server", run)?.env(variable, fault).output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.code() == Some(1), "{program} {fault:?}: {} {said}", output.status);
            ensure!(said.contains(variable) && said.contains("refused"), "{program} {fault:?}: {said}");
        }
        let output = world.command("server", run)?.env(variable, "no.such.point").output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let missed: Vec<String> = listed(&world, program)?.into_iter().filter(|name| !said.contains(name)).collect();
        ensure!(missed.is_empty(), "{program}: the refusal does not list {missed:?}");
    }
    Ok(())
}

/// The access server: rows whole or gone, and the same request again completes; its start, its end, its taking away.
fn access_server() -> Result<()> {
    let kinds = vec![Kind::Ipip, Kind::Vxlan, Kind::Ipip];
    let world = with_quiet("killacc", Options { sites: 3, kinds, ..Options::default() })?;
    explain(&world, access_walk(&world))
}

fn access_walk(world: &World) -> Result<()> {
    let hosts: Vec<String> = world.options().sites().take(2).map(|site| site.host()).collect();
    let streams = hosts.iter().map(|host| Stream::start(world, host)).collect::<Result<Vec<_>>>()?;
    // It would state its rows again at every start, and pass places that are not the test's.
    let _held = Hand::tenantd(world)?;
    let hand = Hand::access_server(world)?;
    let began = Instant::now();
    let (mut reached, mut kills) = (BTreeSet::new(), 0);
    let row = |generation: u64, remotes: &[u8], prefix: &str| {
        let tunnel = |n: &u8| json!({"kind": "gre", "remote": format!("198.51.100.{n}"), "key": n, "prefixes": [format!("10.{n}.{prefix}")]});
        let tunnels: Vec<Value> = remotes.iter().map(tunnel).collect();
        json!({"owner": "test", "generation": generation, "origin": "operator", "tunnels": tunnels})
    };
    let put = |body: Value| ask("PUT", "/v1/vlans/900").with(body);
    let all = |rows: &[(u16, u8)], generation: u64| {
        let rows: Vec<Value> = rows
            .iter()
            .map(|(vlan, n)| {
                let mut row = row(generation, &[*n], "0.0/16");
                row["vlan"] = json!(vlan);
                row.as_object_mut().map(|row| row.remove("owner"));
                row
            })
            .collect();
        ask("PUT", "/v1/owners/test/vlans").with(json!({"rows": rows}))
    };
    // Each leads to the next; the second word of a pair is what the first one starts from.
    let walk = [
        put(row(1, &[101, 102], "0.0/16")),
        put(row(2, &[102, 103], "1.0/24")),
        ask("DELETE", "/v1/vlans/900?owner=test"),
        all(&[(901, 111), (902, 112)], 3),
        all(&[(901, 112), (903, 113)], 4),
        all(&[], 5),
    ];
    let nothing = [ask("DELETE", "/v1/vlans/900?owner=test"), all(&[], 9)];
    let mut before = nothing[0].clone();
    let back =
        |before: &Ask| nothing.iter().chain([before]).try_for_each(|asked| asked.granted(hand.socket()).map(drop));
    for what in walk {
        let started = hand.up("record:asked")?;
        back(&before)?;
        let mark = hand.log().len();
        what.granted(hand.socket())?;
        let (wanted, log) = (access_rows(world)?, hand.log());
        started.kill()?;
        let mut passes = BTreeMap::<&str, usize>::new();
        let names = log[mark..].lines().filter_map(|line| line.strip_prefix("fault-point "));
        let places: Vec<Place> = names
            .map(|name| {
                let n = passes.entry(name).or_default();
                *n += 1;
                (name.to_owned(), *n)
            })
            .collect();
        for (name, n) in places.iter().filter(|(_, n)| full() || *n <= 2) {
            // Back to where it starts from, then killed, then asked for again.
            let started = hand.up("")?;
            back(&before)?;
            started.kill()?;
            let started = hand.up(&format!("{name}:{n}:asked"))?;
            ensure!(what.of(hand.socket())?.is_none(), "{name} pass {n} was not reached by {what:?}");
            started.killed()?;
            kills += 1;
            reached.insert(name.clone());
            let started = hand.up("")?;
            what.granted(hand.socket())?;
            let found = access_rows(world)?;
            ensure!(
                found == wanted,
                "{what:?} killed at {name} pass {n} and asked again:\n{}",
                difference(&wanted, &found)
            );
            started.kill()?;
        }
        before = what;
    }
    for (name, n) in [
        ("start.locked", 1),
        ("attach.one", 1),
        ("attach.one", 2),
        ("attach.one", 3),
        ("start.open", 1),
        ("start.read", 1),
    ] {
        hand.start(&format!("{name}:{n}"))?.killed().with_context(|| format!("{name} {n}"))?;
        kills += 1;
        reached.insert(name.to_owned());
    }
    let started = hand.up("stop.begun")?;
    // It listens before it catches signals; once it answers it does.
    ask("GET", "/v1/status").granted(hand.socket())?;
    started.signal(Signal::SIGTERM)?;
    started.killed()?;
    reached.insert("stop.begun".to_owned());
    // A version with longer rows takes over.
    let pins = "/sys/fs/bpf/access-server/main";
    let old = hand.up("")?;
    let before = access_rows(world)?;
    old.kill()?;
    kills += upgrade::carried(world, &hand, pins, "carry", ACCESS_TABLES)?;
    reached.extend(["copied", "beside", "carried"].map(|place| format!("carry.{place}")));
    kills +=
        upgrade::taken_over(&hand, &[("start.locked", 1), ("attach.one", 3), ("start.open", 1), ("start.read", 1)])?;
    let mark = hand.log().len();
    let last = hand.up("record:longer")?;
    upgrade::all_is_carried(world, pins, &hand.log()[mark..])?;
    let found = access_rows(world)?;
    ensure!(found == before, "after the upgrade:\n{}", difference(&before, &found));
    put(row(9, &[104], "0.0/16")).granted(hand.socket())?;
    ask("DELETE", "/v1/vlans/900?owner=test").granted(hand.socket())?;
    for stream in streams {
        println!("a stream through it all: {}", stream.unharmed()?);
    }
    drop(last);
    for name in ["detach.one", "detach.programs"] {
        let output =
            world.command("server", &["access-server", "detach"])?.env("ACCESS_SERVER_FAULT", name).output()?;
        ensure!(
            output.status.code() == Some(137),
            "{name}: {} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        kills += 1;
        reached.insert(name.to_owned());
    }
    world.ok("server", &["access-server", "detach"])?;
    let left = world.ok("server", &["sh", "-c", "find /sys/fs/bpf/access-server/main -type f 2>/dev/null; tc filter show dev wan0 ingress; tc filter show dev trunk-main ingress; tc filter show dev trunk-main egress"])?;
    ensure!(left.trim().is_empty(), "detach, killed twice, leaves {left}");
    let missed: Vec<String> =
        listed(world, "access-server")?.into_iter().filter(|name| !reached.contains(name)).collect();
    ensure!(missed.is_empty(), "fault points that no operation passes: {missed:?}");
    println!("{kills} kills in {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// The access server's rows as it tells them and as bpftool counts them.
fn access_rows(world: &World) -> Result<Traces> {
    let mut lines = Traces::new();
    let rows = ask("GET", "/v1/vlans").granted(&access_socket(world))?;
    for row in rows.as_array().context("no rows")? {
        *lines.entry(row.to_string()).or_default() += 1;
    }
    for table in ["tunnels", "prefixes", "paths"] {
        let dump = world.ok(
            "server",
            &["bpftool", "-j", "map", "dump", "pinned", &format!("/sys/fs/bpf/access-server/main/{table}")],
        )?;
        let dump: Value = serde_json::from_str(&dump)?;
        lines.insert(table.to_owned(), dump.as_array().map_or(0, Vec::len));
    }
    Ok(lines)
}
