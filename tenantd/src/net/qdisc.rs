//! Bandwidth of a port, held by the kernel's own queueing disciplines in the patch room.
//!
//! *Towards* the tenant: a token bucket (TBF) on the port device, where every frame arrives by a plain redirect. *From*
//! the tenant: a class of one HTB on the trunk's end in the patch room; the port's program names the class in
//! `skb->priority` ([`class_handle`], `vlan_rs::PortConfig::class`) and sends the frame through the trunk's queue. Ports
//! without a limit have class 0 and pass by the queue of a veth trunk; of a trunk that is a network card they share the
//! HTB's direct queue, so the HTB is there only as long as it has a class.
//!
//! Bits are counted as the kernel counts them: Ethernet frames without the tag, of a super-packet those it will be cut
//! into. What is there is always read from the kernel ([`towards`], [`from`]). Clearing the absent succeeds.
//!
//! Order, so that no frame is lost or unlimited: [`limit_from`], then the port's class; and the other way round to
//! remove: class 0, then [`clear_from`].

mod wire;

use std::collections::BTreeMap;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcHeader, TcMessage};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_ECHO, NLM_F_REPLACE};

use super::link::NetlinkError;
use super::rtnl::Netlink;

/// Major number of our disciplines' handles: what has another one is not ours. Below 0x8000, where the kernel's begin.
const MAJOR: u16 = 0x7e4a;

/// Bandwidth in bits a second, in steps of 8: the kernel counts bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate {
    bytes_per_second: u64,
}

/// Not a bandwidth that can be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bits_per_second} bit/s refused: at least {} and at most {} can be held", Rate::MIN, Rate::MAX)]
pub struct RateError {
    /// What was asked for.
    pub bits_per_second: u64,
}

impl Rate {
    /// The least, in bits a second: a full packet in a quarter of a second.
    pub const MIN: u64 = 64_000;
    /// The most, in bits a second.
    pub const MAX: u64 = 400_000_000_000;

    /// Rounded down to whole bytes.
    ///
    /// # Errors
    /// Below [`Rate::MIN`] or above [`Rate::MAX`].
    pub fn from_bits_per_second(bits_per_second: u64) -> Result<Self, RateError> {
        if !(Self::MIN..=Self::MAX).contains(&bits_per_second) {
            return Err(RateError { bits_per_second });
        }
        Ok(Self { bytes_per_second: bits_per_second / 8 })
    }

    /// Bits a second, a multiple of 8.
    pub fn bits_per_second(self) -> u64 {
        self.bytes_per_second * 8
    }

    /// Bytes of `milliseconds` at this rate, at least `least`.
    fn bytes_in(self, milliseconds: u64, least: u32) -> u32 {
        u32::try_from(self.bytes_per_second * milliseconds / 1000).unwrap_or(u32::MAX).clamp(least, 1 << 28)
    }

    /// Bytes at once: what timers that come late by some milliseconds must not lose, and a longest packet (a jumbo frame;
    /// longer super-packets are cut).
    fn burst(self) -> u32 {
        self.bytes_in(5, 16 << 10)
    }

    /// Bytes that wait: 50 ms, and room for a few packets of the largest size that waits there.
    fn queue(self) -> u32 {
        self.bytes_in(50, 48 << 10)
    }
}

/// A limit could not be read, set or removed.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// The kernel lacks the discipline. Without it there is no limit: the tenant's traffic is not held.
    #[error("this kernel has no queueing discipline {kind:?} ({option}): bandwidth cannot be limited")]
    NoDiscipline {
        /// Its name.
        kind: &'static str,
        /// The kernel's option.
        option: &'static str,
        /// The kernel's word.
        #[source]
        source: NetlinkError,
    },
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// What the port's program writes into `skb->priority` for frames of this class (`vlan_rs::PortConfig::class`).
pub fn class_handle(class: u16) -> u32 {
    u32::from(handle(class))
}

fn handle(minor: u16) -> TcHandle {
    TcHandle { major: MAJOR, minor }
}

fn message(ifindex: u32, parent: TcHandle, handle: TcHandle) -> TcMessage {
    // Device indices are positive numbers of 31 bits (kernel: int).
    let header = TcHeader { index: ifindex as i32, parent, handle, ..TcHeader::default() };
    TcMessage::from_parts(header, Vec::new())
}

fn with(mut message: TcMessage, kind: &str, options: Vec<u8>) -> TcMessage {
    message.attributes.push(TcAttribute::Kind(kind.to_owned()));
    message.attributes.push(wire::options(options));
    message
}

/// One request; what the kernel answered beside its acknowledgement.
fn ask(
    netlink: &Netlink,
    request: RouteNetlinkMessage,
    flags: u16,
    verb: &'static str,
    ifindex: u32,
) -> Result<Vec<TcMessage>, NetlinkError> {
    let answers = netlink.ask(request, flags);
    let answers = answers.map_err(|source| NetlinkError { verb, object: format!("of device {ifindex}"), source })?;
    let found = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewQueueDiscipline(message) | RouteNetlinkMessage::NewTrafficClass(message) => {
            Some(message)
        }
        _ => None,
    });
    Ok(found.collect())
}

/// A set of something whose kind the kernel may not have.
fn set(
    netlink: &Netlink,
    request: RouteNetlinkMessage,
    (kind, option): (&'static str, &'static str),
    ifindex: u32,
) -> Result<(), LimitError> {
    match ask(netlink, request, NLM_F_CREATE | NLM_F_REPLACE, "set the bandwidth", ifindex) {
        Ok(_) => Ok(()),
        Err(source) if source.errno() == Some(libc::ENOENT) => Err(LimitError::NoDiscipline { kind, option, source }),
        Err(source) => Err(source.into()),
    }
}

/// The answer of a read or a removal, `None` where there is nothing: no such object, no such discipline at the root (the
/// kernel's own is no object; it says `EINVAL` to a request for its details), no such device.
fn unless_absent<T>(answer: Result<T, NetlinkError>) -> Result<Option<T>, NetlinkError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(e) if matches!(e.errno(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// What the kernel has under one name. ECHO, because a kernel before 6.2 or so answers such a question to listeners only.
fn look(netlink: &Netlink, question: RouteNetlinkMessage, ifindex: u32) -> Result<Option<TcMessage>, NetlinkError> {
    let answer = ask(netlink, question, NLM_F_ECHO, "read the bandwidth", ifindex);
    Ok(unless_absent(answer)?.and_then(|found| found.into_iter().next()))
}

/// Our discipline at the root of a device, of this kind.
fn root(netlink: &Netlink, ifindex: u32, kind: &str) -> Result<Option<TcMessage>, NetlinkError> {
    let question = message(ifindex, TcHandle::ROOT, TcHandle::UNSPEC);
    let found = look(netlink, RouteNetlinkMessage::GetQueueDiscipline(question), ifindex)?;
    Ok(found.filter(|there| there.header.handle == handle(0) && wire::is_kind(there, kind)))
}

fn remove_root(netlink: &Netlink, ifindex: u32) -> Result<(), NetlinkError> {
    let request = RouteNetlinkMessage::DelQueueDiscipline(message(ifindex, TcHandle::ROOT, handle(0)));
    unless_absent(ask(netlink, request, 0, "remove the bandwidth", ifindex)).map(drop)
}

/// Hold what goes towards a tenant at this rate, on its port's device in the patch room. A limit that is there is changed
/// in place: what waits, waits on.
///
/// # Errors
/// The kernel refused, has no TBF, or there is no such device.
pub fn limit_towards(netlink: &Netlink, port: u32, rate: Rate) -> Result<(), LimitError> {
    // A TBF cuts super-packets that are longer than its burst, so its queue may be short.
    let options = wire::tbf(rate.bytes_per_second, rate.burst(), rate.queue());
    let request = with(message(port, TcHandle::ROOT, handle(0)), wire::TBF.0, options);
    set(netlink, RouteNetlinkMessage::NewQueueDiscipline(request), wire::TBF, port)
}

/// Let everything pass towards a tenant. What waits is lost.
///
/// # Errors
/// The kernel refused.
pub fn clear_towards(netlink: &Netlink, port: u32) -> Result<(), LimitError> {
    if root(netlink, port, wire::TBF.0)?.is_some() {
        remove_root(netlink, port)?;
    }
    Ok(())
}

/// The rate at which a port's device holds what goes towards its tenant; `None`: not limited.
///
/// # Errors
/// The kernel refused.
pub fn towards(netlink: &Netlink, port: u32) -> Result<Option<Rate>, LimitError> {
    let found = root(netlink, port, wire::TBF.0)?;
    Ok(found.and_then(|there| wire::rate_of(&there)).map(|bytes_per_second| Rate { bytes_per_second }))
}

/// Hold what leaves through `class` (not 0; the VLAN) of the trunk's end in the patch room at this rate. A limit that is
/// there is changed in place.
///
/// # Errors
/// The kernel refused, has no HTB, or there is no such device.
pub fn limit_from(netlink: &Netlink, trunk: u32, class: u16, rate: Rate) -> Result<(), LimitError> {
    if root(netlink, trunk, wire::HTB.0)?.is_none() {
        let request = with(message(trunk, TcHandle::ROOT, handle(0)), wire::HTB.0, wire::htb());
        set(netlink, RouteNetlinkMessage::NewQueueDiscipline(request), wire::HTB, trunk)?;
    }
    let options = wire::htb_class(rate.bytes_per_second, rate.burst());
    let request = with(message(trunk, handle(0), handle(class)), wire::HTB.0, options);
    set(netlink, RouteNetlinkMessage::NewTrafficClass(request), wire::HTB, trunk)?;
    // An HTB cuts nothing, and the queue it makes itself counts packets of any size: 64 KB are half a second at 1 Mbit/s.
    // So its queue is a TBF that is never short of tokens, for what it does beside: cut, and count bytes.
    let queue = wire::tbf(u64::from(u32::MAX) * 256, rate.burst(), rate.queue());
    let request = with(message(trunk, handle(class), TcHandle::UNSPEC), wire::TBF.0, queue);
    set(netlink, RouteNetlinkMessage::NewQueueDiscipline(request), wire::TBF, trunk)
}

/// Remove a class from the trunk, and the HTB with the last one. No port may name the class any more.
///
/// # Errors
/// The kernel refused.
pub fn clear_from(netlink: &Netlink, trunk: u32, class: u16) -> Result<(), LimitError> {
    let request = RouteNetlinkMessage::DelTrafficClass(message(trunk, TcHandle::UNSPEC, handle(class)));
    let was_there = unless_absent(ask(netlink, request, 0, "remove the bandwidth", trunk))?.is_some();
    // Who had none is spared the list of all the others'.
    if was_there { clear_empty(netlink, trunk) } else { Ok(()) }
}

/// Remove the trunk's HTB if it has no class: also what a daemon left that was killed between the last class and this.
///
/// # Errors
/// The kernel refused.
pub fn clear_empty(netlink: &Netlink, trunk: u32) -> Result<(), LimitError> {
    if root(netlink, trunk, wire::HTB.0)?.is_some() && classes(netlink, trunk)?.is_empty() {
        remove_root(netlink, trunk)?;
    }
    Ok(())
}

/// The rate of one class of the trunk; `None`: there is no such class, or it was left half made.
///
/// # Errors
/// The kernel refused.
pub fn from(netlink: &Netlink, trunk: u32, class: u16) -> Result<Option<Rate>, LimitError> {
    let question = message(trunk, TcHandle::UNSPEC, handle(class));
    let found = look(netlink, RouteNetlinkMessage::GetTrafficClass(question), trunk)?;
    Ok(found.and_then(|there| class_rate(&there)))
}

/// The rates of all classes of the trunk, half-made ones left out.
///
/// # Errors
/// The kernel refused.
pub fn all_from(netlink: &Netlink, trunk: u32) -> Result<BTreeMap<u16, Rate>, LimitError> {
    let found = classes(netlink, trunk)?;
    Ok(found.iter().filter_map(|there| Some((there.header.handle.minor, class_rate(there)?))).collect())
}

fn classes(netlink: &Netlink, trunk: u32) -> Result<Vec<TcMessage>, NetlinkError> {
    let question = message(trunk, TcHandle::UNSPEC, TcHandle::UNSPEC);
    let request = RouteNetlinkMessage::GetTrafficClass(question);
    let answer = ask(netlink, request, NLM_F_DUMP, "read the bandwidth", trunk);
    let mut found = unless_absent(answer)?.unwrap_or_default();
    found.retain(|there| there.header.handle.major == MAJOR && wire::is_kind(there, wire::HTB.0));
    Ok(found)
}

fn class_rate(there: &TcMessage) -> Option<Rate> {
    // The number of the class's queue; 0 is the one that the HTB made itself: we were killed before ours.
    (there.header.info != 0).then_some(())?;
    wire::rate_of(there).map(|bytes_per_second| Rate { bytes_per_second })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rates_are_whole_bytes_within_bounds() {
        assert_eq!(Rate::from_bits_per_second(1_000_007).unwrap().bits_per_second(), 1_000_000);
        for refused in [0, Rate::MIN - 1, Rate::MAX + 1] {
            let error = Rate::from_bits_per_second(refused).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{refused} bit/s refused")), "{error}");
        }
        let (least, most) =
            (Rate::from_bits_per_second(Rate::MIN).unwrap(), Rate::from_bits_per_second(Rate::MAX).unwrap());
        assert_eq!((least.burst(), least.queue()), (16 << 10, 48 << 10));
        assert_eq!((most.burst(), most.queue()), (250_000_000, 1 << 28));
    }

    #[test]
    fn a_class_is_named_as_the_kernel_names_it() {
        assert_eq!(class_handle(600), 0x7e4a_0258);
    }
}
