//! Operations and what undoes them: each leads from one state of a world to another and back.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use system_tests::plan::{Options, SERVER_INNER_V4, SERVER_INNER_V6};
use system_tests::world::{Running, World};

use super::ask::{Ask, ask};

/// The tenant to which everything is done.
pub(crate) const VICTIM: &str = "victim";

/// Those of which the numbers may change: operations make and remove them.
pub(crate) const CHANGING: [&str; 5] = [VICTIM, "carded", "altered", "parting", "coming"];

/// What is done.
#[derive(Clone, Debug)]
pub(crate) enum Deed {
    /// One request.
    Asked(Ask),
    /// A declarative file is applied, and what it does not name is removed: many requests of one client, who waits for a
    /// daemon that went away and goes on.
    Applied(&'static str),
    /// A backup is restored: one request, one write, and passes afterwards that nobody waits for.
    Restored(&'static str),
}

impl Deed {
    /// Begins it in a client of its own.
    pub(crate) fn begin(&self, world: &World) -> Result<Running> {
        match self {
            Self::Asked(ask) => anyhow::bail!("{ask:?} is asked here"),
            Self::Applied(file) => {
                world.spawn("server", &["tenantd", "apply", "-f", file, "--prune", "--force", "--jobs", "1"])
            }
            Self::Restored(file) => world.spawn("server", &["tenantd", "restore", file, "--prune", "--force"]),
        }
    }

    /// Does it, and it must be granted.
    pub(crate) fn granted(&self, world: &World, socket: &Path) -> Result<()> {
        match self {
            Self::Asked(ask) => ask.granted(socket).map(drop),
            _ => self.succeeds(self.begin(world)?),
        }
    }

    /// Waits for a client that must reach its end.
    pub(crate) fn succeeds(&self, client: Running) -> Result<()> {
        let output = client.wait(Duration::from_secs(180))?;
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        ensure!(output.status.success(), "{self:?}: {} {}", said[0], said[1]);
        Ok(())
    }

    /// Whether its client goes on by itself when the daemon is back.
    pub(crate) fn goes_on(&self) -> bool {
        matches!(self, Self::Applied(_))
    }
}

/// An operation and the one that takes it back.
pub(crate) struct Pair {
    /// For people.
    pub(crate) name: &'static str,
    /// What is done before, undisturbed.
    pub(crate) before: Vec<Ask>,
    /// The operation.
    pub(crate) there: Deed,
    /// Takes it back.
    pub(crate) back: Deed,
    /// What is done afterwards, undisturbed.
    pub(crate) after: Vec<Ask>,
}

impl Pair {
    fn new(name: &'static str, there: Ask, back: Ask) -> Self {
        Self::of(name, Deed::Asked(there), Deed::Asked(back))
    }

    fn of(name: &'static str, there: Deed, back: Deed) -> Self {
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

/// One tenant is added, one is changed, one is removed; the others are the same. As a declarative file that says all, in
/// which the first takes the last one's VLAN, and as a backup. Done while the daemon runs undisturbed.
pub(crate) fn many_at_once(world: &World, socket: &Path) -> Result<Vec<Pair>> {
    let sh = |script: &str| world.ok("server", &["sh", "-ec", script]);
    let add = |name: &str, vlan: u16| {
        let body = json!({"name": name, "vlan": vlan, "addresses": ["192.168.3.1/24"]});
        ask("POST", "/v1/tenants").with(body).granted(socket)
    };
    let removed = |name: &str| ask("DELETE", format!("/v1/tenants/{name}?force=true")).granted(socket);
    add("altered", 710)?;
    ask("POST", "/v1/tenants/altered/services")
        .with(json!({"name": "nap", "command": ["/bin/sleep", "7000000"]}))
        .granted(socket)?;
    add("parting", 711)?;
    sh("tenantd export -o /run/lab/home.toml; tenantd backup /run/lab/home.db")?;
    // A restore gives nobody what a tenant has that it removes: numbers of its own.
    add("coming", 712)?;
    removed("parting")?;
    ask("PUT", "/v1/tenants/altered/addresses").with(json!(["192.168.4.1/24"])).granted(socket)?;
    ask("PATCH", "/v1/tenants/altered/limits").with(json!({"processes": 300})).granted(socket)?;
    sh("tenantd backup /run/lab/away.db; tenantd export | sed s/712/711/ >/run/lab/away.toml")?;
    Deed::Restored("/run/lab/home.db").granted(world, socket)?;
    let end = |name: &str| ask("DELETE", format!("/v1/tenants/{name}?force=true"));
    let apply = Pair::of("apply", Deed::Applied("/run/lab/away.toml"), Deed::Applied("/run/lab/home.toml"));
    let restore = Pair::of("restore", Deed::Restored("/run/lab/away.db"), Deed::Restored("/run/lab/home.db"));
    Ok(vec![apply, restore.after(end("altered")).after(end("parting"))])
}
