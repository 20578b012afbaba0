/* Taking a packet out of its tunnel and sending it on with the tag of its closed network. */
#ifndef DECAP_H
#define DECAP_H

#include "config.h"
#include "counters.h"
#include "encap.h"
#include "headers.h"
#include "icmp.h"
#include "inner.h"
#include "mss.h"
#include "outer.h"
#include "paths.h"
#include "prefixes.h"
#include "tunnels.h"

/* Removes everything between the outer Ethernet header and the inner IP packet at n->off. */
always_inline int strip_outer(struct __sk_buff *skb, const struct inner *n, __u8 outer_family)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;

	/* Only where the family changes: kernels before 6.3 do not know these flags, and do the rest without them. */
	if (n->family != outer_family)
		flags |= n->family == 4 ? ADJ_DECAP_L3_IPV4 : ADJ_DECAP_L3_IPV6;
	return bpf_skb_adjust_room(skb, -(__s32)(n->off - ETH_HLEN), BPF_ADJ_ROOM_MAC, flags);
}

/* Checks the inner packet of a layer 3 tunnel as a router would. 0 or a drop_reason. */
always_inline int route_inner(struct __sk_buff *skb, const struct tunnel_in *t, struct inner *n, const struct outer *o)
{
	__u32 reason;

	n->off = o->off;
	if (o->proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip;

		reason = inner_ip4(skb, n, o->stop);
		if (reason)
			return reason;
		ip = skb_at(skb, n->off, sizeof(*ip));
		if (!ip)
			return DROP_INNER_TRUNCATED;
		if (link_scope4(ip->saddr) || link_scope4(ip->daddr))
			return DROP_LINK_SCOPE;
		reason = inner_age4(ip);
		if (!reason)
			reason = inner_ecn4(ip, o->ecn);
		if (!reason && t->flags & TUNNEL_CHECK_SOURCE && prefix_find4(t->vlan, ip->saddr) != t->index)
			reason = DROP_INNER_SOURCE;
	} else {
		struct ipv6hdr *ip;

		reason = inner_ip6(skb, n, o->stop);
		if (reason)
			return reason;
		ip = skb_at(skb, n->off, sizeof(*ip));
		if (!ip)
			return DROP_INNER_TRUNCATED;
		if (link_scope6(ip->saddr.s6_addr32) || link_scope6(ip->daddr.s6_addr32))
			return DROP_LINK_SCOPE;
		reason = inner_age6(skb, ip);
		if (!reason)
			reason = inner_ecn6(skb, ip, o->ecn);
		if (!reason && t->flags & TUNNEL_CHECK_SOURCE && prefix_find6(t->vlan, ip->saddr.s6_addr32) != t->index)
			reason = DROP_INNER_SOURCE;
	}
	return reason;
}

/* Checks the inner frame of a layer 2 tunnel: it is bridged, so lifetime and link scope are not our business. */
always_inline int bridge_inner(struct __sk_buff *skb, const struct tunnel_in *t, struct inner *n, struct outer *o)
{
	struct ethhdr *eth = skb_at(skb, o->off, ETH_HLEN);
	__u32 reason;

	if (!eth || o->off + ETH_HLEN > o->stop)
		return DROP_INNER_TRUNCATED;
	o->proto = eth->h_proto;
	n->off = o->off + ETH_HLEN;
	if (o->proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip;

		reason = inner_ip4(skb, n, o->stop);
		if (reason)
			return reason;
		ip = skb_at(skb, n->off, sizeof(*ip));
		if (!ip)
			return DROP_INNER_TRUNCATED;
		reason = inner_ecn4(ip, o->ecn);
		if (!reason && t->flags & TUNNEL_CHECK_SOURCE && ip->saddr && prefix_find4(t->vlan, ip->saddr) != t->index)
			reason = DROP_INNER_SOURCE;
		return reason;
	}
	if (o->proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip;

		reason = inner_ip6(skb, n, o->stop);
		if (reason)
			return reason;
		ip = skb_at(skb, n->off, sizeof(*ip));
		if (!ip)
			return DROP_INNER_TRUNCATED;
		reason = inner_ecn6(skb, ip, o->ecn);
		if (!reason && t->flags & TUNNEL_CHECK_SOURCE && !link_scope6(ip->saddr.s6_addr32) &&
		    prefix_find6(t->vlan, ip->saddr.s6_addr32) != t->index)
			reason = DROP_INNER_SOURCE;
		return reason;
	}
	if (o->proto == bpf_htons(ETH_P_ARP)) {
		struct arp_packet *arp = skb_at(skb, n->off, sizeof(*arp));

		if (!arp || n->off + sizeof(*arp) > o->stop)
			return DROP_INNER_TRUNCATED;
		n->family = 4;
		n->total = sizeof(*arp);
		/* The sender claims an address: it must lie behind the tunnel too. */
		if (t->flags & TUNNEL_CHECK_SOURCE) {
			__be32 sender;

			__builtin_memcpy(&sender, arp->sender, 4);
			if (sender && prefix_find4(t->vlan, sender) != t->index)
				return DROP_INNER_SOURCE;
		}
		return 0;
	}
	if (o->proto == bpf_htons(ETH_P_8021Q) || o->proto == bpf_htons(ETH_P_8021AD))
		return DROP_INNER_TAGGED;
	return DROP_INNER_ETHERTYPE;
}

/* The kernel took an inner ARP for the IP around it. A tag pushed onto another one (or onto the first of two) puts that
 * into the frame; when it is taken back the kernel reads the Ethernet type. Matters where a stack gets the packet without
 * reading its header again: behind a peer hop. */
always_inline int name_protocol(struct __sk_buff *skb)
{
	return bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), 1) || bpf_skb_vlan_pop(skb);
}

/* To the servers: Ethernet header, tag, trunk. */
always_inline int to_trunk(struct __sk_buff *skb, const struct tunnel_in *t, const struct ethhdr *frame)
{
	struct ethhdr *eth = skb_at(skb, 0, ETH_HLEN);

	if (!eth)
		return drop(t->vlan, DROP_DECAP_FAILED);
	*eth = *frame;
	if (bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), t->vlan))
		return drop(t->vlan, DROP_DECAP_FAILED);
	if (frame->h_proto == bpf_htons(ETH_P_ARP) && name_protocol(skb))
		return drop(t->vlan, DROP_DECAP_FAILED);
	skb->mark = 0;
	return send_inside();
}

/* To a host of the LAN, found by its address. */
always_inline int to_lan(__u32 family, const __be32 *host)
{
	struct bpf_redir_neigh nh = {};

	if (family == 4) {
		nh.nh_family = AF_INET;
		nh.ipv4_nh = host[0];
	} else {
		nh.nh_family = AF_INET6;
		__builtin_memcpy(nh.ipv6_nh, host, 16);
	}
	return bpf_redirect_neigh(inside_ifindex, &nh, sizeof(nh), 0);
}

/* The lifetime of a layer 3 packet ends here: its sender is told through the tunnel it came by. */
static __noinline int expired_outside(struct __sk_buff *skb, const struct tunnel_in *t, struct inner *n, __u32 outer_family)
{
	struct tunnel_out *back;
	struct inner answer;
	struct ethhdr *eth;
	int failed;

	if (!t || !n)
		return TC_ACT_SHOT;
	count_drop(t->vlan, DROP_TTL_EXPIRED);
	back = tunnel_out_get(t->index);
	if (!back || skb->gso_size || !icmp_allowed(skb, n) || !rate_allows(t->vlan, RATE_TOO_LONG) ||
	    strip_outer(skb, n, outer_family))
		return TC_ACT_SHOT;
	eth = skb_at(skb, 0, ETH_HLEN);
	if (!eth)
		return TC_ACT_SHOT;
	eth->h_proto = n->family == 4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	if (n->family == 4)
		failed = icmp4_error(skb, ICMP4_TIME_EXCEEDED << 8, 0, n->total);
	else
		failed = icmp6_error(skb, ICMP6_TIME_EXCEEDED << 8, 0, n->total);
	if (failed)
		return TC_ACT_SHOT;
	answer = (struct inner){ .off = ETH_HLEN, .family = n->family, .total = skb->len - ETH_HLEN };
	return encap_ip(skb, back, &answer);
}

/* Everything was checked: off with the outer headers, and on to where it belongs. */
always_inline int deliver(struct __sk_buff *skb, const struct tunnel_in *t, const struct inner *n, const struct outer *o)
{
	__u32 packets = frames(skb);
	struct ethhdr frame = {};
	__be32 host[4] = {};

	if (is_syn(skb, n)) {
		struct tunnel_out *back = tunnel_out_get(t->index);

		if (back)
			mss_clamp(skb, n, tunnel_mtu(back));
	}
	if (o->id.kind == KIND_VXLAN) {
		struct ethhdr *eth = skb_at(skb, o->off, ETH_HLEN);

		if (!eth)
			return drop(t->vlan, DROP_INNER_TRUNCATED);
		frame = *eth;
	} else {
		__builtin_memcpy(frame.h_dest, t->server_mac, 6);
		__builtin_memcpy(frame.h_source, t->gateway_mac, 6);
		frame.h_proto = o->proto;
	}
	if (role == ROLE_SITE) {
		__u32 words = n->family == 4 ? 1 : 4;
		__be32 *dst = skb_at(skb, n->off + (n->family == 4 ? 16 : 24), words * 4);

		if (!dst)
			return drop(t->vlan, DROP_INNER_TRUNCATED);
		host[0] = dst[0];
		if (words == 4) {
			host[1] = dst[1];
			host[2] = dst[2];
			host[3] = dst[3];
		}
	}
	if (strip_outer(skb, n, o->id.family))
		return drop(t->vlan, DROP_DECAP_FAILED);
	count_rx(t->vlan, packets, n->total);
	if (role == ROLE_SERVER)
		return to_trunk(skb, t, &frame);
	skb->mark = 0;

	struct ethhdr *eth = skb_at(skb, 0, ETH_HLEN);

	if (!eth)
		return drop(t->vlan, DROP_DECAP_FAILED);
	if (o->id.kind == KIND_VXLAN) {
		*eth = frame;
		if (frame.h_proto == bpf_htons(ETH_P_ARP) &&
		    (bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), 1) || name_protocol(skb) || bpf_skb_vlan_pop(skb)))
			return drop(t->vlan, DROP_DECAP_FAILED);
		return send_inside();
	}
	/* The WAN's addresses stay until the neighbour is known; the type must be right already. */
	eth->h_proto = frame.h_proto;
	return to_lan(n->family, host);
}

#endif
