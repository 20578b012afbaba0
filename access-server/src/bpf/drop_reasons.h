/* Why a packet went no further. One list for C, Rust and the documents: build.rs makes the Rust enum from the lines
 * below, so keep the form `DROP_NAME = N, (comment)`. Numbers are never used again. */
#ifndef DROP_REASONS_H
#define DROP_REASONS_H

enum drop_reason {
	DROP_UNTAGGED = 1, /* trunk: the frame has no 802.1Q tag */
	DROP_UNKNOWN_VLAN = 2, /* trunk: no row for the tag */
	DROP_TWO_TAGS = 3, /* trunk: a second tag below the first */
	DROP_TAG_TYPE = 4, /* trunk: the tag is not 802.1Q (0x8100) */
	DROP_ETHERTYPE = 5, /* trunk: neither IPv4, IPv6 nor ARP */
	DROP_UNKNOWN_TUNNEL = 6, /* WAN: no tunnel has this remote and local address */
	DROP_UNKNOWN_KEY = 7, /* WAN: the remote is known, but not with this kind and key */
	DROP_OUTER_TRUNCATED = 8, /* WAN: the frame ends inside the outer headers */
	DROP_OUTER_HEADER = 9, /* WAN: version or header length of the outer header is impossible */
	DROP_OUTER_LENGTH = 10, /* WAN: an outer length field is zero, a jumbogram or disagrees with the frame */
	DROP_OUTER_CHECKSUM = 11, /* WAN: wrong outer IPv4 header checksum */
	DROP_OUTER_FRAGMENT = 12, /* WAN: a fragment of an outer packet */
	DROP_OUTER_OPTIONS = 13, /* WAN: outer IPv4 options, or IPv6 destination options other than one block of 8 bytes */
	DROP_GRE_FLAGS = 14, /* WAN: GRE with checksum, sequence number, routing or another version */
	DROP_GRE_PROTOCOL = 15, /* WAN: GRE that carries neither IPv4 nor IPv6 */
	DROP_VXLAN_HEADER = 16, /* WAN: VXLAN without a valid VNI or with reserved bits */
	DROP_INNER_TRUNCATED = 17, /* the packet ends inside the inner header */
	DROP_INNER_HEADER = 18, /* inner version or header length is impossible */
	DROP_INNER_LENGTH = 19, /* the inner length field is too small, a jumbogram or beyond the end of the packet */
	DROP_INNER_CHECKSUM = 20, /* wrong inner IPv4 header checksum */
	DROP_INNER_TAGGED = 21, /* WAN: a VLAN tag inside the tunnel */
	DROP_INNER_ETHERTYPE = 22, /* WAN: the inner frame is neither IPv4, IPv6 nor ARP */
	DROP_INNER_SOURCE = 23, /* WAN: the inner source address does not lie behind this tunnel */
	DROP_ECN_CE_NOT_ECT = 24, /* WAN: outer congestion mark over an inner packet that cannot carry it (RFC 6040) */
	DROP_TTL_EXPIRED = 25, /* the inner TTL or hop limit ran out here */
	DROP_LINK_SCOPE = 26, /* layer 3: the address has no meaning beyond its link */
	DROP_NO_SITE = 27, /* trunk: the destination lies behind no tunnel of the VLAN */
	DROP_NO_NEXT_HOP = 28, /* trunk: no route to the tunnel's remote */
	DROP_TOO_LONG = 29, /* longer than the path takes; the sender was told (packet too big) */
	DROP_TOO_LONG_RATE = 30, /* longer than the path takes; not told, too many answers a second */
	DROP_FRAG_SLOW_PATH = 31, /* longer than the path takes and may be fragmented: handed to user space */
	DROP_FRAG_RATE = 32, /* may be fragmented, but too many a second */
	DROP_FRAG_LOST = 33, /* may be fragmented, but user space did not keep up */
	DROP_FRAG_GSO = 34, /* a segmented super-packet whose segments would have to be fragmented */
	DROP_REENCAPSULATION = 35, /* the kernel refuses to encapsulate a packet that came out of a tunnel */
	DROP_ENCAP_FAILED = 36, /* the kernel could not make room for the outer headers */
	DROP_DECAP_FAILED = 37, /* the kernel could not remove the outer headers */
	DROP_ARP_CONSUMED = 38, /* layer 3: an ARP or neighbour message that goes no further */
	DROP_ARP_RATE = 39, /* ARP or neighbour question not answered, too many a second */
	DROP_ARP_MALFORMED = 40, /* ARP or neighbour message that cannot be read */
	DROP_OUTER_OVERFLOW = 41, /* a super-packet that is longer than 65,535 bytes with the outer headers */
};

#endif
