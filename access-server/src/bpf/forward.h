/* From the inside into a tunnel: the work that trunk and LAN have in common. */
#ifndef FORWARD_H
#define FORWARD_H

#include "counters.h"
#include "encap.h"
#include "inner.h"
#include "mss.h"
#include "paths.h"
#include "prefixes.h"
#include "tunnels.h"
#include "vlans.h"

always_inline int into_tunnel(struct __sk_buff *skb, const struct tunnel_out *t, struct inner *n)
{
	__u32 mtu = tunnel_mtu(t);

	if (is_syn(skb, n))
		mss_clamp(skb, n, mtu);
	return encap_ip(skb, t, n);
}

/* An untagged frame with an IPv4 packet. */
always_inline int forward_ip4(struct __sk_buff *skb, const struct vlan_row *row, __u32 vlan)
{
	struct inner n = { .off = ETH_HLEN };
	struct tunnel_out *t;
	struct iphdr *ip;
	int reason = inner_ip4(skb, &n, skb->len);

	if (reason)
		return drop(vlan, reason);
	ip = skb_at(skb, n.off, sizeof(*ip));
	if (!ip)
		return drop(vlan, DROP_INNER_TRUNCATED);
	t = tunnel_out_get(site_find4(row, vlan, ip->daddr));
	if (!t)
		return drop(vlan, DROP_NO_SITE);
	if (t->id.kind != KIND_VXLAN) {
		if (link_scope4(ip->daddr) || link_scope4(ip->saddr))
			return drop(vlan, DROP_LINK_SCOPE);
		reason = inner_age4(ip);
		if (reason)
			return drop(vlan, reason);
	}
	return into_tunnel(skb, t, &n);
}

always_inline int forward_ip6(struct __sk_buff *skb, const struct vlan_row *row, __u32 vlan)
{
	struct inner n = { .off = ETH_HLEN };
	struct tunnel_out *t;
	struct ipv6hdr *ip;
	int reason = inner_ip6(skb, &n, skb->len);

	if (reason)
		return drop(vlan, reason);
	ip = skb_at(skb, n.off, sizeof(*ip));
	if (!ip)
		return drop(vlan, DROP_INNER_TRUNCATED);
	t = tunnel_out_get(site_find6(row, vlan, ip->daddr.s6_addr32));
	if (!t)
		return drop(vlan, DROP_NO_SITE);
	if (t->id.kind != KIND_VXLAN) {
		if (link_scope6(ip->daddr.s6_addr32) || link_scope6(ip->saddr.s6_addr32))
			return drop(vlan, DROP_LINK_SCOPE);
		reason = inner_age6(skb, ip);
		if (reason)
			return drop(vlan, reason);
	}
	return into_tunnel(skb, t, &n);
}

#endif
