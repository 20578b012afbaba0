//! `access-server show VLAN`.

use crate::api::view::RowView;
use crate::cli::ShowArgs;
use crate::client::Client;

use super::list::identity;
use super::print_json;

pub(super) async fn show(args: &ShowArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.client.place.places());
    let row: RowView = client.get(&format!("/v1/vlans/{}", args.vlan)).await?;
    if args.client.json {
        return print_json(&row);
    }
    print_row(&row);
    Ok(())
}

/// One row, a line a site.
pub(super) fn print_row(row: &RowView) {
    println!(
        "vlan{} owner {} generation {} origin {} mtu {}",
        row.vlan, row.owner, row.generation, row.origin, row.mtu
    );
    if let Some(seconds) = row.lifetime_s {
        println!("  ends in {seconds} s");
    }
    println!("  server {} gateway {}", row.server_mac, row.gateway_mac);
    for tunnel in &row.tunnels {
        let prefixes: Vec<String> = tunnel.prefixes.iter().map(ToString::to_string).collect();
        let hop = match &tunnel.next_hop {
            Some(hop) => format!("via {} dev {}", hop.via, hop.device),
            None => "NO ROUTE".to_owned(),
        };
        let learnt = tunnel.path_mtu.map_or_else(String::new, |mtu| format!(" path-mtu {mtu}"));
        println!("  {} mtu {}{learnt} {hop} for {}", identity(tunnel), tunnel.mtu, prefixes.join(", "));
    }
}
