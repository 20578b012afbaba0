//! `access-server delete-tunnel --vlan N KIND:REMOTE[,...]`.

use crate::cli::TunnelArgs;
use crate::client::Client;

use super::print_json;
use super::put_tunnel::path;

pub(super) async fn delete_tunnel(args: &TunnelArgs) -> anyhow::Result<()> {
    Client::new(&args.client.place.places()).delete(&path(args)).await?;
    if args.client.json {
        return print_json(&serde_json::json!({ "deleted": args.tunnel }));
    }
    println!("{} is not bound to vlan{}", args.tunnel, args.vlan);
    Ok(())
}
