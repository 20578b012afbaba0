/* Frames to a group in a closed network with several layer 2 sites. */
#ifndef FLOOD_H
#define FLOOD_H

#include "answers.h"
#include "config.h"
#include "headers.h"
#include "tunnels.h"
#include "vlans.h"

#define FLOOD_MARK 0x74650000U
#define FLOOD_MAX 16

/* A frame to a group goes to every layer 2 site of the VLAN. All but the first get a copy that comes in here again with
 * the site's number as its mark; whoever else set such a mark reaches only a site of the same VLAN by it. */
always_inline void flood(struct __sk_buff *skb, const struct vlan_row *row)
{
	struct tunnel_out *t = tunnel_out_get(row->first_l2);
	struct ethhdr *eth = skb_at(skb, 0, ETH_HLEN);
	__u8 nd;

	if ((skb->mark & 0xffff0000) == FLOOD_MARK || !eth || !(eth->h_dest[0] & 1))
		return;
	/* Questions for one address have one place to go. */
	nd = eth->h_proto == bpf_htons(ETH_P_IPV6) ? nd_type(skb) : 0;
	if (eth->h_proto == bpf_htons(ETH_P_ARP) || nd == ND_SOLICITATION || nd == ND_ADVERTISEMENT)
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
