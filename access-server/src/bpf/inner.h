/* The tenant's own packet: checked, its lifetime shortened, its congestion mark kept. */
#ifndef INNER_H
#define INNER_H

#include "drop_reasons.h"
#include "headers.h"

struct inner {
	__u32 off; /* of the IP header in the frame */
	__u32 total; /* length by its own header */
	__u32 l4; /* offset of the header after IP; 0: none that we read (fragments, extension headers) */
	__u8 family;
	__u8 tos;
	__u8 l4proto;
	bool df; /* must not be fragmented on the way */
};

/* Sum over an IPv4 header with options. */
always_inline bool ip4_long_sum_ok(struct __sk_buff *skb, __u32 off, __u32 ihl)
{
	__u64 sum = 0;

	for (__u32 i = 0; i < 15; i++) {
		__u32 *w;

		if (i >= ihl)
			break;
		w = skb_at(skb, off + i * 4, 4);
		if (!w)
			return false;
		sum += *w;
	}
	return fold(sum) == 0xffff;
}

/* Checks an IPv4 header at n->off, the packet ending at `stop` at the latest. 0 or a drop_reason. */
always_inline int inner_ip4(struct __sk_buff *skb, struct inner *n, __u32 stop)
{
	struct iphdr *ip = skb_at(skb, n->off, sizeof(*ip));
	__u32 header;

	if (!ip)
		return DROP_INNER_TRUNCATED;
	header = ip->ihl * 4;
	n->family = 4;
	n->tos = ip->tos;
	n->total = bpf_ntohs(ip->tot_len);
	n->df = ip->frag_off & bpf_htons(IP4_DF);
	n->l4proto = ip->protocol;
	n->l4 = ip->frag_off & bpf_htons(0x1fff) ? 0 : n->off + header;
	if (ip->version != 4 || header < sizeof(*ip))
		return DROP_INNER_HEADER;
	if (n->total < header || n->off + n->total > stop)
		return DROP_INNER_LENGTH;
	if (header == sizeof(*ip)) {
		if (fold(ip4_sum(ip)) != 0xffff)
			return DROP_INNER_CHECKSUM;
	} else if (!ip4_long_sum_ok(skb, n->off, header / 4)) {
		return DROP_INNER_CHECKSUM;
	}
	return 0;
}

always_inline int inner_ip6(struct __sk_buff *skb, struct inner *n, __u32 stop)
{
	struct ipv6hdr *ip = skb_at(skb, n->off, sizeof(*ip));

	if (!ip)
		return DROP_INNER_TRUNCATED;
	n->family = 6;
	n->tos = bpf_ntohs(*(__be16 *)ip) >> 4;
	n->total = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	n->df = true;
	n->l4proto = ip->nexthdr;
	n->l4 = n->off + sizeof(*ip);
	if (ip->version != 6)
		return DROP_INNER_HEADER;
	/* Length 0 with a hop-by-hop header is a jumbogram (RFC 2675). */
	if (n->off + n->total > stop || (!ip->payload_len && ip->nexthdr == IPPROTO_HOPOPTS))
		return DROP_INNER_LENGTH;
	return 0;
}

/* Takes one from the lifetime, as a router does. The caller has checked the header. */
always_inline int inner_age4(struct iphdr *ip)
{
	__u32 sum;

	if (ip->ttl <= 1)
		return DROP_TTL_EXPIRED;
	ip->ttl--;
	/* RFC 1141: the TTL is the high byte of its word. */
	sum = ip->check + bpf_htons(0x0100);
	ip->check = sum + (sum >= 0xffff);
	return 0;
}

always_inline int inner_age6(struct __sk_buff *skb, struct ipv6hdr *ip)
{
	if (ip->hop_limit <= 1)
		return DROP_TTL_EXPIRED;
	ip->hop_limit--;
	bpf_csum_update(skb, bpf_htons(0xfffe)); /* one less in the low byte of its word; only used by NICs that sum it all */
	return 0;
}

/* 169.254.0.0/16, 224.0.0.0/24, 255.255.255.255, 0.0.0.0/8 and loopback never leave their link or host. */
always_inline bool link_scope4(__be32 addr)
{
	__u32 a = bpf_ntohl(addr);

	return a >> 16 == 0xa9fe || a >> 8 == 0xe00000 || a == 0xffffffff || a >> 24 == 0 || a >> 24 == 127;
}

/* fe80::/10, ff01::/16, ff02::/16, :: and ::1. */
always_inline bool link_scope6(const __be32 *addr)
{
	__u32 a = bpf_ntohl(addr[0]);

	return a >> 22 == 0x3fa || (a & 0xff0f0000) == 0xff010000 || (a & 0xff0f0000) == 0xff020000 ||
	       (!a && !addr[1] && !addr[2] && bpf_ntohl(addr[3]) <= 1);
}

/* The congestion mark of the outer header goes into the inner one (RFC 6040 section 4.2). The inner DSCP stays as it is:
 * pipe model of RFC 2983, the provider's marking is nothing to the customer. */
always_inline int inner_ecn4(struct iphdr *ip, __u8 outer)
{
	__u8 ecn = ip->tos & ECN_MASK;
	__u8 want = ecn;
	__u32 sum;

	if (outer == ECN_CE) {
		if (!ecn)
			return DROP_ECN_CE_NOT_ECT;
		want = ECN_CE;
	} else if (outer == ECN_ECT1 && ecn == ECN_ECT0) {
		want = ECN_ECT1;
	}
	if (want == ecn)
		return 0;
	/* RFC 1624 equation 3; the mark is in the low byte of its word. */
	sum = (__u16)~ip->check + (__u16)~bpf_htons(ecn) + bpf_htons(want);
	ip->check = ~fold(sum);
	ip->tos = (ip->tos & ~ECN_MASK) | want;
	return 0;
}

always_inline int inner_ecn6(struct __sk_buff *skb, struct ipv6hdr *ip, __u8 outer)
{
	__be16 *word = (void *)ip;
	__be16 before = *word;
	__u8 ecn = (bpf_ntohs(before) >> 4) & ECN_MASK;
	__u8 want = ecn;

	if (outer == ECN_CE) {
		if (!ecn)
			return DROP_ECN_CE_NOT_ECT;
		want = ECN_CE;
	} else if (outer == ECN_ECT1 && ecn == ECN_ECT0) {
		want = ECN_ECT1;
	}
	if (want == ecn)
		return 0;
	*word = (before & bpf_htons((__u16)~(ECN_MASK << 4))) | bpf_htons(want << 4);
	bpf_csum_update(skb, (__u16)~before + *word);
	return 0;
}

#endif
