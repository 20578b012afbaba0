/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * ARP and ND from a tenant. A layer 2 port lets them through at a rate. A layer 3 port has no link behind it: it
 * answers questions about what its sites have, in place, and keeps the chatter of a link to itself.
 *
 * Functions return a TC_ACT_*, or GO_ON: send the frame to the trunk.
 */
#pragma once

#include "answers.h"
#include "counters.h"
#include "headers.h"
#include "ports.h"
#include "rates.h"

#define GO_ON (-2)

#define ARP_FRAME (ETH_LEN + sizeof(struct arp_packet))
#define ICMPV6_OFFSET (ETH_LEN + sizeof(struct ipv6_header))
#define ND_FRAME (ICMPV6_OFFSET + sizeof(struct nd_packet))
#define NA_FRAME (ND_FRAME + sizeof(struct nd_mac_option))

struct arp_frame {
	struct eth_header eth;
	struct arp_packet arp;
} __attribute__((packed, aligned(2)));

struct na_frame {
	struct eth_header eth;
	struct ipv6_header ip;
	struct nd_packet nd;
	struct nd_mac_option option;
} __attribute__((packed, aligned(2)));

static __always_inline bool port_token(const struct port_row *port, __u32 bucket)
{
	return take_token(port->slot, bucket, port->rate_interval_ns, port->rate_burst_ns);
}

/* Out of the port again, the way it came. Plain: the tenant's end is the peer, and captures here shall see the answer. */
static __always_inline int send_back(struct __sk_buff *skb, const struct port_row *port)
{
	struct verdict verdict = { .device = skb->ifindex, .slot = port->slot };

	record(&verdict);
	skb->mark = 0;
	return bpf_redirect(skb->ifindex, 0);
}

/* 0/8, 127/8, multicast and broadcast are nobody's address, even where 0.0.0.0/0 is answered. */
static __always_inline bool ipv4_unicast(const __u8 *address)
{
	return address[0] != 0 && address[0] != 127 && address[0] < 224;
}

static __always_inline bool same_ipv4(const __u8 *a, const __u8 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

static __always_inline bool zero_ipv4(const __u8 *a)
{
	return !(a[0] | a[1] | a[2] | a[3]);
}

static __always_inline int answer_arp(struct __sk_buff *skb, struct arp_frame *f, const struct port_row *port)
{
	__u8 asked[4];

	if (zero_ipv4(f->arp.sender) || same_ipv4(f->arp.sender, f->arp.target))
		return drop(port->slot, DROP_ARP_SILENT);
	__builtin_memcpy(asked, f->arp.target, 4);
	if (!ipv4_unicast(asked) || !answers_ipv4(skb->ifindex, asked))
		return drop(port->slot, DROP_ARP_OUTSIDE);
	if (!port_token(port, RATE_ARP_TX))
		return drop(port->slot, DROP_ARP_RATE);
	__builtin_memcpy(f->eth.destination, port->mac, 6);
	__builtin_memcpy(f->eth.source, port->gateway_mac, 6);
	f->arp.operation = bpf_htons(ARP_REPLY);
	__builtin_memcpy(f->arp.target_mac, port->mac, 6);
	__builtin_memcpy(f->arp.target, f->arp.sender, 4);
	__builtin_memcpy(f->arp.sender_mac, port->gateway_mac, 6);
	__builtin_memcpy(f->arp.sender, asked, 4);
	return send_back(skb, port);
}

static __noinline int arp_from_port(struct __sk_buff *skb, const struct port_row *port)
{
	struct arp_frame *f = need_bytes(skb, ARP_FRAME);

	if (!f)
		return drop(port->slot, DROP_TRUNCATED);
	if (f->arp.hardware != bpf_htons(1) || f->arp.protocol != bpf_htons(ETH_P_IP) ||
	    f->arp.hardware_length != 6 || f->arp.protocol_length != 4 ||
	    (f->arp.operation != bpf_htons(ARP_REQUEST) && f->arp.operation != bpf_htons(ARP_REPLY)))
		return drop(port->slot, DROP_ARP_MALFORMED);
	if (!same_mac(f->arp.sender_mac, port->mac))
		return drop(port->slot, DROP_SOURCE_MAC);
	if (!(port->flags & PORT_LAYER_2) && f->arp.operation == bpf_htons(ARP_REQUEST))
		return answer_arp(skb, f, port);
	/* Also a layer 3 port's replies go on: a probe on the trunk waits for them. */
	if (!port_token(port, RATE_ARP_TX))
		return drop(port->slot, DROP_ARP_POLICED);
	return GO_ON;
}

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* RFC 8200 section 8.1: pseudo header (addresses, length, next header) and message. */
static __always_inline __u16 icmpv6_checksum(struct na_frame *f)
{
	struct {
		__u8 source[16], destination[16];
		__be32 length, next_header;
		struct nd_packet nd;
		struct nd_mac_option option;
	} __attribute__((packed, aligned(8))) sum = {
		.length = bpf_htonl(sizeof(f->nd) + sizeof(f->option)),
		.next_header = bpf_htonl(NEXT_ICMPV6),
	};

	__builtin_memcpy(sum.source, f->ip.source, 16);
	__builtin_memcpy(sum.destination, f->ip.destination, 16);
	__builtin_memcpy(&sum.nd, &f->nd, sizeof(sum.nd));
	__builtin_memcpy(&sum.option, &f->option, sizeof(sum.option));
	return fold(bpf_csum_diff(NULL, 0, (__be32 *)&sum, sizeof(sum), 0));
}

static __always_inline bool same_ipv6(const __u8 *a, const __u8 *b)
{
	const __u16 *x = (const void *)a, *y = (const void *)b;
	__u16 different = 0;

	for (int i = 0; i < 8; i++)
		different |= x[i] ^ y[i];
	return !different;
}

static __always_inline int answer_nd(struct __sk_buff *skb, const struct port_row *port)
{
	static const __u8 unspecified[16];
	struct na_frame *f = need_bytes(skb, ND_FRAME);
	__u8 asker[16], asked[16];

	/* RFC 4861 section 7.1.1, but for the checksum: a wrong one harms only the asker. */
	if (!f || f->ip.hop_limit != 255 || f->nd.code || bpf_ntohs(f->ip.payload_length) < sizeof(f->nd) ||
	    f->nd.target[0] == 0xff)
		return drop(port->slot, DROP_ND_MALFORMED);
	__builtin_memcpy(asker, f->ip.source, 16);
	__builtin_memcpy(asked, f->nd.target, 16);
	if (same_ipv6(asker, unspecified) || same_ipv6(asker, asked))
		return drop(port->slot, DROP_ND_SILENT);
	if (!answers_ipv6(skb->ifindex, asked))
		return drop(port->slot, DROP_ND_OUTSIDE);
	if (!port_token(port, RATE_ND_TX))
		return drop(port->slot, DROP_ND_RATE);
	if (skb->len != NA_FRAME && bpf_skb_change_tail(skb, NA_FRAME, 0))
		return drop(port->slot, DROP_KERNEL_REFUSED);
	f = need_bytes(skb, NA_FRAME);
	if (!f)
		return drop(port->slot, DROP_KERNEL_REFUSED);

	__builtin_memcpy(f->eth.destination, port->mac, 6);
	__builtin_memcpy(f->eth.source, port->gateway_mac, 6);
	f->ip.payload_length = bpf_htons(sizeof(f->nd) + sizeof(f->option));
	__builtin_memcpy(f->ip.source, asked, 16);
	__builtin_memcpy(f->ip.destination, asker, 16);
	f->nd.type = ND_NEIGHBOUR_ADVERTISEMENT;
	f->nd.checksum = 0;
	f->nd.flags = bpf_htonl(ND_FLAGS_SOLICITED_OVERRIDE);
	f->option.type = ND_OPTION_TARGET_MAC;
	f->option.length = 1;
	__builtin_memcpy(f->option.mac, port->gateway_mac, 6);
	f->nd.checksum = icmpv6_checksum(f);
	return send_back(skb, port);
}

/* ICMPv6 types 130..132 and 143 (MLD), 133..137 (ND) are said to a link only. */
static __always_inline bool is_nd(__u8 type)
{
	return type >= ND_ROUTER_SOLICITATION && type <= ND_REDIRECT;
}

static __always_inline bool is_mld(__u8 type)
{
	return (type >= MLD_QUERY && type <= MLD_DONE) || type == MLD2_REPORT;
}

static __noinline int icmpv6_from_port(struct __sk_buff *skb, const struct port_row *port)
{
	__u8 *data = need_bytes(skb, ICMPV6_OFFSET + 1), type;

	if (!data)
		return drop(port->slot, DROP_TRUNCATED);
	type = data[ICMPV6_OFFSET];
	if (!is_nd(type) && !is_mld(type))
		return GO_ON;
	if (!(port->flags & PORT_LAYER_2)) {
		if (type == ND_NEIGHBOUR_SOLICITATION)
			return answer_nd(skb, port);
		if (type != ND_NEIGHBOUR_ADVERTISEMENT)
			return drop(port->slot, DROP_LINK_LOCAL_SCOPE);
	}
	if (is_nd(type) && !port_token(port, RATE_ND_TX))
		return drop(port->slot, DROP_ND_POLICED);
	return GO_ON;
}

/* MLD has a router alert option in a hop-by-hop header before it (RFC 3810 section 5). */
static __noinline int hop_by_hop_from_port(struct __sk_buff *skb, const struct port_row *port)
{
	struct {
		__u8 next_header, length, options[6], type;
	} h = {};

	if ((port->flags & PORT_LAYER_2) || bpf_skb_load_bytes(skb, ICMPV6_OFFSET, &h, sizeof(h)))
		return GO_ON;
	if (h.next_header == NEXT_ICMPV6 && h.length == 0 && (is_mld(h.type) || is_nd(h.type)))
		return drop(port->slot, DROP_LINK_LOCAL_SCOPE);
	return GO_ON;
}

static __always_inline int ipv6_from_port(struct __sk_buff *skb, const struct port_row *port)
{
	struct ipv6_header *ip;
	void *data = need_bytes(skb, ICMPV6_OFFSET);

	if (!data)
		return drop(port->slot, DROP_TRUNCATED);
	ip = data + ETH_LEN;
	if (ip->next_header == NEXT_ICMPV6)
		return icmpv6_from_port(skb, port);
	if (ip->next_header == NEXT_HOP_BY_HOP)
		return hop_by_hop_from_port(skb, port);
	return GO_ON;
}

/*
 * Towards a tenant: ARP and ND at the port's rate, because the kernel has one neighbour table for all namespaces and
 * a site must not fill it. offset: of the packet. Returns 0 or an enum drop_reason.
 */
static __noinline __u32 police_to_port(struct __sk_buff *skb, const struct tag_row *to, __u32 offset, __u32 arp)
{
	__u8 head[2] = {}, type = 0; /* next header and hop limit */

	if (arp)
		return take_token(to->slot, RATE_ARP_RX, to->rate_interval_ns, to->rate_burst_ns) ? 0 :
												     DROP_ARP_POLICED;
	if (bpf_skb_load_bytes(skb, offset + 6, head, sizeof(head)))
		return 0;
	if (head[0] == NEXT_HOP_BY_HOP || head[0] == NEXT_ROUTING || head[0] == NEXT_OPTIONS) {
		/* ND may hide behind extension headers, but not its hop limit (RFC 4861): what has it shares ND's rate. */
		if (head[1] != 255)
			return 0;
	} else if (head[0] != NEXT_ICMPV6 ||
		   bpf_skb_load_bytes(skb, offset + sizeof(struct ipv6_header), &type, 1) || !is_nd(type)) {
		return 0;
	}
	return take_token(to->slot, RATE_ND_RX, to->rate_interval_ns, to->rate_burst_ns) ? 0 : DROP_ND_POLICED;
}
