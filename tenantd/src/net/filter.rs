//! The packet filter of a tenant's stack, by nf_tables in that stack: one table `inet tenantd` with one chain, nothing
//! when everything passes. Other tables of the stack are not ours and are not touched.
//!
//! A filter is replaced in one transaction of the kernel: every packet meets the old rules or the new ones. The chain's own
//! policy is always `accept`, because the kernel changes a policy a moment before or after the rules; what no rule fits is
//! decided by the last rule. What is there is read from the kernel: every rule carries as its comment what it is, so that a
//! rule that was taken out, put in or replaced by somebody shows (and `nft list ruleset` can be read).
//!
//! Everything is answered inside the call that asks (kernel: `nfnetlink_rcv`), so nothing here waits.

mod wire;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};

use crate::model::Filter;
use wire::{Answer, Entry, Message};

/// Bytes that one message may have: the most rules, twice each, with room.
const SEND_BUFFER: usize = 1 << 20;
/// The longest answer; the kernel fills at most 32 KiB (`netlink_dump`).
const ANSWER_MAX: usize = 1 << 16;
/// Answers to one question, at most.
const ANSWERS: usize = 4096;

/// What of a filter could not be done.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The kernel lacks something; nothing was changed.
    #[error("this kernel lacks {feature} ({option}): the packet filter of a stack cannot be set")]
    NoFeature {
        /// What.
        feature: &'static str,
        /// The kernel's option.
        option: &'static str,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// The kernel refused; nothing was changed.
    #[error("the kernel refuses {part} of the packet filter")]
    Refused {
        /// Which part, such as `the rule accept,tcp/80`.
        part: String,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// The kernel could not be asked.
    #[error("cannot {step} for the packet filter")]
    Socket {
        /// What was tried.
        step: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// A way to the packet filters of one network namespace.
#[derive(Debug)]
pub struct Netfilter {
    socket: OwnedFd,
    next: AtomicU32,
}

/// Our table as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Table and chain are as we make them: nothing beside them, not asleep.
    plain: bool,
    rules: Vec<Kept>,
}

/// A rule as the kernel holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    /// Its comment; empty when it is not ours.
    mark: String,
    /// Packets that it fitted.
    packets: u64,
}

impl Found {
    /// True when nothing has to be done.
    #[must_use]
    pub fn satisfies(&self, filter: &Filter) -> bool {
        let wanted = wire::entries(filter);
        self.plain && self.rules.iter().map(|rule| &rule.mark).eq(wanted.iter().map(|entry| &entry.mark))
    }

    /// The filter that these rules are; none when they are not, or not all, as we make them.
    #[must_use]
    pub fn filter(&self) -> Option<Filter> {
        let filter = wire::filter(self.rules.iter().map(|rule| rule.mark.as_str()))?;
        self.satisfies(&filter).then_some(filter)
    }

    /// Packets dropped since the filter was set: `filter_N` for rule N (from 1), `filter_default` for the default.
    #[must_use]
    pub fn drops(&self, filter: &Filter) -> BTreeMap<String, u64> {
        let mut drops = BTreeMap::new();
        if self.satisfies(filter) {
            for (entry, kept) in wire::entries(filter).iter().zip(&self.rules) {
                if let Some(name) = entry.drop_name() {
                    *drops.entry(name).or_default() += kept.packets;
                }
            }
        }
        drops
    }
}

/// True when `found` is what `filter` asks for; nothing there is right for a filter that lets everything in.
#[must_use]
pub fn satisfies(found: Option<&Found>, filter: &Filter) -> bool {
    if filter.is_open() { found.is_none() } else { found.is_some_and(|found| found.satisfies(filter)) }
}

impl Netfilter {
    /// Opens it for the calling thread's network namespace.
    ///
    /// # Errors
    /// [`FilterError::NoFeature`] where the kernel has no netfilter that is spoken to by netlink.
    pub fn open() -> Result<Self, FilterError> {
        let family = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, family, SockProtocol::NetlinkNetFilter);
        let socket = socket.map_err(|errno| match errno {
            Errno::EPROTONOSUPPORT => no_tables(errno.into()),
            _ => FilterError::Socket { step: "open a socket", source: errno.into() },
        })?;
        let size = setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER);
        size.map_err(|e| FilterError::Socket { step: "set the size of a socket", source: e.into() })?;
        Ok(Self { socket, next: AtomicU32::new(1) })
    }

    /// What is there of ours.
    ///
    /// # Errors
    /// The kernel has no nf_tables, or refused.
    pub fn read(&self) -> Result<Option<Found>, FilterError> {
        let table = match self.one(wire::get_table(), "the table") {
            Ok(found) => found,
            Err(FilterError::Refused { source, .. }) if is(&source, libc::ENOENT) => return Ok(None),
            // No subsystem of this number (`nfnetlink_rcv_msg`).
            Err(FilterError::Refused { source, .. }) if is(&source, libc::EINVAL) || is(&source, libc::EOPNOTSUPP) => {
                return Err(no_tables(source));
            }
            Err(other) => return Err(other),
        };
        let chain = match self.one(wire::get_chain(), "the chain") {
            Ok(found) => found,
            Err(FilterError::Refused { source, .. }) if is(&source, libc::ENOENT) => return Ok(Some(Found::default())),
            Err(other) => return Err(other),
        };
        let count = wire::plain_table(&table).then(|| wire::plain_chain(&chain)).flatten();
        // What is not as we make it is not read on: a tenant that owns its stack may have put anything there.
        let Some(count) = count.filter(|count| *count <= wire::MOST_ENTRIES) else { return Ok(Some(Found::default())) };
        let (answers, whole) = self.ask(&[wire::get_rules()], "the rules")?;
        let rules: Vec<_> = answers.iter().map(|rule| wire::kept(rule)).collect();
        Ok(Some(Found { plain: whole && rules.len() == count, rules }))
    }

    /// Makes the filter what is asked for, at once and whole, whatever was there.
    ///
    /// # Errors
    /// The kernel lacks something or refused: then nothing has changed.
    pub fn set(&self, filter: &Filter) -> Result<(), FilterError> {
        let entries = wire::entries(filter);
        let parts = if filter.is_open() {
            wire::removal()
        } else {
            // Its rules are replaced; one that is not plain, or has another chain of this name, goes.
            let fresh = self.read()?.is_some_and(|found| !found.plain);
            wire::replacement(&entries, fresh)
        };
        self.ask(&parts, "the filter").map(drop)
    }

    /// Names of all tables, ours among them.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn tables(&self) -> Result<Vec<String>, FilterError> {
        let (answers, _) = self.ask(&[wire::get_tables()], "the tables")?;
        Ok(answers.iter().filter_map(|table| wire::table_name(table)).collect())
    }

    fn one(&self, question: Message, part: &'static str) -> Result<Vec<u8>, FilterError> {
        let (answers, _) = self.ask(&[question], part)?;
        let none = || FilterError::Socket { step: "read an answer", source: io::ErrorKind::InvalidData.into() };
        answers.into_iter().next().ok_or_else(none)
    }

    /// Sends messages in one piece and reads until the last is answered: what came, and whether it is all of one state.
    fn ask(&self, messages: &[Message], part: &'static str) -> Result<(Vec<Vec<u8>>, bool), FilterError> {
        let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        let last = first.wrapping_add(count - 1);
        let bytes = wire::numbered(messages, first);
        let failed = |step| move |errno: Errno| FilterError::Socket { step, source: errno.into() };
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty()).map_err(failed("ask"))?;
        let (mut found, mut whole) = (Vec::new(), true);
        let mut buffer = vec![0; ANSWER_MAX];
        for _ in 0..ANSWERS {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC);
            let length = length.map_err(failed("read an answer"))?;
            let Some(bytes) = buffer.get(..length) else {
                return Err(failed("read an answer")(Errno::EMSGSIZE));
            };
            for (number, interrupted, answer) in wire::answers(bytes) {
                // What a question before left unread.
                let Some(message) = messages.get(number.wrapping_sub(first) as usize) else { continue };
                whole &= !interrupted;
                match answer {
                    Answer::Data(data) => found.push(data),
                    Answer::Done(0) if number == last => return Ok((found, whole)),
                    Answer::Done(0) => {}
                    Answer::Done(errno) => return Err(refused(message, part, io::Error::from_raw_os_error(errno))),
                }
            }
        }
        Err(failed("read an answer")(Errno::EOVERFLOW))
    }
}

fn is(error: &io::Error, errno: i32) -> bool {
    error.raw_os_error() == Some(errno)
}

fn no_tables(source: io::Error) -> FilterError {
    FilterError::NoFeature { feature: "nf_tables", option: "CONFIG_NF_TABLES", source }
}

/// Which part of a transaction the kernel does not take, and what that says of the kernel.
fn refused(message: &Message, part: &'static str, source: io::Error) -> FilterError {
    let lacks = is(&source, libc::EOPNOTSUPP) || is(&source, libc::EAFNOSUPPORT) || is(&source, libc::ENOENT);
    let (feature, option) = match &message.part {
        wire::Part::Question => return FilterError::Refused { part: part.to_owned(), source },
        wire::Part::Batch if lacks || is(&source, libc::EINVAL) => return no_tables(source),
        wire::Part::Table if lacks => ("nf_tables for IPv4 and IPv6 in one", "CONFIG_NF_TABLES_INET"),
        wire::Part::Rule(Entry { tracks: true, .. }) if lacks => (
            "the tracking of connections in nf_tables, which the default drop needs",
            "CONFIG_NF_CONNTRACK, CONFIG_NFT_CT",
        ),
        wire::Part::Rule(entry) => {
            let part = format!("the rule {:?}", entry.words());
            return FilterError::Refused { part, source };
        }
        wire::Part::Batch | wire::Part::Table => return FilterError::Refused { part: "the table".into(), source },
    };
    FilterError::NoFeature { feature, option, source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_kernel_that_lacks_something_is_told_by_what_it_lacks() {
        let drop = Filter { default: crate::model::Verdict::Drop, rules: vec!["accept,tcp/80".parse().unwrap()] };
        let messages = wire::replacement(&wire::entries(&drop), false);
        let told = |which: fn(&Message) -> bool, errno| {
            let message = messages.iter().find(|message| which(message)).unwrap();
            refused(message, "the filter", io::Error::from_raw_os_error(errno)).to_string()
        };
        let batch = told(|m| matches!(m.part, wire::Part::Batch), libc::EOPNOTSUPP);
        assert!(batch.contains("lacks nf_tables (CONFIG_NF_TABLES)"), "{batch}");
        let table = told(|m| matches!(m.part, wire::Part::Table), libc::EOPNOTSUPP);
        assert!(table.contains("CONFIG_NF_TABLES_INET"), "{table}");
        let ct = told(|m| matches!(&m.part, wire::Part::Rule(entry) if entry.tracks), libc::ENOENT);
        assert!(ct.contains("CONFIG_NFT_CT"), "{ct}");
        let rule = told(|m| matches!(&m.part, wire::Part::Rule(entry) if entry.rule.is_some()), libc::ENOMEM);
        assert_eq!(rule, "the kernel refuses the rule \"accept,tcp/80\" of the packet filter");
    }
}
