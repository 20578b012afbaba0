//! `access-server list`.

use stackmap::TunnelId;

use crate::api::view::{RowView, TunnelView};
use crate::cli::ClientArgs;
use crate::client::Client;

use super::print_json;

pub(super) async fn list(args: &ClientArgs) -> anyhow::Result<()> {
    let rows: Vec<RowView> = Client::new(&args.place.places()).get("/v1/vlans").await?;
    if args.json {
        return print_json(&rows);
    }
    for row in &rows {
        for tunnel in &row.tunnels {
            println!("{} <-> vlan{}", identity(tunnel), row.vlan);
        }
        if row.tunnels.is_empty() {
            println!("(no tunnel) <-> vlan{}", row.vlan);
        }
    }
    Ok(())
}

/// The tunnel as rows are written everywhere.
pub(super) fn identity(tunnel: &TunnelView) -> String {
    let id = TunnelId::new(tunnel.kind, tunnel.remote, tunnel.local, tunnel.key);
    id.map_or_else(|invalid| invalid.to_string(), |id| id.to_string())
}
