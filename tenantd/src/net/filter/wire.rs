//! The kernel's messages of nf_tables (linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h; all of it is in 4.18),
//! as far as a filter of ours needs them. docs/decisions/0011 says why by hand.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Kept;
use crate::model::{Filter, FilterRule, MOST_RULES, Protocol, Verdict};
use crate::net::nla::{attribute, attributes, find};

/// Our table and its chain.
const TABLE: &[u8] = b"tenantd\0";
const CHAIN: &[u8] = b"input\0";
/// What begins the comment of every rule of ours. The number rises when the same words mean other bytes.
const MARK: &str = "tenantd/1 ";

/// Rules in the kernel, at most: two for each of ours, and those before and after.
pub(super) const MOST_ENTRIES: usize = 2 * MOST_RULES + 5;

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NEWTABLE: u16 = NFNL_SUBSYS_NFTABLES << 8;
const GETTABLE: u16 = NEWTABLE + 1;
const DELTABLE: u16 = NEWTABLE + 2;
const NEWCHAIN: u16 = NEWTABLE + 3;
const GETCHAIN: u16 = NEWTABLE + 4;
const NEWRULE: u16 = NEWTABLE + 6;
const GETRULE: u16 = NEWTABLE + 7;
const DELRULE: u16 = NEWTABLE + 8;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// The list changed while it was read.
const DUMP_INTR: u16 = 0x10;
/// An attribute that holds attributes.
const NESTED: u16 = 0x8000;
/// Length of `struct nlmsghdr`, and with `struct nfgenmsg` behind it.
const HEADER: usize = 16;
const HEADERS: usize = 20;

const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const NF_INET_LOCAL_IN: u32 = 1;

/// One message, its number left out.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) part: Part,
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

/// What a message is about.
#[derive(Debug, Clone)]
pub(super) enum Part {
    Question,
    Batch,
    Table,
    Rule(Entry),
}

/// One rule of the kernel's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its comment: what it is.
    pub(super) mark: String,
    /// Number of the filter's rule from 0; none for those before and after.
    pub(super) rule: Option<usize>,
    /// It needs connections to be tracked.
    pub(super) tracks: bool,
    verdict: Verdict,
    expressions: Vec<u8>,
}

impl Entry {
    /// The mark as somebody who set the filter knows it.
    pub(super) fn words(&self) -> &str {
        self.mark.strip_prefix(MARK).unwrap_or(&self.mark)
    }

    /// Name of its counter when it drops.
    pub(super) fn drop_name(&self) -> Option<String> {
        let name = self.rule.map_or_else(|| "filter_default".to_owned(), |n| format!("filter_{}", n + 1));
        (self.verdict == Verdict::Drop).then_some(name)
    }
}

/// The rules that make a filter, in order.
pub(super) fn entries(filter: &Filter) -> Vec<Entry> {
    let drop = filter.default == Verdict::Drop;
    let fixed = |words: &str, tracks, verdict, expressions: Vec<Vec<u8>>| Entry {
        mark: format!("{MARK}{words}"),
        rule: None,
        tracks,
        verdict,
        expressions: finished(expressions, verdict),
    };
    let mut entries =
        vec![fixed("loopback", false, Verdict::Accept, vec![meta(META_IIF), equal(&LOOPBACK.to_ne_bytes())])];
    if drop {
        // Only what the tenant opened: what others opened is for the rules to judge, also when these were changed since.
        let reply = [ct(CT_DIRECTION), equal(&[IP_CT_DIR_REPLY])];
        let state = |state: u32| vec![ct(CT_STATE), masked(&state.to_ne_bytes()), unequal(&[0; 4])];
        let replies = reply.into_iter().chain(state(ESTABLISHED)).collect();
        entries.push(fixed("replies", true, Verdict::Accept, replies));
        entries.push(fixed("icmp errors", true, Verdict::Accept, state(RELATED)));
    }
    // Router and neighbour solicitation and advertisement, redirect (RFC 4861). ARP does not come here.
    let discovery = vec![meta(META_L4PROTO), equal(&[ICMPV6]), payload(TRANSPORT, 0, 1)];
    let discovery = discovery.into_iter().chain(between(&[133], &[137])).collect();
    entries.push(fixed("neighbours", false, Verdict::Accept, discovery));
    for (n, rule) in filter.rules.iter().enumerate() {
        entries.extend(matches(rule).into_iter().map(|expressions| Entry {
            mark: format!("{MARK}{rule}"),
            rule: Some(n),
            tracks: false,
            verdict: rule.action,
            expressions: finished(expressions, rule.action),
        }));
    }
    if drop {
        entries.push(fixed("default", false, Verdict::Drop, Vec::new()));
    }
    entries
}

/// The filter whose rules have these marks: the reverse of [`entries`]; none when a mark is not one of ours.
pub(super) fn filter<'a>(marks: impl Iterator<Item = &'a str>) -> Option<Filter> {
    let (mut filter, mut second) = (Filter::default(), false);
    for mark in marks {
        match mark.strip_prefix(MARK)? {
            "loopback" | "replies" | "icmp errors" | "neighbours" => {}
            "default" => filter.default = Verdict::Drop,
            words => {
                let rule: FilterRule = words.parse().ok()?;
                // ICMP from anywhere stands there twice.
                if second && filter.rules.last() == Some(&rule) {
                    second = false;
                    continue;
                }
                second = matches(&rule).len() == 2;
                filter.rules.push(rule);
            }
        }
    }
    Some(filter)
}

/// What a rule fits; twice for ICMP from anywhere, which has a number of its own in each family.
fn matches(rule: &FilterRule) -> Vec<Vec<Vec<u8>>> {
    let mut common = Vec::new();
    if let Some(from) = rule.from {
        common.extend(source(from));
    }
    let protocols = match (rule.proto, rule.from) {
        (Protocol::Any, _) => return vec![common],
        (Protocol::Tcp, _) => vec![TCP],
        (Protocol::Udp, _) => vec![UDP],
        (Protocol::Icmp, Some(IpNet::V4(_))) => vec![ICMP],
        (Protocol::Icmp, Some(IpNet::V6(_))) => vec![ICMPV6],
        (Protocol::Icmp, None) => vec![ICMP, ICMPV6],
    };
    let with = |protocol: u8| {
        let mut all = common.clone();
        all.extend([meta(META_L4PROTO), equal(&[protocol])]);
        if let Some(ports) = rule.port {
            let (first, last) = (ports.first().to_be_bytes(), ports.last().to_be_bytes());
            // The destination's port is at the same place in both protocols.
            all.push(payload(TRANSPORT, 2, 2));
            all.extend(if first == last { vec![equal(&first)] } else { between(&first, &last) });
        }
        all
    };
    protocols.into_iter().map(with).collect()
}

fn source(from: IpNet) -> Vec<Vec<u8>> {
    let (family, offset) = match from {
        IpNet::V4(_) => (NFPROTO_IPV4, 12),
        IpNet::V6(_) => (NFPROTO_IPV6, 8),
    };
    let octets = |address| match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    let mut all = vec![meta(META_NFPROTO), equal(&[family])];
    if from.prefix_len() > 0 {
        let address = octets(from.network());
        all.push(payload(NETWORK, offset, address.len() as u32));
        if from.prefix_len() < from.max_prefix_len() {
            all.push(masked(&octets(from.netmask())));
        }
        all.push(equal(&address));
    }
    all
}

// Expressions. Register 1 is all that is needed; register 0 is the verdict.

const REGISTER: u32 = 1;

const META_IIF: u32 = 4;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
/// Every network namespace's loopback device has this index.
const LOOPBACK: u32 = 1;

const CT_STATE: u32 = 0;
const CT_DIRECTION: u32 = 1;
const IP_CT_DIR_REPLY: u8 = 1;
const ESTABLISHED: u32 = 2;
const RELATED: u32 = 4;

const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn nest(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &parts.concat())
}

/// An element of a list of expressions: name and data.
fn expression(name: &[u8], parts: &[Vec<u8>]) -> Vec<u8> {
    nest(1, &[attribute(1, name), nest(2, parts)])
}

fn value(kind: u16, bytes: &[u8]) -> Vec<u8> {
    nest(kind, &[attribute(1, bytes)])
}

fn meta(key: u32) -> Vec<u8> {
    expression(b"meta\0", &[number(2, key), number(1, REGISTER)])
}

fn ct(key: u32) -> Vec<u8> {
    expression(b"ct\0", &[number(2, key), number(1, REGISTER)])
}

fn payload(base: u32, offset: u32, length: u32) -> Vec<u8> {
    expression(b"payload\0", &[number(1, REGISTER), number(2, base), number(3, offset), number(4, length)])
}

fn equal(bytes: &[u8]) -> Vec<u8> {
    compare(0, bytes)
}

fn unequal(bytes: &[u8]) -> Vec<u8> {
    compare(1, bytes)
}

/// At least the first and at most the last, in network byte order.
fn between(first: &[u8], last: &[u8]) -> Vec<Vec<u8>> {
    vec![compare(5, first), compare(3, last)]
}

fn compare(how: u32, bytes: &[u8]) -> Vec<u8> {
    expression(b"cmp\0", &[number(1, REGISTER), number(2, how), value(3, bytes)])
}

/// The register's bytes and this mask.
fn masked(mask: &[u8]) -> Vec<u8> {
    let length = number(3, mask.len() as u32);
    let xor = value(5, &vec![0; mask.len()]);
    expression(b"bitwise\0", &[number(1, REGISTER), number(2, REGISTER), length, value(4, mask), xor])
}

/// Counted, and decided.
fn finished(mut expressions: Vec<Vec<u8>>, verdict: Verdict) -> Vec<u8> {
    let code = match verdict {
        Verdict::Drop => 0,
        Verdict::Accept => 1,
    };
    expressions.push(expression(b"counter\0", &[]));
    expressions.push(expression(b"immediate\0", &[number(1, 0), nest(2, &[nest(2, &[number(1, code)])])]));
    expressions.concat()
}

// Messages.

fn message(part: Part, kind: u16, flags: u16, attributes: &[Vec<u8>]) -> Message {
    let generic = [NFPROTO_INET, 0, 0, 0];
    Message { part, kind, flags: REQUEST | flags, body: [&generic[..], &attributes.concat()].concat() }
}

fn batch(kind: u16) -> Message {
    let subsystem = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    Message { part: Part::Batch, kind, flags: REQUEST, body: vec![0, 0, subsystem[0], subsystem[1]] }
}

fn new_table() -> Message {
    message(Part::Table, NEWTABLE, CREATE, &[attribute(1, TABLE)])
}

fn delete_table() -> Message {
    message(Part::Table, DELTABLE, 0, &[attribute(1, TABLE)])
}

/// On input, before what others filter there, and accepting what it does not decide.
fn new_chain() -> Message {
    let hook = nest(4, &[number(1, NF_INET_LOCAL_IN), number(2, 0)]);
    let attributes = [attribute(1, TABLE), attribute(3, CHAIN), hook, number(5, 1), attribute(7, b"filter\0")];
    message(Part::Table, NEWCHAIN, CREATE, &attributes)
}

fn new_rule(entry: &Entry) -> Message {
    // `struct nft_userdata` as nft writes and reads it: kind 0 is a comment.
    let comment = entry.mark.as_bytes();
    let length = u8::try_from(comment.len() + 1).unwrap_or(u8::MAX);
    let userdata = [&[0, length][..], comment, &[0]].concat();
    let attributes =
        [attribute(1, TABLE), attribute(2, CHAIN), attribute(4 | NESTED, &entry.expressions), attribute(7, &userdata)];
    message(Part::Rule(entry.clone()), NEWRULE, CREATE | APPEND, &attributes)
}

/// One transaction; the last message before its end is acknowledged. (An end is, from 6.10 only.)
fn transaction(mut messages: Vec<Message>) -> Vec<Message> {
    if let Some(last) = messages.last_mut() {
        last.flags |= ACK;
    }
    messages.insert(0, batch(NFNL_MSG_BATCH_BEGIN));
    messages
}

/// To no table of ours. Made first, because the absent cannot be deleted.
pub(super) fn removal() -> Vec<Message> {
    transaction(vec![new_table(), delete_table()])
}

/// To these rules. Table and chain stay when they are there (they then decide on every packet at every moment), or go
/// when `fresh`.
pub(super) fn replacement(entries: &[Entry], fresh: bool) -> Vec<Message> {
    let mut messages = vec![new_table()];
    if fresh {
        messages.extend([delete_table(), new_table()]);
    }
    messages.push(new_chain());
    messages.push(message(Part::Table, DELRULE, 0, &[attribute(1, TABLE), attribute(2, CHAIN)]));
    messages.extend(entries.iter().map(new_rule));
    transaction(messages)
}

pub(super) fn get_table() -> Message {
    message(Part::Question, GETTABLE, ACK, &[attribute(1, TABLE)])
}

/// The tables of all families.
pub(super) fn get_tables() -> Message {
    Message { part: Part::Question, kind: GETTABLE, flags: REQUEST | DUMP, body: vec![0; HEADERS - HEADER] }
}

/// `inet tenantd` and its like are known by their name alone: a family beside it changes nothing of what is told.
pub(super) fn table_name(table: &[u8]) -> Option<String> {
    let name = find(table, 1)?;
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    Some(String::from_utf8_lossy(name).into_owned())
}

pub(super) fn get_chain() -> Message {
    message(Part::Question, GETCHAIN, ACK, &[attribute(1, TABLE), attribute(3, CHAIN)])
}

pub(super) fn get_rules() -> Message {
    message(Part::Question, GETRULE, DUMP, &[attribute(1, TABLE), attribute(2, CHAIN)])
}

/// The bytes of messages numbered from `first`; a transaction is closed.
pub(super) fn numbered(messages: &[Message], first: u32) -> Vec<u8> {
    let end = messages.first().is_some_and(|m| m.kind == NFNL_MSG_BATCH_BEGIN).then(|| batch(NFNL_MSG_BATCH_END));
    let mut bytes = Vec::new();
    for (message, number) in messages.iter().chain(&end).zip(first..) {
        let length = u32::try_from(HEADER + message.body.len()).unwrap_or(u32::MAX);
        bytes.extend(length.to_ne_bytes());
        bytes.extend([message.kind.to_ne_bytes(), message.flags.to_ne_bytes()].concat());
        bytes.extend([number.to_ne_bytes(), [0; 4]].concat());
        bytes.extend(&message.body);
    }
    bytes
}

/// What the kernel said to one message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// An object's attributes.
    Data(Vec<u8>),
    /// The end, with an error number or 0.
    Done(i32),
}

/// Answers with the number of what they answer and whether the list changed while it was read, up to the first that is
/// broken.
pub(super) fn answers(mut bytes: &[u8]) -> Vec<(u32, bool, Answer)> {
    let mut found = Vec::new();
    while let Some(header) = bytes.first_chunk::<HEADER>() {
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let number = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        let Some(body) = bytes.get(HEADER..length) else { break };
        let answer = match half(4) {
            NLMSG_ERROR | NLMSG_DONE => {
                let error = body.first_chunk().map_or(0, |error| i32::from_ne_bytes(*error));
                Answer::Done(-error)
            }
            _ => Answer::Data(body.get(HEADERS - HEADER..).unwrap_or_default().to_vec()),
        };
        found.push((number, half(6) & DUMP_INTR != 0 && half(4) != NLMSG_ERROR, answer));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn number_in(object: &[u8], kind: u16) -> Option<u32> {
    find(object, kind)?.try_into().ok().map(u32::from_be_bytes)
}

/// A table with one chain and nothing else that is awake and nobody's own.
pub(super) fn plain_table(table: &[u8]) -> bool {
    number_in(table, 2).unwrap_or(0) == 0 && number_in(table, 3) == Some(1)
}

/// The number of rules in a chain like [`new_chain`].
pub(super) fn plain_chain(chain: &[u8]) -> Option<usize> {
    let hook = find(chain, 4)?;
    let plain = number_in(hook, 1) == Some(NF_INET_LOCAL_IN)
        && number_in(hook, 2) == Some(0)
        && number_in(chain, 5) == Some(1)
        && find(chain, 7) == Some(b"filter\0");
    plain.then(|| number_in(chain, 6)).flatten().and_then(|count| usize::try_from(count).ok())
}

/// A rule's mark and count.
pub(super) fn kept(rule: &[u8]) -> Kept {
    let mark = find(rule, 7).and_then(|userdata| match userdata {
        [0, length, comment @ ..] => comment.get(..usize::from(*length).checked_sub(1)?),
        _ => None,
    });
    let list = find(rule, 4).map(attributes).unwrap_or_default();
    let counter = list.into_iter().find(|(_, element)| find(element, 1) == Some(b"counter\0"));
    let packets = counter.and_then(|(_, element)| find(find(element, 2)?, 2)?.try_into().ok()).map(u64::from_be_bytes);
    Kept { mark: String::from_utf8_lossy(mark.unwrap_or_default()).into_owned(), packets: packets.unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn filter(default: Verdict, rules: &[&str]) -> Filter {
        Filter { default, rules: rules.iter().map(|rule| rule.parse().unwrap()).collect() }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What nft 1.0.6 sends behind its header for the same rules, as its `--debug=mnl` shows it.
    #[test]
    fn rules_are_the_bytes_that_nft_sends() {
        let wanted = [
            // ct direction reply ct state established counter accept
            concat!(
                "0c00010074656e616e7464000a000200696e7075740000002401048020000180070001006374000014000280080002000000",
                "000108000100000000012c00018008000100636d700020000280080001000000000108000200000000000c00038005000100",
                "010000002000018007000100637400001400028008000200000000000800010000000001440001800c000100626974776973",
                "6500340002800800010000000001080002000000000108000300000000040c00048008000100020000000c00058008000100",
                "000000002c00018008000100636d700020000280080001000000000108000200000000010c00038008000100000000001400",
                "01800c000100636f756e7465720004000280300001800e000100696d6d6564696174650000001c0002800800010000000000",
                "100002800c000280080001000000000118000700001274656e616e74642f31207265706c69657300",
            ),
            // tcp dport 80 counter accept
            concat!(
                "0c00010074656e616e7464000a000200696e707574000000f800048024000180090001006d65746100000000140002800800",
                "02000000001008000100000000012c00018008000100636d700020000280080001000000000108000200000000000c000380",
                "0500010006000000340001800c0001007061796c6f6164002400028008000100000000010800020000000002080003000000",
                "000208000400000000022c00018008000100636d700020000280080001000000000108000200000000000c00038006000100",
                "00500000140001800c000100636f756e7465720004000280300001800e000100696d6d6564696174650000001c0002800800",
                "010000000000100002800c00028008000100000000011e000700001874656e616e74642f31206163636570742c7463702f38",
                "30000000",
            ),
            // ip6 saddr fd00::/61 udp dport 5000-6000 counter drop
            concat!(
                "0c00010074656e616e7464000a000200696e7075740000003c02048024000180090001006d65746100000000140002800800",
                "02000000000f08000100000000012c00018008000100636d700020000280080001000000000108000200000000000c000380",
                "050001000a000000340001800c0001007061796c6f6164002400028008000100000000010800020000000001080003000000",
                "000808000400000000105c0001800c00010062697477697365004c0002800800010000000001080002000000000108000300",
                "000000101800048014000100fffffffffffffff8000000000000000018000580140001000000000000000000000000000000",
                "00003800018008000100636d70002c000280080001000000000108000200000000001800038014000100fd00000000000000",
                "000000000000000024000180090001006d6574610000000014000280080002000000001008000100000000012c0001800800",
                "0100636d700020000280080001000000000108000200000000000c0003800500010011000000340001800c0001007061796c",
                "6f6164002400028008000100000000010800020000000002080003000000000208000400000000022c00018008000100636d",
                "700020000280080001000000000108000200000000050c00038006000100138800002c00018008000100636d700020000280",
                "080001000000000108000200000000030c0003800600010017700000140001800c000100636f756e74657200040002803000",
                "01800e000100696d6d6564696174650000001c0002800800010000000000100002800c000280080001000000000032000700",
                "002c74656e616e74642f312064726f702c7564702f353030302d363030302c66726f6d3d666430303a3a2f3631000000",
            ),
        ];
        let filter = filter(Verdict::Drop, &["accept,tcp/80", "drop,udp/5000-6000,from=fd00::/61"]);
        let entries = entries(&filter);
        for (wanted, entry) in wanted.iter().zip([&entries[1], &entries[4], &entries[5]]) {
            assert_eq!(hex(&new_rule(entry).body[4..]), *wanted, "{}", entry.mark);
        }
    }

    #[test]
    fn connections_are_tracked_only_when_it_is_needed() {
        let words = |default| {
            let entries = entries(&filter(default, &["accept,icmp", "drop,icmp,from=10.0.0.0/8"]));
            let drops: Vec<_> = entries.iter().filter_map(Entry::drop_name).collect();
            (entries.iter().map(|e| e.words().to_owned()).collect::<Vec<_>>().join(" "), drops.join(" "))
        };
        let rules = "accept,icmp accept,icmp drop,icmp,from=10.0.0.0/8";
        assert_eq!(words(Verdict::Accept), (format!("loopback neighbours {rules}"), "filter_2".into()));
        let drop = format!("loopback replies icmp errors neighbours {rules} default");
        assert_eq!(words(Verdict::Drop), (drop, "filter_2 filter_default".into()));
    }

    #[test]
    fn a_filter_is_read_back_from_its_marks() {
        for default in [Verdict::Accept, Verdict::Drop] {
            let wanted = filter(
                default,
                &["accept,icmp", "accept,icmp", "drop,tcp/80", "drop,tcp/80", "accept,udp,from=10.0.0.0/8"],
            );
            let entries = entries(&wanted);
            assert_eq!(super::filter(entries.iter().map(|entry| entry.mark.as_str())), Some(wanted));
        }
        assert_eq!(super::filter(["somebody's"].into_iter()), None);
    }

    #[test]
    fn a_transaction_is_closed_and_its_last_part_is_acknowledged() {
        let messages = replacement(&entries(&filter(Verdict::Drop, &[])), false);
        let bytes = numbered(&messages, 7);
        let mut kinds = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
            kinds.push((
                u16::from_ne_bytes([rest[4], rest[5]]),
                u16::from_ne_bytes([rest[6], rest[7]]) & ACK != 0,
                rest[8],
            ));
            rest = &rest[length..];
        }
        let rules = (11..16).map(|number| (NEWRULE, number == 15, number));
        let wanted =
            [(NFNL_MSG_BATCH_BEGIN, false, 7), (NEWTABLE, false, 8), (NEWCHAIN, false, 9), (DELRULE, false, 10)];
        let wanted: Vec<_> = wanted.into_iter().chain(rules).chain([(NFNL_MSG_BATCH_END, false, 16)]).collect();
        assert_eq!(kinds, wanted);
    }

    #[test]
    fn the_longest_mark_fits_and_what_is_broken_is_nothing() {
        let longest = "accept,tcp/10000-65535,from=ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/124";
        let entries = entries(&filter(Verdict::Accept, &[longest]));
        // nft takes comments of 127 bytes.
        assert!(entries[2].mark.len() < 128);
        let body = new_rule(&entries[2]).body;
        assert_eq!(kept(&body[4..]), Kept { mark: format!("{MARK}{longest}"), packets: 0 });
        let none = Kept { mark: String::new(), packets: 0 };
        for broken in [&[][..], &[1], &attribute(7, &[]), &attribute(7, &[0, 0]), &attribute(7, &[0, 9, 65])] {
            assert_eq!(kept(broken), none);
        }
        assert!(answers(&[1, 2, 3]).is_empty());
        assert!(answers(&[0; 64]).is_empty());
        let error = [&20_u32.to_ne_bytes()[..], &NLMSG_ERROR.to_ne_bytes(), &[0; 2], &9_u32.to_ne_bytes(), &[0; 4]];
        let error = [&error.concat()[..], &(-libc::ENOENT).to_ne_bytes()].concat();
        assert_eq!(answers(&error), [(9, false, Answer::Done(libc::ENOENT))]);
    }
}
