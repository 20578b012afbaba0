//! `access-server counters`.

use crate::cli::ClientArgs;
use crate::client::Client;
use crate::table::VlanCounters;

use super::print_json;

pub(super) async fn counters(args: &ClientArgs) -> anyhow::Result<()> {
    let counters: Vec<VlanCounters> = Client::new(&args.place.places()).get("/v1/counters").await?;
    if args.json {
        return print_json(&counters);
    }
    println!("{:<8} {:>12} {:>16} {:>12} {:>16}  drops", "vlan", "rx packets", "rx bytes", "tx packets", "tx bytes");
    for row in &counters {
        let drops: Vec<String> = row.drops.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
        let vlan = if row.vlan == 0 { "none".to_owned() } else { row.vlan.to_string() };
        let (rx, tx) = ((row.rx_packets, row.rx_bytes), (row.tx_packets, row.tx_bytes));
        println!("{vlan:<8} {:>12} {:>16} {:>12} {:>16}  {}", rx.0, rx.1, tx.0, tx.1, drops.join(", "));
    }
    Ok(())
}
