/* A site's LAN: the servers behind the tunnel are made to look as if they were on it. */
#ifndef LAN_H
#define LAN_H

#include "answers.h"
#include "config.h"
#include "counters.h"
#include "forward.h"
#include "locals.h"
#include "vlans.h"

/* The site's tunnel carries frames: the servers answer for themselves. */
always_inline struct tunnel_out *lan_bridge(const struct vlan_row *row)
{
	return row->first_l2 == TUNNEL_NONE ? NULL : tunnel_out_get(row->first_l2);
}

/* The destination is known to be a server: with one tunnel there is nothing to choose. */
always_inline struct tunnel_out *lan_only(const struct vlan_row *row)
{
	return tunnel_out_get(row->single);
}

always_inline int lan_arp(struct __sk_buff *skb)
{
	struct arp_packet *arp = skb_at(skb, ETH_HLEN, sizeof(*arp));
	struct vlan_row *row = vlan_get(SITE_VLAN);
	struct tunnel_out *bridge;
	__be32 target;

	if (!arp || !row)
		return TC_ACT_UNSPEC;
	__builtin_memcpy(&target, arp->target, 4);
	if (!is_server4(target))
		return TC_ACT_UNSPEC;
	bridge = lan_bridge(row);
	if (bridge)
		return encap_frame(skb, bridge);
	if (!arp_question(skb, &target))
		return TC_ACT_UNSPEC;
	if (!rate_allows(SITE_VLAN, RATE_NEIGHBOUR))
		return drop(SITE_VLAN, DROP_ARP_RATE);
	return arp_answer(skb, 0, lan_mac);
}

always_inline int lan_ip4(struct __sk_buff *skb)
{
	struct iphdr *ip = skb_at(skb, ETH_HLEN, sizeof(*ip));
	struct vlan_row *row;

	if (!ip || !is_server4(ip->daddr))
		return TC_ACT_UNSPEC;
	row = vlan_get(SITE_VLAN);
	if (!row)
		return drop(SITE_VLAN, DROP_NO_SITE);
	/* Frames to others come along when the device listens to all; to a bridged server they are ours all the same. */
	if (skb->pkt_type != PACKET_HOST && row->first_l2 == TUNNEL_NONE)
		return TC_ACT_UNSPEC;
	return forward_ip4(skb, row, SITE_VLAN, lan_only(row));
}

always_inline int lan_ip6(struct __sk_buff *skb)
{
	struct ipv6hdr *ip = skb_at(skb, ETH_HLEN, sizeof(*ip));
	struct vlan_row *row = vlan_get(SITE_VLAN);
	struct tunnel_out *bridge;
	__be32 target[4];

	if (!ip)
		return TC_ACT_UNSPEC;
	if (nd_question(skb, target) && is_server6(target) && row) {
		bridge = lan_bridge(row);
		if (bridge)
			return forward_ip6(skb, row, SITE_VLAN, bridge);
		if (!rate_allows(SITE_VLAN, RATE_NEIGHBOUR))
			return drop(SITE_VLAN, DROP_ARP_RATE);
		return nd_answer(skb, 0, lan_mac);
	}
	ip = skb_at(skb, ETH_HLEN, sizeof(*ip));
	if (!ip)
		return TC_ACT_UNSPEC;
	copy_ip6(target, &ip->daddr);
	if (!is_server6(target))
		return TC_ACT_UNSPEC;
	if (!row)
		return drop(SITE_VLAN, DROP_NO_SITE);
	if (skb->pkt_type != PACKET_HOST && row->first_l2 == TUNNEL_NONE)
		return TC_ACT_UNSPEC;
	return forward_ip6(skb, row, SITE_VLAN, lan_only(row));
}

#endif
