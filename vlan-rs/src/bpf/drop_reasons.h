/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Why a frame was dropped: the one list for C, Rust (build.rs makes `DropReason` of it) and the README.
 * A line is `DROP_NAME = number, / * what happened * /`. Numbers are never re-used, 0 means "not dropped",
 * and all stay below DROP_SLOTS, which is the size of a counter row (so an old row fits a new program).
 */
#pragma once

enum drop_reason {
	DROP_TRUNCATED = 1, /* the frame ends before its headers do */
	DROP_UNTAGGED = 2, /* a frame without a tag came from the trunk */
	DROP_SERVICE_TAG = 3, /* the outer tag of a frame from the trunk is 802.1ad (0x88a8), not 802.1Q */
	DROP_TWO_TAGS = 4, /* a frame from the trunk has a second tag inside */
	DROP_UNKNOWN_VLAN = 5, /* no port has this tag on this trunk */
	DROP_TOO_LONG = 6, /* the packet is longer than the MTU of the port */
	DROP_DESTINATION_MAC = 7, /* a unicast frame from the trunk is not for the MAC address of the port */
	DROP_NO_PORT = 8, /* the device carries the port program but has no row: half made or half removed */
	DROP_TAGGED_FROM_PORT = 9, /* a tenant sent a tagged frame */
	DROP_SOURCE_MAC = 10, /* a tenant used another MAC address, in the frame or inside an ARP packet */
	DROP_ETHERTYPE = 11, /* a tenant sent something else than IPv4, IPv6 or ARP */
	DROP_IP_VERSION = 12, /* the version in the IP header is not the one the Ethernet type promises */
	DROP_IP_HEADER_LENGTH = 13, /* the IPv4 header length is below 20 bytes or beyond the packet */
	DROP_IP_TOTAL_LENGTH = 14, /* the length in the IP header is below the header or beyond the frame */
	DROP_GSO_TOO_LONG = 15, /* a GSO super-packet leaves no room for the outer headers below 65,535 bytes */
	DROP_ARP_MALFORMED = 16, /* not ARP for IPv4 over Ethernet, or neither request nor reply */
	DROP_ARP_SILENT = 17, /* an address probe or announcement on a layer 3 port: an answer would look like a duplicate */
	DROP_ARP_OUTSIDE = 18, /* asked for an IPv4 address that no prefix of this layer 3 port covers */
	DROP_ARP_RATE = 19, /* more ARP questions than the port answers a second */
	DROP_ARP_POLICED = 20, /* more ARP packets through the port than its rate */
	DROP_ND_MALFORMED = 21, /* a neighbour discovery packet that RFC 4861 section 7.1 tells to discard */
	DROP_ND_SILENT = 22, /* an IPv6 duplicate address probe on a layer 3 port: an answer would look like a duplicate */
	DROP_ND_OUTSIDE = 23, /* asked for an IPv6 address that no prefix of this layer 3 port covers */
	DROP_ND_RATE = 24, /* more neighbour solicitations than the port answers a second */
	DROP_ND_POLICED = 25, /* more neighbour discovery packets through the port than its rate */
	DROP_LINK_LOCAL_SCOPE = 26, /* router solicitation, MLD and the like on a layer 3 port, where there is no link to say it to */
	DROP_KERNEL_REFUSED = 27, /* the kernel could not change the frame (out of memory) */
	DROP_FLOOD_TX = 28, /* more packets a second from the port than it may send */
	DROP_FLOOD_RX = 29, /* more packets a second from the trunk than the port may get */
};

/* Room for more without a new row layout. */
#define DROP_SLOTS 64
