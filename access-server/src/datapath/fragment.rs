//! Cutting an IPv4 packet into fragments (RFC 791 section 3.2). Pure.

use thiserror::Error;

const MORE: u16 = 0x2000;
const DONT: u16 = 0x4000;
const OFFSET: u16 = 0x1fff;
const HEADER: usize = 20;
/// Option types: end of list, no operation, and the bit of those that every fragment repeats.
const END: u8 = 0;
const NOP: u8 = 1;
const COPIED: u8 = 0x80;

/// Why a packet was not cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FragmentError {
    /// Not a whole IPv4 packet.
    #[error("not a whole IPv4 packet")]
    Malformed,
    /// The sender forbids it.
    #[error("the packet must not be fragmented")]
    DontFragment,
    /// No room for even 8 bytes behind the header.
    #[error("an MTU of {mtu} bytes has no room for a fragment with a header of {header} bytes")]
    TooNarrow {
        /// Longest fragment.
        mtu: usize,
        /// Header with its options.
        header: usize,
    },
}

/// Cuts `packet` into pieces of at most `mtu` bytes. A packet that fits comes back as it is; bytes behind its own total
/// length are left off. A fragment may be cut again.
///
/// # Errors
/// [`FragmentError`].
pub fn fragment(packet: &[u8], mtu: usize) -> Result<Vec<Vec<u8>>, FragmentError> {
    let first = packet.first().copied().unwrap_or(0);
    let header = usize::from(first & 15) * 4;
    if packet.len() < HEADER || first >> 4 != 4 || header < HEADER || packet.len() < header {
        return Err(FragmentError::Malformed);
    }
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    if total < header || total > packet.len() {
        return Err(FragmentError::Malformed);
    }
    if total <= mtu {
        return Ok(vec![packet[..total].to_vec()]);
    }
    let place = u16::from_be_bytes([packet[6], packet[7]]);
    if place & DONT != 0 {
        return Err(FragmentError::DontFragment);
    }
    let data = &packet[header..total];
    let whole = packet[..header].to_vec();
    let mut later = packet[..HEADER].to_vec();
    later.extend(copied_options(&packet[HEADER..header]));

    let mut pieces = Vec::new();
    let mut done = 0;
    while done < data.len() {
        let head = if done == 0 { &whole } else { &later };
        let room = mtu.checked_sub(head.len()).map_or(0, |room| room & !7);
        if room == 0 {
            return Err(FragmentError::TooNarrow { mtu, header: head.len() });
        }
        let rest = data.len() - done;
        let last = rest <= mtu - head.len();
        let take = if last { rest } else { room };
        // Offsets count 8 bytes. A piece of a fragment starts where that one did.
        let offset = (place & OFFSET) + (done / 8) as u16;
        let more = if last { place & MORE } else { MORE };
        pieces.push(piece(head, &data[done..done + take], offset | more));
        done += take;
    }
    Ok(pieces)
}

/// Finishes the UDP or TCP checksum that a sender left to its network card: the packet then carries only the sum of the
/// pseudo header (RFC 793 section 3.1), and pieces of it could never be checked. Anything else stays as it is.
pub fn complete_checksum(packet: &mut [u8]) {
    let Some(&[first, ..]) = packet.first_chunk::<HEADER>() else { return };
    let header = usize::from(first & 15) * 4;
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let fragment = u16::from_be_bytes([packet[6], packet[7]]) & (MORE | OFFSET) != 0;
    let at = match packet[9] {
        6 => 16,
        17 => 6,
        _ => return,
    };
    if fragment || header < HEADER || total > packet.len() || header + at + 2 > total {
        return;
    }
    let transport = (total - header) as u16;
    let pseudo = [&packet[12..20], &[0, packet[9]], &transport.to_be_bytes()].concat();
    let pseudo = !checksum(&pseudo);
    let (protocol, data) = (packet[9], &mut packet[header..total]);
    if u16::from_be_bytes([data[at], data[at + 1]]) != pseudo {
        return;
    }
    // With the pseudo header's sum in its place the sum over the data is the whole sum.
    let sum = checksum(data);
    let sum = if sum == 0 && protocol == 17 { 0xffff } else { sum };
    data[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn piece(head: &[u8], data: &[u8], place: u16) -> Vec<u8> {
    let mut packet = head.to_vec();
    packet.extend_from_slice(data);
    let total = packet.len() as u16; // below the length of the whole, which fits
    packet[0] = 0x40 | (head.len() / 4) as u8;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[6..8].copy_from_slice(&place.to_be_bytes());
    packet[10..12].copy_from_slice(&[0, 0]);
    let sum = checksum(&packet[..head.len()]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The options that every fragment carries, filled up to a whole word. What cannot be read ends the list.
fn copied_options(options: &[u8]) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut rest = options;
    while let [kind, tail @ ..] = rest {
        match *kind {
            END => break,
            NOP => rest = tail,
            kind => {
                let len = usize::from(tail.first().copied().unwrap_or(0));
                if len < 2 || len > rest.len() {
                    break;
                }
                let (option, behind) = rest.split_at(len);
                if kind & COPIED != 0 {
                    kept.extend_from_slice(option);
                }
                rest = behind;
            }
        }
    }
    kept.resize(kept.len().next_multiple_of(4), END);
    kept
}

/// The Internet checksum (RFC 1071) of a header.
fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 =
        header.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or(0)]))).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn packet(options: &[u8], data: &[u8], place: u16) -> Vec<u8> {
        let mut head = vec![0x45, 0xb8, 0, 0, 0x12, 0x34, 0, 0, 64, 17, 0, 0, 192, 168, 1, 10, 192, 168, 1, 1];
        head.extend_from_slice(options);
        piece(&head, data, place)
    }

    /// What a receiver makes of the fragments, in any order.
    fn reassemble(pieces: &[Vec<u8>]) -> (Vec<u8>, bool) {
        let mut data = Vec::new();
        let mut ended = false;
        let mut sorted: Vec<_> = pieces.iter().collect();
        sorted.sort_by_key(|p| u16::from_be_bytes([p[6], p[7]]) & OFFSET);
        let start = usize::from(u16::from_be_bytes([sorted[0][6], sorted[0][7]]) & OFFSET) * 8;
        for p in sorted {
            let header = usize::from(p[0] & 15) * 4;
            let place = u16::from_be_bytes([p[6], p[7]]);
            assert_eq!(usize::from(place & OFFSET) * 8, start + data.len());
            assert_eq!(checksum(&p[..header]), 0);
            assert_eq!(usize::from(u16::from_be_bytes([p[2], p[3]])), p.len());
            assert_eq!(&p[4..6], &[0x12, 0x34]);
            assert!(!ended);
            ended = place & MORE == 0;
            data.extend_from_slice(&p[header..]);
        }
        (data, ended)
    }

    #[test]
    fn only_copied_options_go_into_later_fragments() {
        // Record route (7, not copied), router alert (148, copied), end of list.
        let options = [7, 7, 4, 0, 0, 0, 0, 148, 4, 0, 0, 0];
        let pieces = fragment(&packet(&options, &[1; 3000], 0), 1400).unwrap();
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces[0][20..32], options);
        assert_eq!(pieces[1][0], 0x46);
        assert_eq!(pieces[1][20..24], [148, 4, 0, 0]);
    }

    #[test]
    fn refuses_what_it_must_not_cut() {
        let long = packet(&[], &[0; 2000], 0);
        assert_eq!(fragment(&packet(&[], &[0; 2000], DONT), 1400), Err(FragmentError::DontFragment));
        assert_eq!(fragment(&long[..1000], 500), Err(FragmentError::Malformed));
        assert_eq!(fragment(&[], 500), Err(FragmentError::Malformed));
        assert_eq!(fragment(&long, 27), Err(FragmentError::TooNarrow { mtu: 27, header: 20 }));
        assert_eq!(fragment(&long, 28).unwrap().len(), 250);
        assert_eq!(fragment(&long, 2020).unwrap(), [long]);
    }

    #[test]
    fn a_checksum_left_to_the_card_is_finished() {
        let mut datagram = [0x1b, 0x5a, 0, 9, 0, 0, 0, 0].to_vec();
        datagram.extend([1; 1500]);
        let len = datagram.len() as u16;
        datagram[4..6].copy_from_slice(&len.to_be_bytes());
        let pseudo = [&[192, 168, 1, 10, 192, 168, 1, 1, 0, 17][..], &len.to_be_bytes()].concat();
        datagram[6..8].copy_from_slice(&(!checksum(&pseudo)).to_be_bytes());
        let mut whole = packet(&[], &datagram, 0);
        complete_checksum(&mut whole);
        assert_eq!(checksum(&[&pseudo, &whole[20..]].concat()), 0);
        // Finished, a fragment, or cut off: left alone.
        let finished = whole.clone();
        complete_checksum(&mut whole);
        assert_eq!(whole, finished);
        let mut fragment = packet(&[], &datagram, MORE);
        let before = fragment.clone();
        complete_checksum(&mut fragment);
        assert_eq!(fragment, before);
        complete_checksum(&mut []);
    }

    #[test]
    fn unreadable_options_do_not_spread() {
        assert_eq!(copied_options(&[148, 0, 0, 0]), [0_u8; 0]);
        assert_eq!(copied_options(&[148, 9, 0, 0]), [0_u8; 0]);
        assert_eq!(copied_options(&[148]), [0_u8; 0]);
    }

    proptest! {
        #[test]
        fn the_receiver_gets_what_was_sent(
            data in proptest::collection::vec(any::<u8>(), 1..9000),
            words in 0usize..10,
            start in 0u16..100,
            more: bool,
            mtu in 68usize..1500,
        ) {
            let options = vec![NOP; words * 4];
            // Only the last fragment of a packet may end off a multiple of 8.
            let data = if more { data[..data.len() & !7].to_vec() } else { data };
            prop_assume!(!data.is_empty());
            let place = start | if more { MORE } else { 0 };
            let pieces = fragment(&packet(&options, &data, place), mtu).unwrap();
            prop_assert!(pieces.iter().all(|p| p.len() <= mtu));
            let (back, ended) = reassemble(&pieces);
            prop_assert_eq!(back, data);
            prop_assert_eq!(ended, !more);
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), mtu in 0usize..200) {
            let _ = fragment(&bytes, mtu);
        }
    }
}
