//! `access-server site`: the same gateway at the customer's end, with the one row its command line describes.

use anyhow::Context;
use stackmap::{Generation, Origin, Vlan};

use crate::cli::SiteArgs;
use crate::config::Role;
use crate::gateway::RowRequest;
use crate::service::{self, Extras};

use super::run::config;

/// In whose name the row of a site stands.
const OWNER: &str = "site";

pub(super) async fn site(args: SiteArgs) -> anyhow::Result<()> {
    let announce = args.daemon.json;
    let role = Role::Site { lan: args.lan, tunnel: args.tunnel.clone(), servers: args.servers };
    let config = config(args.daemon, role);
    let row = RowRequest {
        // There is no trunk at a site; the number only names the row.
        vlan: Vlan::MIN,
        owner: OWNER.parse().context("owner of a site's row")?,
        generation: Generation::default(),
        origin: Origin::Operator,
        lifetime_s: None,
        server_mac: None,
        gateway_mac: None,
        tunnels: vec![args.tunnel],
    };
    let extras = Extras { rows: vec![row], announce, detach_on_exit: args.detach_on_exit };
    service::serve(&config, extras).await
}
