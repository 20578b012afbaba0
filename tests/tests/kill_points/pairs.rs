//! Operations and what undoes them: each leads from one state of a world to another and back.

use anyhow::Result;
use serde_json::json;
use system_tests::plan::{Options, SERVER_INNER_V4, SERVER_INNER_V6};
use system_tests::world::World;

use super::ask::{Ask, ask};

/// The tenant to which everything is done.
pub(crate) const VICTIM: &str = "victim";

/// An operation and the one that takes it back.
pub(crate) struct Pair {
    /// For people.
    pub(crate) name: &'static str,
    /// What is done before, undisturbed.
    pub(crate) before: Vec<Ask>,
    /// The operation.
    pub(crate) there: Ask,
    /// Takes it back.
    pub(crate) back: Ask,
    /// What is done afterwards, undisturbed.
    pub(crate) after: Vec<Ask>,
}

impl Pair {
    fn new(name: &'static str, there: Ask, back: Ask) -> Self {
        Self { name, before: Vec::new(), there, back, after: Vec::new() }
    }

    fn before(mut self, before: Ask) -> Self {
        self.before.push(before);
        self
    }

    fn after(mut self, after: Ask) -> Self {
        self.after.push(after);
        self
    }
}

fn path(rest: &str) -> String {
    format!("/v1/tenants/{VICTIM}{rest}")
}

/// All of them. The first and the last make and remove the victim; between them it is there.
pub(crate) fn pairs(world: &World) -> Result<Vec<Pair>> {
    let options: &Options = world.options();
    let site = options.site(2);
    let (v4, v6) = (format!("{SERVER_INNER_V4}/24"), format!("{SERVER_INNER_V6}/64"));
    let tunnel = site.server_tunnel(options.outer);
    let add = ask("POST", "/v1/tenants").with(json!({
        "name": VICTIM, "vlan": 700, "addresses": [v4, v6], "tunnels": [tunnel],
        "limits": {"memory": "256M", "rate_in": "80M", "rate_out": "80M", "processes": 500, "connections": 1000},
        "dns": ["192.168.1.53"],
    }));
    let remove = ask("DELETE", path("?force=true"));
    let addresses = |list: &[&str]| ask("PUT", path("/addresses")).with(json!(list));
    let more = format!("{tunnel},prefix=10.77.0.0/16").replace("198.51.100.10", "198.51.100.14");
    let encoded = more.replace(':', "%3A").replace('/', "%2F").replace(',', "%2C").replace('=', "%3D");
    let limits = |memory: &str, rate: &str, processes: u32| {
        ask("PATCH", path("/limits"))
            .with(json!({"memory": memory, "rate_in": rate, "rate_out": rate, "processes": processes}))
    };
    let filter = |default: &str| {
        let rule = json!({"action": "accept", "proto": "tcp", "port": "80"});
        ask("PUT", path("/filter"))
            .with(json!({"default": default, "rules": if default == "drop" { vec![rule] } else { vec![] }}))
    };
    let service =
        |name: &str| ask("POST", path("/services")).with(json!({"name": name, "command": ["/bin/sleep", "7000000"]}));
    let no_service = |name: &str| ask("DELETE", path(&format!("/services/{name}")));
    let share = ask("POST", "/v1/shares")
        .with(json!({"directory": "/srv/shared", "tenants": [{"name": VICTIM}], "create": true}));
    let unshare = ask("DELETE", path("/shares/%2Fsrv%2Fshared"));
    let dns = |server: &str| ask("PUT", path("/dns")).with(json!([server]));
    let restart = || ask("POST", path("/restart"));
    let card =
        ask("POST", "/v1/tenants").with(json!({"name": "carded", "device": "card0", "addresses": ["10.9.0.1/24"]}));
    let no_card = ask("DELETE", "/v1/tenants/carded?force=true");
    Ok(vec![
        Pair::new("add", add.clone(), remove.clone()),
        Pair::new("addresses", addresses(&[&v4, "192.168.7.1/24"]), addresses(&[&v4, &v6])).before(add),
        Pair::new(
            "tunnel",
            ask("POST", path("/tunnels")).with(json!(more)),
            ask("DELETE", path(&format!("/tunnels/{encoded}"))),
        ),
        Pair::new("limits", limits("300M", "60M", 300), limits("256M", "80M", 500)),
        Pair::new("filter", filter("drop"), filter("accept")),
        Pair::new("dns", dns("192.168.1.54"), dns("192.168.1.53")),
        Pair::new("share", share, unshare),
        Pair::new("service", service("nap"), no_service("nap")),
        Pair::new("restart", restart(), restart()).before(service("rest")).after(no_service("rest")).after(remove),
        Pair::new("device", card, no_card),
    ])
}
