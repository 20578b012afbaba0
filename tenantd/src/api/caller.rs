//! The way to the owner for one caller: every handler that changes something takes this and not the bare handle, so that
//! the audit knows who asked.

use std::convert::Infallible;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;

use super::socket::Peer;
use crate::control::{Handle, Who};

/// The handle of the caller of this request.
pub(super) struct Caller(pub(super) Handle);

impl FromRequestParts<Handle> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, handle: &Handle) -> Result<Self, Infallible> {
        let peer = parts.extensions.get::<ConnectInfo<Peer>>();
        Ok(Self(peer.map_or_else(|| handle.clone(), |ConnectInfo(peer)| handle.by(who(peer, handle)))))
    }
}

/// What the audit says of a peer.
pub(super) fn who(peer: &Peer, handle: &Handle) -> Who {
    match handle.tenant() {
        Some(tenant) => Who::inside(tenant.clone(), peer.uid, peer.gid, peer.pid),
        None => Who::operator(peer.uid, peer.gid, peer.pid),
    }
}
