//! `GET /v1/vlans/{vlan}/look/{address}`: what the maps say of one address of a VLAN, and what was counted there. Not from
//! the rows that the daemon keeps: it is asked where packets go, not where they should.

use std::net::IpAddr;

use axum::Json;
use axum::extract::{Path, State};
use stackmap::Invalid;

use super::view::LookView;
use super::{Api, mismatch};
use crate::daemon::{Command, Reply};
use crate::problem::Problem;

pub(super) async fn show(
    State(api): State<Api>,
    Path((vlan, address)): Path<(String, String)>,
) -> Result<Json<LookView>, Problem> {
    let address: IpAddr =
        address.parse().map_err(|_| Invalid::new("address", &address, "must be an IPv4 or IPv6 address"))?;
    match api.ask(Command::Look(vlan.parse()?, address)).await? {
        Reply::Look(seen) => Ok(Json(LookView::of(&seen))),
        _ => Err(mismatch()),
    }
}
