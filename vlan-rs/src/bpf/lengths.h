/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Is the packet whole, and does it fit? Functions return an enum drop_reason, 0 when all is well.
 */
#pragma once

#include "drop_reasons.h"
#include "headers.h"

/* The most our partner puts around a packet: outer IPv6 40, UDP 8, VXLAN 8, inner Ethernet 14, and 10 to spare. */
#define ENCAPSULATION_MAX 80
#define IP_LENGTH_MAX 65535

/* length: bytes from the IP header to the end of the frame, padding included. */
static __always_inline __u32 check_ipv4(const struct ipv4_header *ip, __u32 length, bool gso)
{
	__u32 header = (ip->version_ihl & 0xf) * 4, total = bpf_ntohs(ip->total_length);

	if (ip->version_ihl >> 4 != 4)
		return DROP_IP_VERSION;
	if (header < sizeof(*ip) || header > length)
		return DROP_IP_HEADER_LENGTH;
	/* The kernel keeps this field of a super-packet; BIG TCP (6.3) writes 0 there. */
	if (!gso && (total < header || total > length))
		return DROP_IP_TOTAL_LENGTH;
	return 0;
}

static __always_inline __u32 check_ipv6(const struct ipv6_header *ip, __u32 length, bool gso)
{
	if (ip->version_class >> 4 != 6)
		return DROP_IP_VERSION;
	if (!gso && sizeof(*ip) + bpf_ntohs(ip->payload_length) > length)
		return DROP_IP_TOTAL_LENGTH;
	return 0;
}

/* offset: of the IP header. need_bytes() inside: packet pointers of the caller are void afterwards. */
static __always_inline __u32 check_packet(struct __sk_buff *skb, __u32 offset, __be16 type)
{
	bool gso = skb->gso_size;
	void *data;

	if (type == bpf_htons(ETH_P_IP)) {
		data = need_bytes(skb, offset + sizeof(struct ipv4_header));
		return data ? check_ipv4(data + offset, skb->len - offset, gso) : DROP_TRUNCATED;
	}
	if (type == bpf_htons(ETH_P_IPV6)) {
		data = need_bytes(skb, offset + sizeof(struct ipv6_header));
		return data ? check_ipv6(data + offset, skb->len - offset, gso) : DROP_TRUNCATED;
	}
	return 0;
}

/*
 * The longest packet the kernel will cut a super-packet into: headers + gso_size. Behind IPv6 extension headers and
 * inside a tenant's own tunnels the transport header is taken as short as it can be: such a packet may pass here
 * although it is some bytes too long, and is refused by the next device.
 */
static __noinline __u32 segment_length(struct __sk_buff *skb, __u32 offset)
{
	__u8 first = 0, protocol = 0, byte = 0;
	__u32 header = sizeof(struct ipv6_header), transport = 8;

	if (bpf_skb_load_bytes(skb, offset, &first, 1))
		return 0;
	if (first >> 4 == 4)
		header = (first & 0xf) * 4;
	if (bpf_skb_load_bytes(skb, offset + (first >> 4 == 4 ? 9 : 6), &protocol, 1))
		return 0;
	if (protocol == NEXT_TCP && !bpf_skb_load_bytes(skb, offset + header + 12, &byte, 1))
		transport = (byte >> 4) * 4;
	return header + transport + skb->gso_size;
}

/* skb->len says nothing about a super-packet: its pieces must fit, and all of it with the outer headers in 16 bits. */
static __always_inline __u32 check_length(struct __sk_buff *skb, __u32 offset, __u32 mtu)
{
	__u32 length = skb->len - offset;

	if (!skb->gso_size)
		return length > mtu ? DROP_TOO_LONG : 0;
	if (segment_length(skb, offset) > mtu)
		return DROP_TOO_LONG;
	if (length + ENCAPSULATION_MAX > IP_LENGTH_MAX)
		return DROP_GSO_TOO_LONG;
	return 0;
}
