/* ICMP errors to the sender of a packet, made of that packet and sent back the way it came: in the right tenant or LAN.
 * They come in the name of the packet's destination, the only address here that means something in that network. */
#ifndef ICMP_H
#define ICMP_H

#include "answers.h"
#include "counters.h"
#include "headers.h"
#include "inner.h"
#include "rates.h"

#define ICMP4_UNREACHABLE 3
#define ICMP4_FRAGMENTATION_NEEDED 4
#define ICMP4_TIME_EXCEEDED 11
#define ICMP6_TOO_BIG 2
#define ICMP6_TIME_EXCEEDED 3

#define ICMP4_GROW (sizeof(struct iphdr) + sizeof(struct icmp_header))
#define ICMP6_GROW (sizeof(struct ipv6hdr) + sizeof(struct icmp_header))

/* How much of the packet is quoted: constants, because the checksum helper wants a length that the verifier knows. The
 * least is an IP header and 8 bytes (RFC 792). */
always_inline __u32 quote_len(__u32 total)
{
	if (total >= 128)
		return 128;
	if (total >= 64)
		return 64;
	if (total >= 52)
		return 52;
	return total >= 28 ? 28 : 0;
}

/* Sum of an ICMP message of 8 bytes and the quote, at off. Below 0: not there. */
always_inline __s64 icmp_sum(struct __sk_buff *skb, __u32 off, __u32 quote, __u32 seed)
{
	void *p;

	if (quote == 128) {
		p = skb_at(skb, off, 8 + 128);
		return p ? bpf_csum_diff(0, 0, p, 8 + 128, seed) : -1;
	}
	if (quote == 64) {
		p = skb_at(skb, off, 8 + 64);
		return p ? bpf_csum_diff(0, 0, p, 8 + 64, seed) : -1;
	}
	if (quote == 52) {
		p = skb_at(skb, off, 8 + 52);
		return p ? bpf_csum_diff(0, 0, p, 8 + 52, seed) : -1;
	}
	p = skb_at(skb, off, 8 + 28);
	return p ? bpf_csum_diff(0, 0, p, 8 + 28, seed) : -1;
}

always_inline void turn_ethernet(struct ethhdr *eth)
{
	__u8 mac[6];

	__builtin_memcpy(mac, eth->h_dest, 6);
	__builtin_memcpy(eth->h_dest, eth->h_source, 6);
	__builtin_memcpy(eth->h_source, mac, 6);
}

/* Makes the untagged frame into an ICMP error about itself. 0: done. */
static __noinline int icmp4_error(struct __sk_buff *skb, __u32 type_code, __u32 rest, __u32 total)
{
	__u32 quote = quote_len(total);
	struct icmp_header *icmp;
	struct iphdr *ip, *old;
	__s64 sum;

	if (!quote || bpf_skb_change_tail(skb, ETH_HLEN + quote, 0) ||
	    bpf_skb_adjust_room(skb, ICMP4_GROW, BPF_ADJ_ROOM_MAC, 0))
		return -1;
	bpf_skb_pull_data(skb, ETH_HLEN + ICMP4_GROW + quote);
	ip = skb_at(skb, ETH_HLEN, ICMP4_GROW + sizeof(*old));
	if (!ip)
		return -1;
	icmp = (void *)(ip + 1);
	old = (void *)(icmp + 1);
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = bpf_htons(ICMP4_GROW + quote);
	ip->ttl = 64;
	ip->protocol = IPPROTO_ICMP;
	ip->saddr = old->daddr;
	ip->daddr = old->saddr;
	ip->check = ~fold(ip4_sum(ip));
	icmp->type = type_code >> 8;
	icmp->code = type_code;
	icmp->check = 0;
	icmp->rest = bpf_htonl(rest);
	sum = icmp_sum(skb, ETH_HLEN + sizeof(*ip), quote, 0);
	icmp = skb_at(skb, ETH_HLEN + sizeof(*ip), sizeof(*icmp));
	if (sum < 0 || !icmp)
		return -1;
	icmp->check = ~fold(sum & 0xffffffff);

	struct ethhdr *eth = skb_at(skb, 0, ETH_HLEN);

	if (!eth)
		return -1;
	turn_ethernet(eth);
	return 0;
}

static __noinline int icmp6_error(struct __sk_buff *skb, __u32 type_code, __u32 rest, __u32 total)
{
	__u32 quote = quote_len(total), len, seed;
	struct icmp_header *icmp;
	struct ipv6hdr *ip, *old;
	__s64 sum;

	if (quote < 52 || bpf_skb_change_tail(skb, ETH_HLEN + quote, 0) ||
	    bpf_skb_adjust_room(skb, ICMP6_GROW, BPF_ADJ_ROOM_MAC, 0))
		return -1;
	bpf_skb_pull_data(skb, ETH_HLEN + ICMP6_GROW + quote);
	ip = skb_at(skb, ETH_HLEN, ICMP6_GROW + sizeof(*old));
	if (!ip)
		return -1;
	icmp = (void *)(ip + 1);
	old = (void *)(icmp + 1);
	len = sizeof(*icmp) + quote;
	*(__be32 *)ip = bpf_htonl(6U << 28);
	ip->payload_len = bpf_htons(len);
	ip->nexthdr = IPPROTO_ICMPV6;
	ip->hop_limit = 64;
	ip->saddr = old->daddr;
	ip->daddr = old->saddr;
	icmp->type = type_code >> 8;
	icmp->code = type_code;
	icmp->check = 0;
	icmp->rest = bpf_htonl(rest);
	seed = bpf_csum_diff(0, 0, (void *)&ip->saddr, 32, bpf_htonl(len + IPPROTO_ICMPV6));
	sum = icmp_sum(skb, ETH_HLEN + sizeof(*ip), quote, seed);
	icmp = skb_at(skb, ETH_HLEN + sizeof(*ip), sizeof(*icmp));
	if (sum < 0 || !icmp)
		return -1;
	icmp->check = ~fold(sum & 0xffffffff);

	struct ethhdr *eth = skb_at(skb, 0, ETH_HLEN);

	if (!eth)
		return -1;
	turn_ethernet(eth);
	return 0;
}

/* Who must not be told: RFC 1122 section 3.2.2, RFC 4443 section 2.4(e). */
always_inline bool icmp_allowed(struct __sk_buff *skb, const struct inner *n)
{
	if (n->family == 4) {
		struct iphdr *ip = skb_at(skb, n->off, sizeof(*ip));
		__u8 *type;

		if (!ip || !n->l4 || !ip->saddr || bpf_ntohl(ip->saddr) >= 0xe0000000 || bpf_ntohl(ip->daddr) >= 0xe0000000)
			return false;
		if (n->l4proto != IPPROTO_ICMP)
			return true;
		type = skb_at(skb, n->l4, 1);
		return type && (*type == 0 || *type == 8);
	}
	struct ipv6hdr *ip = skb_at(skb, n->off, sizeof(*ip));
	__u8 *type;

	if (!ip || link_scope6(ip->saddr.s6_addr32) || ip->saddr.s6_addr[0] == 0xff)
		return false;
	if (n->l4proto != IPPROTO_ICMPV6)
		return true;
	type = skb_at(skb, n->l4, 1);
	return type && *type >= 128;
}

/* The frame goes back as an error, or not at all. The reason is counted either way: the packet itself is lost. */
always_inline int icmp_refuse(struct __sk_buff *skb, const struct inner *n, __u32 vlan, __u32 type_code, __u32 rest)
{
	int failed;

	if (n->family == 4)
		failed = icmp4_error(skb, type_code, rest, n->total);
	else
		failed = icmp6_error(skb, type_code, rest, n->total);
	return failed ? TC_ACT_SHOT : answer_back(skb, vlan);
}

#endif
