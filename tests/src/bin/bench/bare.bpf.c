// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * What the bench measures the product against and what it stands in for: a customer's gateway as a kernel tunnel device
 * would be one (encap_out, decap_in), and the bare path without tags, tables, checks and counters (decap_on, encap_on,
 * pass_on). IPv4 in IPIP, or in GRE without a key. Not for use: nothing is checked.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define TC_ACT_UNSPEC (-1)
#define TC_ACT_SHOT 2
#define GRE_LEN 4
#define DECAP_IPV4 (1ULL << 7) /* Linux 6.3; the headers of Debian 12 are those of 6.1 */

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* Network byte order. */
const volatile __u32 outer_local;
const volatile __u32 outer_remote;
const volatile __u32 ipip_to;
const volatile __u32 gre_to;
/* Where the *_on programs send. */
const volatile __u32 target;
const volatile bool target_is_peer;

static __always_inline struct iphdr *ip_at(struct __sk_buff *skb, __u32 length)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	return data + ETH_HLEN + length > end ? 0 : data + ETH_HLEN;
}

static __always_inline int send(struct __sk_buff *skb)
{
	/* Of the sender's namespace: means nothing on the other side. */
	skb->mark = 0;
	return target_is_peer ? bpf_redirect_peer(target, 0) : bpf_redirect(target, 0);
}

static __always_inline int encap(struct __sk_buff *skb, bool gre)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | (gre ? BPF_F_ADJ_ROOM_ENCAP_L4_GRE : 0);
	__u32 grow = sizeof(struct iphdr) + (gre ? GRE_LEN : 0);
	struct iphdr *ip;
	__u32 sum;

	if (bpf_skb_adjust_room(skb, grow, BPF_ADJ_ROOM_MAC, flags))
		return -1;
	ip = ip_at(skb, sizeof(*ip) + GRE_LEN);
	if (!ip)
		return -1;
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = bpf_htons(skb->len - ETH_HLEN);
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = 64;
	ip->protocol = gre ? IPPROTO_GRE : IPPROTO_IPIP;
	ip->saddr = outer_local;
	ip->daddr = outer_remote;
	sum = bpf_csum_diff(0, 0, (void *)ip, sizeof(*ip), 0);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	ip->check = ~sum;
	if (gre)
		*(__be32 *)(ip + 1) = bpf_htonl(ETH_P_IP);
	return 0;
}

/* 1: decapsulated, 0: not ours, -1: refused. */
static __always_inline int decap(struct __sk_buff *skb)
{
	struct iphdr *ip = ip_at(skb, sizeof(*ip));
	__s32 shrink = sizeof(*ip);

	if (!ip || ip->saddr != outer_remote || (ip->protocol != IPPROTO_IPIP && ip->protocol != IPPROTO_GRE))
		return 0;
	if (ip->protocol == IPPROTO_GRE)
		shrink += GRE_LEN;
	return bpf_skb_adjust_room(skb, -shrink, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO | DECAP_IPV4) ? -1 : 1;
}

/* Egress of the gateway's WAN device: a packet for one of the servers goes into its tunnel. */
SEC("tc")
int encap_out(struct __sk_buff *skb)
{
	struct iphdr *ip = ip_at(skb, sizeof(*ip));

	if (!ip || skb->protocol != bpf_htons(ETH_P_IP) || (ip->daddr != ipip_to && ip->daddr != gre_to))
		return TC_ACT_UNSPEC;
	return encap(skb, ip->daddr == gre_to) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

/* Ingress of the gateway's WAN device. */
SEC("tc")
int decap_in(struct __sk_buff *skb)
{
	return decap(skb) < 0 ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

SEC("tc")
int decap_on(struct __sk_buff *skb)
{
	return decap(skb) == 1 ? send(skb) : TC_ACT_UNSPEC;
}

SEC("tc")
int encap_on(struct __sk_buff *skb)
{
	return encap(skb, false) ? TC_ACT_SHOT : send(skb);
}

SEC("tc")
int pass_on(struct __sk_buff *skb)
{
	return send(skb);
}
