/* Frames to a group in a closed network with several layer 2 sites. */
#ifndef FLOOD_H
#define FLOOD_H

#include "answers.h"
#include "config.h"
#include "headers.h"
#include "inner.h"
#include "tunnels.h"
#include "vlans.h"

#define FLOOD_MARK 0x74650000U
#define FLOOD_MAX 16

/* Whether a frame is for every layer 2 site: what is sent to a group, and to a link-local address, of which nobody knows
 * where it is. Questions for one address have one place to go. */
always_inline bool for_all_sites(struct __sk_buff *skb)
{
	struct ethhdr *eth = skb_at(skb, 0, ETH_HLEN);
	struct ipv6hdr *ip;
	bool group, question;
	__be32 to[4];

	if (!eth || eth->h_proto == bpf_htons(ETH_P_ARP))
		return false;
	group = eth->h_dest[0] & 1;
	if (eth->h_proto != bpf_htons(ETH_P_IPV6))
		return group;
	question = nd_type(skb) == ND_SOLICITATION;
	ip = skb_at(skb, ETH_HLEN, sizeof(*ip) + (question ? 24 : 0));
	if (!ip)
		return group;
	if (!question)
		return group || link_scope6(ip->daddr.s6_addr32);
	copy_ip6(to, &((struct nd_message *)(ip + 1))->target);
	return link_scope6(to);
}

/* Such a frame: all sites but the first get a copy that comes in here again with the site's number as its mark; whoever
 * else set such a mark reaches only a site of the same VLAN by it. */
always_inline void flood(struct __sk_buff *skb, const struct vlan_row *row)
{
	struct tunnel_out *t = tunnel_out_get(row->first_l2);

	if ((skb->mark & 0xffff0000) == FLOOD_MARK || !for_all_sites(skb))
		return;
	for (int i = 0; i < FLOOD_MAX; i++) {
		__u32 next;

		if (!t)
			break;
		next = t->next_l2;
		t = tunnel_out_get(next);
		if (!t)
			break;
		skb->mark = FLOOD_MARK | next;
		bpf_clone_redirect(skb, inside_ifindex, BPF_F_INGRESS);
	}
	skb->mark = FLOOD_MARK | row->first_l2;
}

/* The site that a copy is for. */
always_inline struct tunnel_out *flooded_to(struct __sk_buff *skb, __u32 vlan)
{
	struct tunnel_out *t;

	if ((skb->mark & 0xffff0000) != FLOOD_MARK)
		return NULL;
	t = tunnel_out_get(skb->mark & 0xffff);
	return t && t->vlan == vlan && t->id.kind == KIND_VXLAN ? t : NULL;
}

#endif
