/* From the inside into a tunnel: the work that trunk and LAN have in common. */
#ifndef FORWARD_H
#define FORWARD_H

#include "counters.h"
#include "encap.h"
#include "icmp.h"
#include "inner.h"
#include "mss.h"
#include "paths.h"
#include "prefixes.h"
#include "slow_path.h"
#include "tunnels.h"
#include "vlans.h"

/* IPv6 never goes below this, whatever the path says (RFC 8200 section 5). */
#define IPV6_MTU_MIN 1280

/* Length of what will be on the wire: of a super-packet its segments. */
always_inline __u32 wire_len(struct __sk_buff *skb, const struct inner *n)
{
	__u32 size = skb->gso_size, headers;
	__u8 *l4;

	if (!size)
		return n->total;
	headers = n->l4 ? n->l4 - n->off : sizeof(struct ipv6hdr);
	if (n->l4proto == IPPROTO_UDP)
		return size + headers + sizeof(struct udp_header);
	l4 = n->l4proto == IPPROTO_TCP && n->l4 ? skb_at(skb, n->l4, TCP_HEADER) : NULL;
	return size + headers + (l4 ? (l4[12] >> 4) * 4 : TCP_HEADER);
}

/* Longer than the path takes: the sender is told or, where it allows that, the packet is cut. */
static __noinline int too_long(struct __sk_buff *skb, struct inner *n, __u32 vlan, __u32 mtu)
{
	if (!n)
		return TC_ACT_SHOT;
	if (!n->df)
		return to_slow_path(skb, n, vlan, mtu);
	if (!icmp_allowed(skb, n))
		return drop(vlan, DROP_TOO_LONG);
	if (!rate_allows(vlan, RATE_TOO_LONG))
		return drop(vlan, DROP_TOO_LONG_RATE);
	count_drop(vlan, DROP_TOO_LONG);
	if (n->family == 4)
		return icmp_refuse(skb, n, vlan, ICMP4_UNREACHABLE << 8 | ICMP4_FRAGMENTATION_NEEDED, mtu);
	return icmp_refuse(skb, n, vlan, ICMP6_TOO_BIG << 8, mtu);
}

/* The lifetime of a packet ends here. */
static __noinline int expired(struct __sk_buff *skb, struct inner *n, __u32 vlan)
{
	if (!n)
		return TC_ACT_SHOT;
	count_drop(vlan, DROP_TTL_EXPIRED);
	if (skb->gso_size || !icmp_allowed(skb, n) || !rate_allows(vlan, RATE_TOO_LONG))
		return TC_ACT_SHOT;
	return icmp_refuse(skb, n, vlan, (n->family == 4 ? ICMP4_TIME_EXCEEDED : ICMP6_TIME_EXCEEDED) << 8, 0);
}

/* Whether the packet fits, after the segment size was lowered where a connection starts. */
always_inline bool fits(struct __sk_buff *skb, const struct tunnel_out *t, const struct inner *n, __u32 *mtu)
{
	*mtu = tunnel_mtu(t);
	if (n->family == 6 && *mtu < IPV6_MTU_MIN)
		*mtu = IPV6_MTU_MIN;
	if (is_syn(skb, n))
		mss_clamp(skb, n, *mtu);
	return n->total <= *mtu || wire_len(skb, n) <= *mtu;
}

/* An untagged frame with an IPv4 packet; `t`: the site where that is decided already, or NULL. */
always_inline int forward_ip4(struct __sk_buff *skb, const struct vlan_row *row, __u32 vlan, struct tunnel_out *t)
{
	struct inner n = { .off = ETH_HLEN };
	struct iphdr *ip;
	__u32 mtu;
	int reason = inner_ip4(skb, &n, skb->len);

	if (reason)
		return drop(vlan, reason);
	ip = skb_at(skb, n.off, sizeof(*ip));
	if (!ip)
		return drop(vlan, DROP_INNER_TRUNCATED);
	if (!t)
		t = tunnel_out_get(site_find4(row, vlan, ip->daddr));
	if (!t && link_scope4(ip->daddr))
		t = tunnel_out_get(row->first_l2); /* no prefix has it, but there is a link */
	if (!t)
		return drop(vlan, DROP_NO_SITE);
	if (t->id.kind != KIND_VXLAN) {
		if (link_scope4(ip->daddr) || link_scope4(ip->saddr))
			return drop(vlan, DROP_LINK_SCOPE);
		if (ip->ttl <= 1)
			return expired(skb, &n, vlan);
	}
	if (!fits(skb, t, &n, &mtu))
		return too_long(skb, &n, vlan, mtu);
	if (t->id.kind != KIND_VXLAN) {
		/* Not before: user space sends the pieces of a long packet through here again. */
		ip = skb_at(skb, n.off, sizeof(*ip));
		if (!ip)
			return drop(vlan, DROP_INNER_TRUNCATED);
		inner_age4(ip);
	}
	return encap_ip(skb, t, &n);
}

always_inline int forward_ip6(struct __sk_buff *skb, const struct vlan_row *row, __u32 vlan, struct tunnel_out *t)
{
	struct inner n = { .off = ETH_HLEN };
	struct ipv6hdr *ip;
	__u32 mtu;
	int reason = inner_ip6(skb, &n, skb->len);

	if (reason)
		return drop(vlan, reason);
	ip = skb_at(skb, n.off, sizeof(*ip));
	if (!ip)
		return drop(vlan, DROP_INNER_TRUNCATED);
	if (!t)
		t = tunnel_out_get(site_find6(row, vlan, ip->daddr.s6_addr32));
	if (!t && link_scope6(ip->daddr.s6_addr32))
		t = tunnel_out_get(row->first_l2);
	if (!t)
		return drop(vlan, DROP_NO_SITE);
	if (t->id.kind != KIND_VXLAN) {
		if (link_scope6(ip->daddr.s6_addr32) || link_scope6(ip->saddr.s6_addr32))
			return drop(vlan, DROP_LINK_SCOPE);
		if (ip->hop_limit <= 1)
			return expired(skb, &n, vlan);
	}
	if (!fits(skb, t, &n, &mtu))
		return too_long(skb, &n, vlan, mtu);
	if (t->id.kind != KIND_VXLAN) {
		ip = skb_at(skb, n.off, sizeof(*ip));
		if (!ip)
			return drop(vlan, DROP_INNER_TRUNCATED);
		inner_age6(skb, ip);
	}
	return encap_ip(skb, t, &n);
}

#endif
