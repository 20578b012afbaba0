//! The watchdog is the owner's: while the owner hangs, nobody feeds it for him.
//!
//! One test in a program of its own, because what it sets in the environment is the whole process's.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{HashMap, HashSet};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use access_server::daemon::{Command, Daemon, Event, Network, Survey};
use access_server::gateway::{Ends, Path, RowRequest, Settings};
use access_server::table::fake::FakeTable;
use stackmap::{Generation, Origin, Vlan};
use tokio::sync::{mpsc, oneshot};

/// A routing table that does not answer: the owner waits for it in the middle of a request.
#[derive(Clone)]
struct Silent;

impl Network for Silent {
    async fn paths(&self, _: HashSet<Ends>) -> HashMap<Ends, Option<Path>> {
        std::future::pending().await
    }

    async fn survey(&self, _: HashSet<Ends>) -> Survey {
        Survey::default()
    }
}

fn fed(manager: &UnixDatagram) -> usize {
    let mut buffer = [0; 256];
    std::iter::from_fn(|| manager.recv(&mut buffer).ok()).count()
}

#[tokio::test]
async fn an_owner_that_hangs_is_not_kept_alive() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_nonblocking(true).unwrap();
    // SAFETY: the only test of this program, and its only thread.
    unsafe {
        std::env::set_var("NOTIFY_SOCKET", &socket);
        std::env::set_var("WATCHDOG_USEC", "100000");
    }
    let settings = Settings {
        instance: "test".into(),
        locals: vec!["203.0.113.1".parse().unwrap()],
        wan_mtu: 1500,
        trunk_mtu: 9000,
    };
    let (events, inbox) = mpsc::channel(8);
    let daemon = Daemon::start(settings, FakeTable::default(), Silent, events.clone()).await.unwrap();
    let owner = tokio::spawn(daemon.run(inbox));
    let mut seen = 0;
    tokio::time::timeout(Duration::from_secs(20), async {
        while seen < 4 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            seen += fed(&manager);
        }
    })
    .await
    .expect("a living owner feeds it");
    // A manager that does not read fills its queue, and the owner does not wait for it: it takes the next request.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let (reply, answer) = oneshot::channel();
    events.send(Event::Request(Command::Rows, reply)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), answer).await.unwrap().unwrap().unwrap();
    let row = RowRequest {
        vlan: Vlan::MIN,
        owner: "test".parse().unwrap(),
        generation: Generation::default(),
        origin: Origin::Operator,
        lifetime_s: None,
        server_mac: None,
        gateway_mac: None,
        tunnels: vec!["ipip:198.51.100.2".parse().unwrap()],
    };
    let (reply, _answer) = oneshot::channel();
    events.send(Event::Request(Command::Put(row), reply)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    fed(&manager);
    // Everything else of the process goes on: this very task does.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(fed(&manager), 0, "somebody fed it while the owner hung");
    owner.abort();
}
