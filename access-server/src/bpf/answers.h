/* Answers to ARP and neighbour questions, made of the question itself. */
#ifndef ANSWERS_H
#define ANSWERS_H

#include "config.h"
#include "counters.h"
#include "headers.h"
#include "rates.h"

#define ND_SOLICITATION 135
#define ND_ADVERTISEMENT 136
#define ND_ROUTER_SOLICITATION 133
#define ND_SOLICITED_OVERRIDE 0x60000000U
#define ND_TARGET_LINK_ADDRESS 2

#define ND_FRAME (ETH_HLEN + sizeof(struct ipv6hdr) + sizeof(struct nd_message))

/* Back to where it came from; `vlan` 0: without a tag. */
always_inline int answer_back(struct __sk_buff *skb, __u32 vlan)
{
	if (vlan && role == ROLE_SERVER && bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), vlan))
		return TC_ACT_SHOT;
	bpf_skb_change_type(skb, PACKET_HOST); /* the question was a broadcast, the answer is not */
	return send_inside();
}

/* The target of an ARP request that wants an answer. Silent for duplicate detection (RFC 5227: sender 0) and for an
 * announcement (sender == target): an answer would take the address from its owner. */
always_inline bool arp_question(struct __sk_buff *skb, __be32 *target)
{
	struct arp_packet *arp = skb_at(skb, ETH_HLEN, sizeof(*arp));
	__be32 sender;

	if (!arp || arp->hardware != bpf_htons(1) || arp->protocol != bpf_htons(ETH_P_IP) || arp->hardware_len != 6 ||
	    arp->protocol_len != 4 || arp->operation != bpf_htons(1))
		return false;
	__builtin_memcpy(&sender, arp->sender, 4);
	__builtin_memcpy(target, arp->target, 4);
	return sender && sender != *target;
}

always_inline int arp_answer(struct __sk_buff *skb, __u32 vlan, const volatile __u8 *mac)
{
	struct arp_packet *arp = skb_at(skb, ETH_HLEN, sizeof(*arp));
	struct ethhdr *eth = skb_at(skb, 0, ETH_HLEN + sizeof(*arp));
	__u8 target[4];

	if (!arp || !eth)
		return drop(vlan, DROP_ARP_MALFORMED);
	__builtin_memcpy(target, arp->target, 4);
	arp->operation = bpf_htons(2);
	__builtin_memcpy(arp->target, arp->sender, 4);
	__builtin_memcpy(arp->target_mac, arp->sender_mac, 6);
	__builtin_memcpy(arp->sender, target, 4);
	__builtin_memcpy(eth->h_dest, eth->h_source, 6);
	for (int i = 0; i < 6; i++) {
		arp->sender_mac[i] = mac[i];
		eth->h_source[i] = mac[i];
	}
	return answer_back(skb, vlan);
}

/* Type of a neighbour or router discovery message (RFC 4861), 0 for anything else. */
always_inline __u8 nd_type(struct __sk_buff *skb)
{
	struct ipv6hdr *ip = skb_at(skb, ETH_HLEN, sizeof(*ip) + 4);
	__u8 type;

	if (!ip || ip->nexthdr != IPPROTO_ICMPV6 || ip->hop_limit != 255)
		return 0;
	type = *(__u8 *)(ip + 1);
	return type >= ND_ROUTER_SOLICITATION && type <= 137 ? type : 0;
}

/* The target of a solicitation that wants an answer; silent for duplicate detection (source ::). */
always_inline bool nd_question(struct __sk_buff *skb, __be32 *target)
{
	struct ipv6hdr *ip = skb_at(skb, ETH_HLEN, sizeof(*ip) + 24);
	struct nd_message *nd;
	__be32 from[4];

	if (!ip || nd_type(skb) != ND_SOLICITATION)
		return false;
	nd = (void *)(ip + 1);
	copy_ip6(target, &nd->target);
	copy_ip6(from, &ip->saddr);
	if (!from[0] && !from[1] && !from[2] && !from[3])
		return false;
	return from[0] != target[0] || from[1] != target[1] || from[2] != target[2] || from[3] != target[3];
}

always_inline int nd_answer(struct __sk_buff *skb, __u32 vlan, const volatile __u8 *mac)
{
	struct ethhdr *eth;
	struct ipv6hdr *ip;
	struct nd_message *nd;
	__s64 sum;

	if (skb->len != ND_FRAME && bpf_skb_change_tail(skb, ND_FRAME, 0))
		return drop(vlan, DROP_ARP_MALFORMED);
	eth = skb_at(skb, 0, ND_FRAME);
	if (!eth)
		return drop(vlan, DROP_ARP_MALFORMED);
	ip = (void *)(eth + 1);
	nd = (void *)(ip + 1);
	__builtin_memcpy(eth->h_dest, eth->h_source, 6);
	ip->payload_len = bpf_htons(sizeof(*nd));
	ip->daddr = ip->saddr;
	ip->saddr = nd->target;
	nd->type = ND_ADVERTISEMENT;
	nd->code = 0;
	nd->check = 0;
	nd->flags = bpf_htonl(ND_SOLICITED_OVERRIDE);
	nd->option = ND_TARGET_LINK_ADDRESS;
	nd->option_len = 1;
	for (int i = 0; i < 6; i++) {
		nd->mac[i] = mac[i];
		eth->h_source[i] = mac[i];
	}
	sum = bpf_csum_diff(0, 0, (void *)&ip->saddr, 32, bpf_htonl(sizeof(*nd) + IPPROTO_ICMPV6));
	sum = bpf_csum_diff(0, 0, (void *)nd, sizeof(*nd), sum);
	nd->check = ~fold(sum & 0xffffffff);
	return answer_back(skb, vlan);
}

#endif
