/* The trunk's tag, and the ARP and neighbour messages of servers that are not ours (ours never ask). */
#ifndef TRUNK_H
#define TRUNK_H

#include "answers.h"
#include "counters.h"
#include "flood.h"
#include "forward.h"
#include "headers.h"
#include "prefixes.h"
#include "vlans.h"

/* The VLAN of the frame's tag or, below 0, the negative drop_reason. */
always_inline int read_tag(struct __sk_buff *skb)
{
	__be16 *tag;

	if (skb->vlan_present)
		return skb->vlan_proto == bpf_htons(ETH_P_8021Q) ? (int)(skb->vlan_tci & 0xfff) : -DROP_TAG_TYPE;
	/* The kernel takes tags out of frames before it calls us, but not for its own test runs and not for what user space
	 * sends out of a device. */
	tag = skb_at(skb, ETH_HLEN - 2, 4);
	if (!tag || tag[0] != bpf_htons(ETH_P_8021Q))
		return tag && tag[0] == bpf_htons(ETH_P_8021AD) ? -DROP_TAG_TYPE : -DROP_UNTAGGED;
	return bpf_ntohs(tag[1]) & 0xfff;
}

/* ARP: bridged to a layer 2 site; in the name of a layer 3 site answered here. */
always_inline int trunk_arp(struct __sk_buff *skb, const struct vlan_row *row, __u32 vlan)
{
	struct arp_packet *arp = skb_at(skb, ETH_HLEN, sizeof(*arp));
	struct tunnel_out *t;
	__be32 target;

	if (!arp)
		return drop(vlan, DROP_ARP_MALFORMED);
	__builtin_memcpy(&target, arp->target, 4);
	t = tunnel_out_get(site_find4(row, vlan, target));
	if (!t)
		return drop(vlan, DROP_NO_SITE);
	if (t->id.kind == KIND_VXLAN)
		return encap_frame(skb, t);
	if (!arp_question(skb, &target) || link_scope4(target))
		return drop(vlan, DROP_ARP_CONSUMED);
	if (!rate_allows(vlan, RATE_NEIGHBOUR))
		return drop(vlan, DROP_ARP_RATE);
	return arp_answer(skb, vlan, row->gateway_mac);
}

/* Neighbour discovery of a VLAN whose site for the target is on layer 3. */
always_inline int trunk_nd(struct __sk_buff *skb, const struct vlan_row *row, __u32 vlan)
{
	__be32 target[4];

	if (!nd_question(skb, target) || link_scope6(target))
		return drop(vlan, DROP_ARP_CONSUMED);
	if (!rate_allows(vlan, RATE_NEIGHBOUR))
		return drop(vlan, DROP_ARP_RATE);
	return nd_answer(skb, vlan, row->gateway_mac);
}

/* IPv6: a neighbour question goes where its target lies, not to the multicast group it is sent to, and an answer to
 * where its asker is. Addresses that mean something on a link only lie behind no prefix: those go on with the rest. */
always_inline int trunk_ip6(struct __sk_buff *skb, const struct vlan_row *row, __u32 vlan, struct tunnel_out *t)
{
	__u8 type = nd_type(skb);

	if (!t && (type == ND_SOLICITATION || type == ND_ADVERTISEMENT)) {
		struct ipv6hdr *ip = skb_at(skb, ETH_HLEN, sizeof(*ip) + 24);
		struct nd_message *nd = (void *)(ip + 1);
		__be32 to[4];

		if (!ip)
			return drop(vlan, DROP_ARP_MALFORMED);
		copy_ip6(to, type == ND_SOLICITATION ? &nd->target : &ip->daddr);
		t = tunnel_out_get(site_find6(row, vlan, to));
		if (!t && link_scope6(to))
			t = tunnel_out_get(row->first_l2);
		if (!t)
			return drop(vlan, DROP_NO_SITE);
		if (t->id.kind != KIND_VXLAN)
			return trunk_nd(skb, row, vlan);
	}
	return forward_ip6(skb, row, vlan, t);
}

/* A tagged frame from the servers. */
always_inline int trunk_frame(struct __sk_buff *skb)
{
	struct tunnel_out *t = NULL;
	int vlan = read_tag(skb);
	struct vlan_row *row;
	struct ethhdr *eth;

	if (vlan < 0)
		return drop(0, -vlan);
	row = vlan_get(vlan);
	if (!row)
		return drop(0, DROP_UNKNOWN_VLAN);
	if (row->flags & VLAN_FLOOD) {
		flood(skb, row);
		t = flooded_to(skb, vlan);
	}
	if (bpf_skb_vlan_pop(skb))
		return drop(vlan, DROP_UNTAGGED);
	if (skb->vlan_present)
		return drop(vlan, DROP_TWO_TAGS);
	pull_headers(skb);
	eth = skb_at(skb, 0, ETH_HLEN);
	if (!eth)
		return drop(vlan, DROP_INNER_TRUNCATED);
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return forward_ip4(skb, row, vlan, t);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		return trunk_ip6(skb, row, vlan, t);
	if (eth->h_proto == bpf_htons(ETH_P_ARP))
		return trunk_arp(skb, row, vlan);
	if (eth->h_proto == bpf_htons(ETH_P_8021Q) || eth->h_proto == bpf_htons(ETH_P_8021AD))
		return drop(vlan, DROP_TWO_TAGS);
	return drop(vlan, DROP_ETHERTYPE);
}

#endif
