//! Netlink attributes as bytes, for families that netlink-packet-route 0.34 does not know: length, kind, value, filled up
//! to a multiple of 4.

/// Nested, and in network byte order.
const FLAGS: u16 = 0xc000;

pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The attributes of a nest, up to the first that does not fit.
pub(super) fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let [a, b, c, d, ..] = *bytes {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let Some(value) = bytes.get(4..length) else { break };
        found.push((u16::from_ne_bytes([c, d]) & !FLAGS, value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The first attribute of this kind.
pub(super) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).into_iter().find(|(there, _)| *there == kind).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_broken_ends_the_list() {
        assert!(attributes(&[1, 0, 0]).is_empty());
        assert!(attributes(&[3, 0, 1, 0, 9]).is_empty());
        assert!(attributes(&[200, 0, 1, 0, 9]).is_empty());
        assert_eq!(attributes(&attribute(7, &[1, 2])), [(7, &[1, 2][..])]);
        assert_eq!(find(&[attribute(7, &[1]), attribute(8 | FLAGS, &[2])].concat(), 8), Some(&[2][..]));
    }
}
