/* A site's LAN: the servers behind the tunnel are made to look as if they were on it. */
#ifndef LAN_H
#define LAN_H

#include "answers.h"
#include "config.h"
#include "counters.h"
#include "forward.h"
#include "locals.h"
#include "vlans.h"

always_inline int lan_arp(struct __sk_buff *skb)
{
	__be32 target;

	if (!arp_question(skb, &target) || !is_server4(target))
		return TC_ACT_UNSPEC;
	if (!rate_allows(SITE_VLAN, RATE_NEIGHBOUR))
		return drop(SITE_VLAN, DROP_ARP_RATE);
	return arp_answer(skb, 0, lan_mac);
}

always_inline int lan_ip4(struct __sk_buff *skb)
{
	struct iphdr *ip = skb_at(skb, ETH_HLEN, sizeof(*ip));
	struct vlan_row *row;

	/* Frames to others come along when the device listens to all. */
	if (!ip || skb->pkt_type != 0 || !is_server4(ip->daddr))
		return TC_ACT_UNSPEC;
	row = vlan_get(SITE_VLAN);
	return row ? forward_ip4(skb, row, SITE_VLAN) : drop(SITE_VLAN, DROP_NO_SITE);
}

always_inline int lan_ip6(struct __sk_buff *skb)
{
	struct ipv6hdr *ip = skb_at(skb, ETH_HLEN, sizeof(*ip));
	struct vlan_row *row;
	__be32 target[4];

	if (!ip)
		return TC_ACT_UNSPEC;
	if (nd_question(skb, target) && is_server6(target)) {
		if (!rate_allows(SITE_VLAN, RATE_NEIGHBOUR))
			return drop(SITE_VLAN, DROP_ARP_RATE);
		return nd_answer(skb, 0, lan_mac);
	}
	ip = skb_at(skb, ETH_HLEN, sizeof(*ip));
	if (!ip)
		return TC_ACT_UNSPEC;
	copy_ip6(target, &ip->daddr);
	if (skb->pkt_type != 0 || !is_server6(target))
		return TC_ACT_UNSPEC;
	row = vlan_get(SITE_VLAN);
	return row ? forward_ip6(skb, row, SITE_VLAN) : drop(SITE_VLAN, DROP_NO_SITE);
}

#endif
