//! The kernel's structures behind `TCA_OPTIONS` of TBF and HTB (linux/pkt_sched.h, stable since 3.13, where rates
//! of 64 bits came), which netlink-packet-route 0.34 does not know.

use netlink_packet_route::tc::{TcAttribute, TcMessage, TcOption};
use rtnetlink::packet_core::{DefaultNla, Nla};

use crate::net::nla::{attribute, attributes};

/// A discipline's name, and the option a kernel needs for it.
pub(super) const TBF: (&str, &str) = ("tbf", "CONFIG_NET_SCH_TBF");
pub(super) const HTB: (&str, &str) = ("htb", "CONFIG_NET_SCH_HTB");

const TCA_OPTIONS: u16 = 2;

const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;

const TCA_HTB_PARMS: u16 = 1;
const TCA_HTB_INIT: u16 = 2;
const TCA_HTB_RATE64: u16 = 6;
const TCA_HTB_CEIL64: u16 = 7;

/// `struct tc_ratespec`: cell_log, linklayer, overhead (16), cell_align (16), mpu (16), rate (32).
const RATESPEC: usize = 12;
/// `TC_LINKLAYER_ETHERNET`: the kernel computes what a packet costs and wants no table of it.
const ETHERNET: u8 = 1;

/// Unit of `buffer`: 64 ns (`PSCHED_SHIFT` 6 of net/pkt_sched.h).
const TICK_NS: u64 = 64;

/// Turns of classes of one rate; none of ours shares, but a value left out makes the kernel warn in its log.
const QUANTUM: u32 = 1 << 17;

pub(super) fn options(bytes: Vec<u8>) -> TcAttribute {
    TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, bytes))
}

fn numbers(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// Of the rate as far as 32 bits hold it; the attribute of 64 bits says the rest.
fn ratespec(bytes_per_second: u64) -> Vec<u8> {
    let rate = u32::try_from(bytes_per_second).unwrap_or(u32::MAX);
    [&[0, ETHERNET, 0, 0, 0, 0, 0, 0][..], &rate.to_ne_bytes()].concat()
}

/// Time to send `bytes`, in ticks.
fn ticks(bytes_per_second: u64, bytes: u32) -> u32 {
    let ns = u64::from(bytes).saturating_mul(1_000_000_000) / bytes_per_second.max(1);
    u32::try_from(ns / TICK_NS).unwrap_or(u32::MAX)
}

/// `struct tc_tbf_qopt` (rate, peak rate, limit, buffer, mtu), the rate in full, and the burst in bytes.
pub(super) fn tbf(bytes_per_second: u64, burst: u32, queue: u32) -> Vec<u8> {
    let parameters =
        [ratespec(bytes_per_second), vec![0; RATESPEC], numbers(&[queue, ticks(bytes_per_second, burst), 0])].concat();
    let mut bytes = attribute(TCA_TBF_PARMS, &parameters);
    bytes.extend(attribute(TCA_TBF_BURST, &burst.to_ne_bytes()));
    if u32::try_from(bytes_per_second).is_err() {
        bytes.extend(attribute(TCA_TBF_RATE64, &bytes_per_second.to_ne_bytes()));
    }
    bytes
}

/// `struct tc_htb_glob`: version, rate2quantum, default class (none: what has no class is not held), debug, direct packets.
pub(super) fn htb() -> Vec<u8> {
    attribute(TCA_HTB_INIT, &numbers(&[3, 10, 0, 0, 0]))
}

/// `struct tc_htb_opt` (rate, ceil, buffer, cbuffer, quantum, level, prio) with ceil = rate: nothing is borrowed.
pub(super) fn htb_class(bytes_per_second: u64, burst: u32) -> Vec<u8> {
    let buffer = ticks(bytes_per_second, burst);
    let rate = ratespec(bytes_per_second);
    let mut bytes = attribute(TCA_HTB_PARMS, &[&rate[..], &rate, &numbers(&[buffer, buffer, QUANTUM, 0, 0])].concat());
    if u32::try_from(bytes_per_second).is_err() {
        bytes.extend(attribute(TCA_HTB_RATE64, &bytes_per_second.to_ne_bytes()));
        bytes.extend(attribute(TCA_HTB_CEIL64, &bytes_per_second.to_ne_bytes()));
    }
    bytes
}

pub(super) fn is_kind(message: &TcMessage, wanted: &str) -> bool {
    message.attributes.iter().any(|a| matches!(a, TcAttribute::Kind(kind) if kind == wanted))
}

/// The rate in a TBF or an HTB class, in bytes a second: both begin their parameters with it.
pub(super) fn rate_of(message: &TcMessage) -> Option<u64> {
    let found = message.attributes.iter().find_map(|a| match a {
        TcAttribute::Options(options) => options.iter().find_map(|option| match option {
            TcOption::Other(raw) => Some(raw),
            _ => None,
        }),
        _ => None,
    })?;
    let mut bytes = vec![0; found.value_len()];
    found.emit_value(&mut bytes);
    let wide = if is_kind(message, TBF.0) { TCA_TBF_RATE64 } else { TCA_HTB_RATE64 };
    let (mut narrow, mut full) = (None, None);
    for (kind, value) in attributes(&bytes) {
        if kind == TCA_TBF_PARMS {
            narrow = value.get(8..RATESPEC).and_then(|v| v.try_into().ok()).map(u32::from_ne_bytes);
        } else if kind == wide {
            full = value.try_into().ok().map(u64::from_ne_bytes);
        }
    }
    full.or(narrow.map(u64::from))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn structures_have_the_kernels_sizes() {
        // sizeof: tc_tbf_qopt 36, tc_htb_opt 44, tc_htb_glob 20.
        assert_eq!(attributes(&tbf(1_000, 16_384, 65_536))[0].1.len(), 36);
        assert_eq!(attributes(&htb_class(1_000, 16_384))[0].1.len(), 44);
        assert_eq!(attributes(&htb())[0].1.len(), 20);
    }

    #[test]
    fn a_rate_is_read_back() {
        for rate in [8_000, 125_000_000, 50_000_000_000] {
            for (kind, bytes) in [(TBF, tbf(rate, 16_384, 65_536)), (HTB, htb_class(rate, 16_384))] {
                let mut message = TcMessage::default();
                message.attributes.push(TcAttribute::Kind(kind.0.into()));
                // As the decoder keeps options of a kind that it does not know.
                let raw = TcOption::Other(DefaultNla::new(TCA_OPTIONS, bytes));
                message.attributes.push(TcAttribute::Options(vec![raw]));
                assert_eq!(rate_of(&message), Some(rate));
            }
        }
    }
}
