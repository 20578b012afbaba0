//! `access-server put-tunnel --vlan N KIND:REMOTE[,...]`.

use crate::api::view::RowView;
use crate::cli::TunnelArgs;
use crate::client::{Client, encode};

use super::print_json;
use super::show::print_row;

pub(super) async fn put_tunnel(args: &TunnelArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.client.place.places());
    let row: RowView = client.put(&path(args), Vec::new()).await?;
    if args.client.json {
        return print_json(&row);
    }
    print_row(&row);
    Ok(())
}

/// The resource of the tunnel the command line names.
pub(super) fn path(args: &TunnelArgs) -> String {
    let (spec, owner) = (encode(&args.tunnel.to_string()), encode(args.owner.as_str()));
    format!("/v1/vlans/{}/tunnels/{spec}?owner={owner}", args.vlan)
}
