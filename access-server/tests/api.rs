//! The API over a real Unix socket, in front of tables in memory: no root needed.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use access_server::api::Api;
use access_server::api::view::{LayerView, ReplacedView, RowView, StatusView};
use access_server::client::{Client, ClientError, encode};
use access_server::config::Places;
use access_server::daemon::{Daemon, Device, Event, Network, Survey};
use access_server::gateway::{Ends, Path, Settings};
use access_server::problem::Problem;
use access_server::row::NextHop;
use access_server::socket;
use access_server::table::fake::{FakeTable, FaultyTable};
use access_server::table::{Table, VlanCounters};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A network with one WAN device and one router.
#[derive(Debug, Clone)]
struct FakeNetwork {
    path: Arc<Mutex<Option<Path>>>,
}

impl Default for FakeNetwork {
    fn default() -> Self {
        Self { path: Arc::new(Mutex::new(path("203.0.113.254", 1500))) }
    }
}

fn path(via: &str, mtu: u32) -> Option<Path> {
    Some(Path { next_hop: NextHop { ifindex: 2, via: via.parse().unwrap() }, mtu })
}

impl Network for FakeNetwork {
    async fn paths(&self, ends: HashSet<Ends>) -> HashMap<Ends, Option<Path>> {
        let path = *self.path.lock().unwrap();
        ends.into_iter().map(|ends| (ends, path)).collect()
    }

    async fn survey(&self, ends: HashSet<Ends>) -> Survey {
        let device =
            |name: &str, ifindex| Device { name: name.into(), ifindex, mtu: 1500, up: true, veth_across: false };
        Survey { wan: vec![device("wan0", 2)], trunk: Some(device("trunk0", 3)), paths: self.paths(ends).await }
    }
}

/// A daemon without kernel, and a client of it.
struct Server<T> {
    client: Client,
    owner: mpsc::Sender<Event>,
    network: FakeNetwork,
    daemon: JoinHandle<T>,
    api: JoinHandle<std::io::Result<()>>,
    _dir: tempfile::TempDir,
}

impl<T: Table + Send + 'static> Server<T> {
    async fn start(table: T) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { instance: "t", run_dir: dir.path(), socket: None };
        let listener = UnixListener::from_std(socket::listen(&places.socket()).unwrap()).unwrap();
        let client = Client::new(&places);
        let (owner, inbox) = mpsc::channel(16);
        let network = FakeNetwork::default();
        let settings = Settings {
            instance: "main".into(),
            locals: vec!["203.0.113.1".parse().unwrap(), "203.0.113.2".parse().unwrap()],
            wan_mtu: 1500,
            trunk_mtu: 1500,
        };
        let daemon = Daemon::start(settings, table, network.clone(), owner.clone()).await.unwrap();
        let api = tokio::spawn(axum::serve(listener, Api::new(owner.clone()).router()).into_future());
        Self { client, owner, network, daemon: tokio::spawn(daemon.run(inbox)), api, _dir: dir }
    }

    async fn put(&self, path: &str, body: &Value) -> Result<RowView, Problem> {
        self.client.put(path, body.to_string()).await.map_err(refused)
    }

    async fn rows(&self) -> Vec<RowView> {
        self.client.get("/v1/vlans").await.unwrap()
    }

    /// Ends the daemon as SIGTERM does and gives the table back.
    async fn stop(self) -> T {
        self.owner.send(Event::Stop).await.unwrap();
        let table = self.daemon.await.unwrap();
        self.api.abort();
        table
    }
}

fn refused(error: ClientError) -> Problem {
    match error {
        ClientError::Refused(problem) => problem,
        other => panic!("{other:?}"),
    }
}

fn body(tunnels: &Value) -> Value {
    json!({ "owner": "tenantd/main", "generation": 3, "tunnels": tunnels })
}

fn ipip(remote: &str) -> Value {
    json!({ "kind": "ipip", "remote": remote })
}

#[tokio::test]
async fn a_row_is_put_shown_and_deleted() {
    let server = Server::start(FakeTable::default()).await;
    let sent = json!({
        "owner": "tenantd/main", "generation": 3, "origin": "operator", "lifetime_s": null,
        "server_mac": "02:00:00:00:00:01", "gateway_mac": "02:00:00:00:00:02",
        "tunnels": [{ "kind": "ipip", "remote": "198.51.100.2", "local": null, "key": null,
                      "prefixes": ["192.168.1.0/24"] }],
    });
    let row = server.put("/v1/vlans/600", &sent).await.unwrap();
    assert_eq!(row.vlan.get(), 600);
    assert_eq!((row.mtu, row.layer), (1480, Some(LayerView::One(3))));
    assert_eq!(row.tunnels[0].local.to_string(), "203.0.113.1");
    let hop = row.tunnels[0].next_hop.as_ref().unwrap();
    assert_eq!((hop.device.as_str(), hop.via.to_string().as_str()), ("wan0", "203.0.113.254"));
    assert_eq!(server.client.get::<RowView>("/v1/vlans/600").await.unwrap(), row);
    assert_eq!(server.rows().await, [row]);

    let status: StatusView = server.client.get("/v1/status").await.unwrap();
    assert_eq!((status.vlans, status.wan[0].device.as_str(), status.wan[0].mtu), (1, "wan0", 1500));
    assert_eq!(status.trunk.unwrap().device, "trunk0");
    let counters: Vec<VlanCounters> = server.client.get("/v1/counters").await.unwrap();
    assert_eq!(counters[0].vlan, 600);

    // Twice the same is once; deleting the absent succeeds.
    server.put("/v1/vlans/600", &sent).await.unwrap();
    server.client.delete("/v1/vlans/600?owner=tenantd%2Fmain").await.unwrap();
    server.client.delete("/v1/vlans/600?owner=tenantd%2Fmain").await.unwrap();
    assert_eq!(server.stop().await.log, ["put 600", "delete 600"]);
}

/// A request the API must refuse: what is put, and what the problem document must say.
struct Bad {
    path: &'static str,
    body: Value,
    status: u16,
    field: &'static str,
    value: &'static str,
    /// Part of the rule.
    rule: &'static str,
}

fn bad(body: Value, field: &'static str, value: &'static str, rule: &'static str) -> Bad {
    Bad { path: "/v1/vlans/601", body, status: 422, field, value, rule }
}

fn bad_tunnel(tunnel: Value, field: &'static str, value: &'static str, rule: &'static str) -> Bad {
    bad(body(&json!([tunnel])), field, value, rule)
}

fn with(key: &str, value: Value) -> Value {
    let mut body = body(&json!([]));
    body[key] = value;
    body
}

fn everything_bad() -> Vec<Bad> {
    let tunnel = |kind: &str, key: Value| json!({ "kind": kind, "remote": "198.51.100.2", "key": key });
    let two = |a: Value, b: Value| body(&json!([a, b]));
    let at = |path, value| Bad { path, ..bad(body(&json!([])), "vlan", value, "1..=4094") };
    vec![
        at("/v1/vlans/0", "0"),
        at("/v1/vlans/4095", "4095"),
        at("/v1/vlans/six", "six"),
        bad(with("vlan", json!(602)), "vlan", "602", "must be 601 as in the path"),
        // Shape.
        bad(with("colour", json!("red")), "colour", "\"red\"", "unknown field `colour`"),
        bad_tunnel(
            json!({ "kind": "ipip", "remote": "198.51.100.2", "colour": 1 }),
            "tunnels[0].colour",
            "1",
            "unknown",
        ),
        bad(with("tunnels", json!("none")), "tunnels", "\"none\"", "expected a sequence"),
        bad(with("generation", json!(-1)), "generation", "-1", "expected u64"),
        bad(json!({ "owner": "x", "generation": 1 }), "tunnels", "", "must be given"),
        // The row.
        bad(json!({ "generation": 1, "tunnels": [] }), "owner", "", "must be given"),
        bad(with("owner", json!("a b")), "owner", "a b", "must be 1..=64 characters"),
        bad(with("origin", json!("god")), "origin", "god", "must be operator or registered"),
        bad(with("lifetime_s", json!(0)), "lifetime_s", "0", "at least 1 second"),
        bad(with("server_mac", json!("02:00")), "server_mac", "02:00", "six pairs of hex"),
        bad(with("gateway_mac", json!("01:00:5e:00:00:01")), "gateway_mac", "01:00:5e:00:00:01", "multicast"),
        // A tunnel.
        bad_tunnel(json!({ "kind": "sit", "remote": "198.51.100.2" }), "tunnels[0].kind", "sit", "ipip, gre or vxlan"),
        bad_tunnel(ipip("198.51.100"), "tunnels[0].remote", "198.51.100", "an IPv4 or IPv6 address"),
        bad_tunnel(ipip("224.0.0.5"), "tunnels[0].remote", "224.0.0.5", "multicast"),
        bad_tunnel(ipip("0.0.0.0"), "tunnels[0].remote", "0.0.0.0", "unspecified"),
        bad_tunnel(ipip("203.0.113.1"), "tunnels[0].remote", "203.0.113.1", "must not be the local address"),
        bad_tunnel(ipip("203.0.113.2"), "tunnels[0].remote", "203.0.113.2", "address of this access server"),
        bad_tunnel(ipip("2001:db8::2"), "tunnels[0].remote", "2001:db8::2", "no local address of its family"),
        bad_tunnel(
            json!({ "kind": "ipip", "remote": "198.51.100.2", "local": "203.0.113.9" }),
            "tunnels[0].local",
            "203.0.113.9",
            "203.0.113.1, 203.0.113.2",
        ),
        bad_tunnel(tunnel("ipip", json!(1)), "tunnels[0].key", "1", "ipip has no key"),
        bad_tunnel(tunnel("vxlan", json!(null)), "tunnels[0].key", "", "vxlan needs a key"),
        bad_tunnel(tunnel("vxlan", json!(16_777_216)), "tunnels[0].key", "16777216", "24 bits"),
        bad_tunnel(tunnel("gre", json!(4_294_967_296_u64)), "tunnels[0].key", "4294967296", "32 bits"),
        bad_tunnel(
            json!({ "kind": "ipip", "remote": "198.51.100.2", "prefixes": ["192.168.1.1/24"] }),
            "tunnels[0].prefix",
            "192.168.1.1/24",
            "192.168.1.0/24",
        ),
        bad_tunnel(
            json!({ "kind": "ipip", "remote": "198.51.100.2", "prefixes": ["lan"] }),
            "tunnels[0].prefix",
            "lan",
            "must be a CIDR",
        ),
        // Tunnels of one row against each other.
        bad(
            two(ipip("198.51.100.2"), ipip("198.51.100.2")),
            "tunnels[1]",
            "ipip (198.51.100.2, 203.0.113.1)",
            "given twice",
        ),
        bad(two(ipip("198.51.100.2"), ipip("198.51.100.3")), "prefix", "0.0.0.0/0", "prefixes of its own"),
        bad(two(ipip("198.51.100.2"), tunnel("vxlan", json!(7))), "prefix", "0.0.0.0/0", "prefixes of its own"),
    ]
}

#[tokio::test]
async fn bad_input_names_field_value_and_rule_and_changes_nothing() {
    let server = Server::start(FakeTable::default()).await;
    for bad in everything_bad() {
        let problem = server.put(bad.path, &bad.body).await.expect_err(&format!("{} {}", bad.path, bad.body));
        let said = (problem.field.as_deref(), problem.value.as_deref());
        assert_eq!(said, (Some(bad.field), Some(bad.value)), "{problem:?} for {}", bad.body);
        assert!(problem.rule.as_deref().unwrap().contains(bad.rule), "{problem:?} for {}", bad.body);
        assert_eq!(problem.status, bad.status, "{problem:?}");
        // Within the rows of an owner the same thing is refused under the row's name.
        if !bad.field.starts_with("vlan") && bad.field != "owner" {
            let mut row = bad.body.clone();
            row["vlan"] = json!(601);
            let all = json!({ "rows": [row] }).to_string();
            let answer = server.client.put::<ReplacedView>("/v1/owners/tenantd%2Fmain/vlans", all).await;
            let field = refused(answer.unwrap_err()).field.unwrap();
            assert_eq!(*field, format!("rows[0].{}", bad.field));
        }
    }
    assert!(server.stop().await.log.is_empty());
}

#[tokio::test]
async fn what_is_no_json_or_no_path_is_told() {
    let server = Server::start(FakeTable::default()).await;
    let answer = server.client.put::<RowView>("/v1/vlans/600", "{\"owner\":").await;
    let problem = refused(answer.unwrap_err());
    assert_eq!((problem.status, &*problem.kind), (400, "urn:access-server:problem:malformed"));
    assert_eq!((problem.field.as_deref(), problem.value.as_deref()), (Some("body"), Some("{\"owner\":")));
    for (path, status, field) in [("/v1/vlans/600", 404, Some("vlan")), ("/v1/tunnels", 404, None)] {
        let problem = refused(server.client.get::<Value>(path).await.unwrap_err());
        assert_eq!((problem.status, problem.field.as_deref()), (status, field));
    }
    let problem = refused(server.client.delete("/v1/status").await.unwrap_err());
    assert_eq!(problem.status, 405);
    let problem = refused(server.client.delete("/v1/vlans/600").await.unwrap_err());
    assert_eq!((problem.status, problem.field.as_deref()), (422, Some("owner")));
    assert!(server.stop().await.log.is_empty());
}

#[tokio::test]
async fn conflicts_say_with_whom() {
    let server = Server::start(FakeTable::default()).await;
    server.put("/v1/vlans/600", &body(&json!([ipip("198.51.100.2")]))).await.unwrap();
    let other = |tunnels: Value| json!({ "owner": "other", "generation": 9, "tunnels": tunnels });
    let free = json!({ "kind": "ipip", "remote": "198.51.100.9", "prefixes": ["10.0.0.0/8"] });
    let older = json!({ "owner": "tenantd/main", "generation": 2, "tunnels": [] });
    let cases = [
        (
            "/v1/vlans/601",
            other(json!([free, ipip("198.51.100.2")])),
            "tunnels[1]",
            "bound to vlan 600 of owner tenantd/main",
        ),
        ("/v1/vlans/600", other(json!([])), "owner", "vlan 600 belongs to owner tenantd/main, not to other"),
        ("/v1/vlans/600", older, "generation", "holds generation 3 of owner tenantd/main, 2 is older"),
    ];
    for (path, body, field, detail) in cases {
        let problem = server.put(path, &body).await.unwrap_err();
        assert_eq!((problem.status, problem.field.as_deref()), (409, Some(field)), "{problem:?}");
        assert!(problem.detail.contains(detail), "{problem:?}");
    }
    let problem = refused(server.client.delete("/v1/vlans/600?owner=other").await.unwrap_err());
    assert_eq!(problem.status, 409);
    let row = server.put("/v1/vlans/602", &other(json!([]))).await.unwrap();
    assert_eq!((row.mtu, row.layer), (1500, None), "without tunnels the trunk is the limit");
    assert_eq!(server.stop().await.log, ["put 600", "put 602"]);
}

#[tokio::test]
async fn an_owner_replaces_all_its_rows() {
    let server = Server::start(FakeTable::default()).await;
    let path = format!("/v1/owners/{}/vlans", encode("tenantd/main"));
    let replace = async |rows: Value| {
        let body = json!({ "rows": rows }).to_string();
        server.client.put::<ReplacedView>(&path, body).await.map_err(refused)
    };
    let row = |vlan: u16, remote: &str| json!({ "vlan": vlan, "generation": 1, "tunnels": [ipip(remote)] });
    let numbers = |vlans: &[stackmap::Vlan]| vlans.iter().map(|vlan| vlan.get()).collect::<Vec<_>>();
    replace(json!([row(600, "198.51.100.1"), row(601, "198.51.100.2"), row(602, "198.51.100.3")])).await.unwrap();
    let done = replace(json!([row(600, "198.51.100.1"), row(601, "198.51.100.3"), row(603, "198.51.100.4")])).await;
    let done = done.unwrap();
    assert_eq!(
        (numbers(&done.added), numbers(&done.changed), numbers(&done.removed)),
        (vec![603], vec![601], vec![602])
    );
    let problem = replace(json!([row(600, "198.51.100.1"), row(600, "198.51.100.2")])).await.unwrap_err();
    assert_eq!((problem.field.as_deref(), problem.value.as_deref()), (Some("rows[1].vlan"), Some("600")));
    let problem = replace(json!([row(604, "198.51.100.1"), row(605, "198.51.100.1")])).await.unwrap_err();
    assert_eq!((problem.status, problem.field.as_deref()), (409, Some("rows[1].tunnels[0]")));
    let problem = replace(json!([{ "generation": 1, "tunnels": [] }])).await.unwrap_err();
    assert_eq!(problem.field.as_deref(), Some("rows[0].vlan"));
    let rows = server.rows().await;
    assert_eq!(rows.iter().map(|row| row.vlan.get()).collect::<Vec<_>>(), [600, 601, 603]);
    server.stop().await;
}

#[tokio::test]
async fn tunnels_are_put_one_by_one() {
    let server = Server::start(FakeTable::default()).await;
    let path = |spec: &str| format!("/v1/vlans/600/tunnels/{}?owner=operator", encode(spec));
    let first = "ipip:198.51.100.2,prefix=10.1.0.0/16";
    server.client.put::<RowView>(&path(first), "").await.unwrap();
    let row: RowView = server.client.put(&path("vxlan:198.51.100.3,key=7,prefix=10.2.0.0/16"), "").await.unwrap();
    assert_eq!((row.tunnels.len(), row.mtu), (2, 1450));
    assert_eq!(serde_json::to_value(row.layer).unwrap(), json!("mixed"));
    let problem = refused(server.client.put::<RowView>(&path("sit:198.51.100.2"), "").await.unwrap_err());
    assert_eq!((problem.status, problem.field.as_deref()), (422, Some("kind")));
    server.client.delete(&path("vxlan:198.51.100.3,key=7")).await.unwrap();
    server.client.delete(&path(first)).await.unwrap();
    assert!(server.rows().await.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_row_with_a_lifetime_goes_by_itself() {
    let server = Server::start(FakeTable::default()).await;
    let mut leased = body(&json!([ipip("198.51.100.2")]));
    leased["lifetime_s"] = json!(1);
    leased["origin"] = json!("registered");
    let row = server.put("/v1/vlans/600", &leased).await.unwrap();
    assert!(row.lifetime_s.unwrap() <= 1);
    tokio::time::timeout(Duration::from_secs(30), async {
        while !server.rows().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the row is still there");
    assert_eq!(server.stop().await.log, ["put 600", "delete 600"]);
}

#[tokio::test]
async fn rows_follow_a_route() {
    let server = Server::start(FakeTable::default()).await;
    server.put("/v1/vlans/600", &body(&json!([ipip("198.51.100.2")]))).await.unwrap();
    for (new, mtu, via) in [(path("203.0.113.253", 1400), 1380, Some("203.0.113.253")), (None, 1480, None)] {
        *server.network.path.lock().unwrap() = new;
        server.owner.send(Event::NetworkChanged).await.unwrap();
        let followed = async {
            loop {
                let row: RowView = server.client.get("/v1/vlans/600").await.unwrap();
                let hop = row.tunnels[0].next_hop.as_ref().map(|hop| hop.via.to_string());
                if (row.tunnels[0].mtu, hop.as_deref()) == (mtu, via) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), followed).await.expect("the row did not follow");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_new_daemon_finds_the_rows_of_the_old_one() {
    let server = Server::start(FakeTable::default()).await;
    let row = server.put("/v1/vlans/600", &body(&json!([ipip("198.51.100.2")]))).await.unwrap();
    let rows = server.stop().await.dump().unwrap();
    let server = Server::start(FakeTable::with_rows(rows)).await;
    assert_eq!(server.rows().await, [row]);
    // And knows what is taken.
    let thief = json!({ "owner": "x", "generation": 1, "tunnels": [ipip("198.51.100.2")] });
    assert_eq!(server.put("/v1/vlans/601", &thief).await.unwrap_err().status, 409);
    assert!(server.stop().await.log.is_empty(), "nothing was written again");
}

#[tokio::test]
async fn a_failing_data_path_is_told_and_what_it_holds_is_shown() {
    let server = Server::start(FaultyTable::new(FakeTable::default(), 0)).await;
    let wanted = body(&json!([ipip("198.51.100.2")]));
    let problem = server.put("/v1/vlans/600", &wanted).await.unwrap_err();
    assert_eq!((problem.status, &*problem.kind), (500, "urn:access-server:problem:data-path"));
    assert!(problem.detail.contains("vlan 600") && problem.detail.contains("injected fault"), "{problem:?}");
    assert!(server.rows().await[0].tunnels.is_empty(), "the half-written row is shown as it is");
    server.put("/v1/vlans/600", &wanted).await.unwrap();
    assert_eq!(server.rows().await[0].tunnels.len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_fault_at_any_step_of_replace_all_is_mended_by_the_next() {
    let row = |vlan: u16, remote: &str| json!({ "vlan": vlan, "generation": 1, "tunnels": [ipip(remote)] });
    let before = json!({ "rows": [row(600, "198.51.100.1"), row(601, "198.51.100.2"), row(602, "198.51.100.3")] });
    let after = json!({ "rows": [row(600, "198.51.100.2"), row(601, "198.51.100.1"), row(603, "198.51.100.3")] });
    let path = "/v1/owners/tenantd%2Fmain/vlans";
    let mut outcomes = HashSet::new();
    for fail_at in 3..10 {
        let server = Server::start(FaultyTable::new(FakeTable::default(), fail_at)).await;
        server.client.put::<ReplacedView>(path, before.to_string()).await.unwrap();
        let first = server.client.put::<ReplacedView>(path, after.to_string()).await;
        outcomes.insert(first.is_ok());
        server.client.put::<ReplacedView>(path, after.to_string()).await.unwrap();
        let rows = server.rows().await;
        let found: Vec<_> = rows.iter().map(|row| (row.vlan.get(), row.tunnels[0].remote.to_string())).collect();
        let wanted = [(600, "198.51.100.2"), (601, "198.51.100.1"), (603, "198.51.100.3")];
        assert_eq!(found, wanted.map(|(vlan, remote)| (vlan, remote.to_owned())), "fault at {fail_at}");
        server.stop().await;
    }
    assert_eq!(outcomes.len(), 2, "some faults hit the plan, and the last lies behind it");
}
