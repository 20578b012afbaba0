//! Packet filters as the kernel obeys them: set by tenantd's own verbs, tried by traffic between two namespaces, read by
//! nft. Needs root; nothing outside the test's namespaces is touched.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod place;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Trial};
use nix::unistd::Uid;
use tenantd::model::{Filter, Verdict};
use tenantd::net::filter::{FilterError, Found, Netfilter, satisfies};

use place::Place;

const TENANT: [&str; 2] = ["192.168.1.1", "fd00::1"];
const SITE: [&str; 2] = ["192.168.1.10", "fd00::a"];
/// How long what is dropped is waited for.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long what must come is waited for: no promise, only no waiting for ever.
const LONG: Duration = Duration::from_secs(20);

type Test = (&'static str, &'static [&'static str], fn());

fn main() -> ExitCode {
    const NFT: &str = "/usr/sbin/nft";
    let tests: [Test; 8] = [
        ("default_drop_lets_in_what_rules_say_and_what_the_tenant_asked_for", &["/usr/bin/ping"], default_drop),
        ("default_accept_keeps_out_what_rules_say", &["/usr/bin/ping", NFT], default_accept),
        ("nft_reads_what_it_would_have_set_itself", &[NFT], as_nft),
        ("a_new_filter_holds_for_connections_that_are_there", &[], there_already),
        ("replaced_under_traffic_nothing_allowed_is_lost_and_nothing_else_passes", &[], replaced),
        ("what_somebody_changed_shows_and_is_put_back_and_other_tables_stay", &[NFT], put_back),
        ("a_stack_of_a_user_namespace_is_filtered_too", &[NFT], own_stack),
        ("the_most_rules_are_set_and_read", &[], most),
    ];
    let arguments = Arguments::from_args();
    let root = Uid::effective().is_root();
    let trials = tests.into_iter().map(|(name, programs, test)| {
        Trial::ignorable_test(name, move || {
            if !root {
                return Ok(Completion::ignored_with("needs root"));
            }
            if let Some(program) = programs.iter().find(|program| !std::path::Path::new(program).exists()) {
                return Ok(Completion::ignored_with(format!("{program} is not installed")));
            }
            if let Err(lacks @ FilterError::NoFeature { .. }) = Place::new().netfilter().read() {
                return Ok(Completion::ignored_with(lacks.to_string()));
            }
            test();
            Ok(Completion::Completed)
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn filter(default: Verdict, rules: &[&str]) -> Filter {
    Filter { default, rules: rules.iter().map(|rule| rule.parse().unwrap()).collect() }
}

/// Sets a filter and sees that the kernel has it.
fn set(netfilter: &Netfilter, filter: &Filter) -> Option<Found> {
    netfilter.set(filter).unwrap();
    let found = netfilter.read().unwrap();
    assert!(satisfies(found.as_ref(), filter), "{found:?}");
    found
}

/// The tenant's stack and a site of it, on one link.
fn stacks() -> (Place, Place) {
    let (tenant, site) = (Place::new(), Place::new());
    tenant.link(&site);
    for (place, addresses) in [(&tenant, TENANT), (&site, SITE)] {
        place.sh(&format!("ip address add {}/24 dev eth0", addresses[0]));
        place.sh(&format!("ip address add {}/64 dev eth0 nodad", addresses[1]));
    }
    (tenant, site)
}

fn listen(place: &Place, port: u16) -> TcpListener {
    place.run(|| TcpListener::bind(("::", port)).unwrap())
}

fn connect_within(from: &Place, address: &str, port: u16, time: Duration) -> Result<TcpStream, ErrorKind> {
    let to = SocketAddr::new(address.parse().unwrap(), port);
    from.run(|| TcpStream::connect_timeout(&to, time)).map_err(|e| e.kind())
}

/// Where a connection must come about.
fn connect(from: &Place, address: &str, port: u16) -> Result<TcpStream, ErrorKind> {
    connect_within(from, address, port, LONG)
}

/// Whether a connection comes about, or nothing is heard, as is wanted.
fn tries(from: &Place, address: &str, port: u16, wanted: bool) {
    let got = connect_within(from, address, port, if wanted { LONG } else { PATIENCE }).map(drop);
    let wanted = if wanted { Ok(()) } else { Err(ErrorKind::TimedOut) };
    assert_eq!(got, wanted, "{address} port {port}");
}

fn datagrams(place: &Place, port: u16) -> UdpSocket {
    let socket = place.run(|| UdpSocket::bind(("::", port)).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn sender(place: &Place, to: &str, port: u16) -> UdpSocket {
    let any: IpAddr = if to.contains(':') { "::".parse().unwrap() } else { "0.0.0.0".parse().unwrap() };
    let socket = place.run(|| UdpSocket::bind((any, 0)).unwrap());
    socket.connect((to, port)).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket
}

/// Whether a datagram of so many bytes arrives; one that is wanted is waited for longer.
fn arrives(from: &Place, to: &str, at: &UdpSocket, bytes: usize, wanted: bool) -> bool {
    let port = at.local_addr().unwrap().port();
    at.set_read_timeout(Some(if wanted { LONG } else { PATIENCE })).unwrap();
    sender(from, to, port).send(&vec![7; bytes]).unwrap();
    at.recv(&mut [0; 8192]).is_ok_and(|length| length == bytes)
}

/// Whether an answer comes; one that is wanted is waited for longer.
fn answers_ping(from: &Place, address: &str, wanted: bool) -> bool {
    let patience = if wanted { "-W20" } else { "-W1" };
    from.command("ping").args(["-c1", patience, "-n", "-q", address]).output().unwrap().status.success()
}

fn default_drop() {
    let (tenant, site) = stacks();
    let netfilter = tenant.netfilter();
    let rules = [
        "accept,tcp/80",
        "accept,tcp/22,from=192.168.1.0/28",
        "accept,tcp/22,from=fd00::a/128",
        "accept,tcp/23,from=10.0.0.0/8",
        "accept,tcp/23,from=fd00::/125",
        "drop,udp/5001",
        "accept,udp/5000-5002",
        "accept,tcp/81,from=0.0.0.0/0",
    ];
    let wanted = filter(Verdict::Drop, &rules);
    set(&netfilter, &wanted);
    let _listening: Vec<_> = [80, 22, 23, 81].map(|port| listen(&tenant, port)).into();
    let udp = [5000, 5001, 5002, 5003].map(|port| datagrams(&tenant, port));
    let far = listen(&site, 8080);
    let far_udp = datagrams(&site, 53);
    far_udp.set_read_timeout(Some(LONG)).unwrap();
    for (family, (here, there)) in TENANT.into_iter().zip(SITE).enumerate() {
        for (port, wanted) in [(80, true), (22, true), (23, false), (81, family == 0), (82, false)] {
            tries(&site, here, port, wanted);
        }
        for (socket, wanted) in udp.iter().zip([true, false, true, false]) {
            assert_eq!(arrives(&site, here, socket, 100, wanted), wanted, "{here} {socket:?}");
        }
        assert!(arrives(&site, here, &udp[0], 4000, true), "in fragments, {here}");
        assert!(!answers_ping(&site, here, false), "{here}");
        // What the tenant asks for comes back: TCP, UDP, and the ICMP error of a closed port.
        let mut asked = connect(&tenant, there, 8080).unwrap();
        let (mut answering, _) = far.accept().unwrap();
        answering.write_all(b"answer").unwrap();
        asked.set_read_timeout(Some(LONG)).unwrap();
        asked.read_exact(&mut [0; 6]).unwrap();
        let question = sender(&tenant, there, 53);
        question.send(b"question").unwrap();
        let (_, from) = far_udp.recv_from(&mut [0; 64]).unwrap();
        far_udp.send_to(b"answer", from).unwrap();
        assert_eq!(question.recv(&mut [0; 64]).unwrap(), 6);
        let closed = sender(&tenant, there, 54);
        closed.send(b"question").unwrap();
        assert_eq!(closed.recv(&mut [0; 64]).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{there}");
        assert!(answers_ping(&tenant, there, true), "{there}");
        // The stack's own loopback, by whatever address.
        for own in [here, ["127.0.0.1", "::1"][family]] {
            connect(&tenant, own, 81).unwrap();
        }
        // Neighbours are found again.
        for place in [&tenant, &site] {
            place.sh("ip neighbour flush dev eth0");
        }
        connect(&site, here, 80).unwrap();
    }
    let drops = netfilter.read().unwrap().unwrap().drops(&wanted);
    assert_eq!(drops.keys().collect::<Vec<_>>(), ["filter_6", "filter_default"]);
    assert!(drops.values().all(|n| *n >= 2), "{drops:?}");
    // ICMP when a rule says so, and nothing at all without a filter.
    set(&netfilter, &filter(Verdict::Drop, &["accept,icmp"]));
    assert!(TENANT.into_iter().all(|here| answers_ping(&site, here, true)));
    tries(&site, TENANT[0], 80, false);
    assert_eq!(set(&netfilter, &Filter::default()), None);
    assert!(TENANT.into_iter().all(|here| connect(&site, here, 81).is_ok()));
}

fn default_accept() {
    let (tenant, site) = stacks();
    let netfilter = tenant.netfilter();
    let rules = [
        "accept,tcp/82,from=fd00::a/128",
        "drop,tcp/81-82",
        "drop,udp/5000,from=192.168.1.0/24",
        "drop,icmp,from=fd00::/64",
    ];
    let wanted = filter(Verdict::Accept, &rules);
    set(&netfilter, &wanted);
    assert!(!tenant.sh("nft list ruleset").contains("ct "), "connections need not be tracked");
    let _listening: Vec<_> = [80, 81, 82].map(|port| listen(&tenant, port)).into();
    let udp = datagrams(&tenant, 5000);
    for (family, here) in TENANT.into_iter().enumerate() {
        for (port, wanted) in [(80, true), (81, false), (82, family == 1)] {
            tries(&site, here, port, wanted);
        }
        assert_eq!(arrives(&site, here, &udp, 100, family == 1), family == 1, "{here}");
        assert_eq!(answers_ping(&site, here, family == 0), family == 0, "{here}");
    }
    let drops = netfilter.read().unwrap().unwrap().drops(&wanted);
    assert_eq!(drops.keys().collect::<Vec<_>>(), ["filter_2", "filter_3", "filter_4"]);
    assert!(drops.values().all(|n| *n >= 1), "{drops:?}");
}

/// The rules as nft lists them, without counts.
fn listed(place: &Place) -> String {
    let text = place.sh("nft list ruleset");
    let words: Vec<_> = text.split(' ').collect();
    let counts = |n: &usize| ["packets", "bytes"].contains(&words[n - 1]);
    (0..words.len()).filter(|n| *n == 0 || !counts(n)).map(|n| words[n]).collect::<Vec<_>>().join(" ")
}

fn as_nft() {
    let (ours, nfts) = (Place::new(), Place::new());
    let rules = [
        "accept,tcp/80",
        "drop,udp/5000-6000,from=fd00::/61",
        "accept,icmp",
        "drop,any,from=10.1.0.0/16",
        "accept,tcp",
    ];
    let netfilter = ours.netfilter();
    set(&netfilter, &filter(Verdict::Drop, &rules));
    nfts.nft(
        "table inet tenantd {
            chain input {
                type filter hook input priority filter; policy accept;
                iif lo counter accept comment \"tenantd/1 loopback\"
                ct direction reply ct state established counter accept comment \"tenantd/1 replies\"
                ct state related counter accept comment \"tenantd/1 icmp errors\"
                icmpv6 type 133-137 counter accept comment \"tenantd/1 neighbours\"
                tcp dport 80 counter accept comment \"tenantd/1 accept,tcp/80\"
                ip6 saddr fd00::/61 udp dport 5000-6000 counter drop comment \"tenantd/1 drop,udp/5000-6000,from=fd00::/61\"
                meta l4proto icmp counter accept comment \"tenantd/1 accept,icmp\"
                meta l4proto ipv6-icmp counter accept comment \"tenantd/1 accept,icmp\"
                ip saddr 10.1.0.0/16 counter drop comment \"tenantd/1 drop,any,from=10.1.0.0/16\"
                meta l4proto tcp counter accept comment \"tenantd/1 accept,tcp\"
                counter drop comment \"tenantd/1 default\"
            }
        }",
    );
    assert_eq!(listed(&ours), listed(&nfts));
    // And what nft has set is read as ours, rule by rule.
    let found = nfts.netfilter().read().unwrap();
    assert!(satisfies(found.as_ref(), &filter(Verdict::Drop, &rules)), "{found:?}");
}

fn there_already() {
    let (tenant, site) = stacks();
    let netfilter = tenant.netfilter();
    set(&netfilter, &filter(Verdict::Drop, &["accept,tcp/80"]));
    let (near, far) = (listen(&tenant, 80), listen(&site, 8080));
    let mut asked = connect(&site, TENANT[1], 80).unwrap();
    let (mut serving, _) = near.accept().unwrap();
    let mut asking = connect(&tenant, SITE[1], 8080).unwrap();
    let (mut answering, _) = far.accept().unwrap();
    for stream in [&asked, &serving, &asking, &answering] {
        stream.set_read_timeout(Some(LONG)).unwrap();
    }
    asked.write_all(b"x").unwrap();
    serving.read_exact(&mut [0]).unwrap();
    serving.set_read_timeout(Some(PATIENCE)).unwrap();
    set(&netfilter, &filter(Verdict::Drop, &["accept,tcp/443"]));
    asked.write_all(b"x").unwrap();
    assert_eq!(serving.read_exact(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "no rule lets it in any more");
    answering.write_all(b"x").unwrap();
    asking.read_exact(&mut [0]).unwrap();
}

/// Datagrams of the test at least, and how many are sent a millisecond.
const COUNT: u32 = 20_000;
const BURST: u32 = 10;

fn replaced() {
    let (tenant, site) = stacks();
    let netfilter = tenant.netfilter();
    let filters = [
        filter(Verdict::Drop, &["accept,udp/5000"]),
        filter(Verdict::Accept, &["drop,udp/5001", "drop,tcp"]),
        filter(Verdict::Drop, &["drop,tcp/80", "drop,icmp", "drop,udp/5001-5002", "accept,udp/1-5000"]),
    ];
    set(&netfilter, &filters[0]);
    for here in TENANT {
        let (open, closed) = (datagrams(&tenant, 5000), datagrams(&tenant, 5001));
        // Nothing may be lost for want of room, also when the receiver is held up for as long as it all takes: an
        // ordinary buffer is too small for that.
        let room: libc::c_int = 64 << 20;
        // SAFETY: the value is an int that lives through the call.
        let done = unsafe {
            let (value, length) = (std::ptr::from_ref(&room).cast(), size_of_val(&room) as libc::socklen_t);
            libc::setsockopt(open.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, value, length)
        };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        let (sending, changes, sent) = (AtomicBool::new(true), AtomicUsize::new(0), AtomicU32::new(0));
        let received = std::thread::scope(|scope| {
            let receiver = scope.spawn(|| {
                let mut received = 0;
                loop {
                    // Whoever sends may be held up as well: the end is when nothing comes after the last was sent.
                    let last = !sending.load(Ordering::Acquire);
                    match open.recv(&mut [0; 64]) {
                        Ok(_) => received += 1,
                        Err(_) if last => return received,
                        Err(_) => {}
                    }
                }
            });
            scope.spawn(|| {
                let (to_open, to_closed) = (sender(&site, here, 5000), sender(&site, here, 5001));
                // Longer than that where the changes are slow, so that there are enough of them.
                let enough = || changes.load(Ordering::Relaxed) > 50 || sent.load(Ordering::Relaxed) >= 3 * COUNT;
                while sent.load(Ordering::Relaxed) < COUNT || !enough() {
                    for _ in 0..BURST {
                        to_open.send(b"open").unwrap();
                        to_closed.send(b"closed").unwrap();
                    }
                    sent.fetch_add(BURST, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(1));
                }
                sending.store(false, Ordering::Release);
            });
            while sending.load(Ordering::Acquire) {
                let change = changes.fetch_add(1, Ordering::Relaxed);
                netfilter.set(&filters[change % filters.len()]).unwrap();
            }
            receiver.join().unwrap()
        });
        let (sent, changes) = (sent.into_inner(), changes.into_inner());
        println!("{here}: {received} of {sent} arrived under {changes} changes");
        assert_eq!(received, sent, "under {changes} changes");
        assert!(changes > 50, "{changes} changes");
        assert!(closed.recv(&mut [0; 64]).is_err(), "what every filter drops has passed");
    }
}

fn put_back() {
    let place = Place::new();
    let netfilter = place.netfilter();
    let theirs =
        "table inet theirs {\n\tchain input {\n\t\ttype filter hook input priority filter; policy accept;\n\t}\n}\n";
    place.nft(theirs);
    let wanted = filter(Verdict::Drop, &["accept,tcp/80", "accept,udp/53"]);
    set(&netfilter, &wanted);
    let right = listed(&place);
    assert!(right.contains("inet theirs") && right.contains("inet tenantd"), "{right}");
    for what in [
        "delete table inet tenantd",
        "flush table inet tenantd",
        "flush chain inet tenantd input",
        "add rule inet tenantd input accept",
        "insert rule inet tenantd input accept",
        "insert rule inet tenantd input accept comment \"tenantd/1 loopback\"",
        "add chain inet tenantd more",
        "add set inet tenantd more { type inet_service; }",
        "add table inet tenantd { flags dormant; }",
        "add chain inet tenantd input { policy drop; }",
        "delete rule inet tenantd input handle 6",
        "replace rule inet tenantd input handle 6 accept",
        "delete table inet tenantd; add table inet tenantd; add chain inet tenantd input",
        "delete table inet tenantd; add table inet tenantd; \
         add chain inet tenantd input { type filter hook output priority 0; policy drop; }",
        "delete table inet tenantd; add table inet tenantd; \
         add chain inet tenantd input { type filter hook input priority 5; policy accept; }",
    ] {
        place.nft(what);
        assert!(!satisfies(netfilter.read().unwrap().as_ref(), &wanted), "{what}");
        set(&netfilter, &wanted);
        // Which of the two tables is listed first does not matter.
        for part in listed(&place).split("table ") {
            assert!(right.contains(part.trim_end()), "{what}: {part}");
        }
        // Rules have the numbers that are used above.
        set(&netfilter, &Filter::default());
        set(&netfilter, &wanted);
    }
    set(&netfilter, &Filter::default());
    assert_eq!(listed(&place).trim_end(), theirs.trim_end());
    set(&netfilter, &Filter::default());
}

fn own_stack() {
    let (place, _holder) = Place::of_a_user_namespace();
    let netfilter = place.netfilter();
    let wanted = filter(Verdict::Drop, &["accept,tcp/80"]);
    set(&netfilter, &wanted);
    assert!(listed(&place).contains("tenantd/1 accept,tcp/80"));
    place.nft("delete table inet tenantd");
    assert_eq!(netfilter.read().unwrap(), None);
    set(&netfilter, &wanted);
    set(&netfilter, &Filter::default());
    assert_eq!(listed(&place), "");
}

fn most() {
    let place = Place::new();
    let netfilter = place.netfilter();
    // Each is two rules of the kernel's.
    let wanted = filter(Verdict::Drop, &vec!["accept,icmp"; tenantd::model::MOST_RULES]);
    let longest = "accept,tcp/10000-65535,from=ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/124";
    let long = filter(Verdict::Drop, &vec![longest; tenantd::model::MOST_RULES]);
    for wanted in [&wanted, &long, &Filter::default()] {
        let started = Instant::now();
        netfilter.set(wanted).unwrap();
        let written = started.elapsed();
        assert!(satisfies(netfilter.read().unwrap().as_ref(), wanted));
        println!("{} rules: set in {written:?}, read in {:?}", wanted.rules.len(), started.elapsed() - written);
    }
}
