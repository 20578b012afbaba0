// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * 802.1Q without 8021q: (trunk, VLAN) <-> port. Both programs sit on the clsact ingress of devices of one network
 * namespace, the patch room; bpf_redirect only reaches devices of its own namespace.
 *
 *   trunk --> trunk_ingress: look the tag up, check, pop it --> port --> tenant
 *   trunk <-- port_ingress: check, push the port's tag <-- port <-- tenant
 */
#include "counters.h"
#include "headers.h"
#include "lengths.h"
#include "limits.h"
#include "neighbours.h"
#include "ports.h"
#include "room.h"
#include "trunks.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* What trunk_ingress needs to know of a frame. */
struct tagged {
	__u32 offset; /* of the packet */
	__be16 type;
	__u16 vid;
	__u8 destination[6];
};

/* The tag is beside the frame (skb->vlan_tci: nearly always) or in it. Returns 0 or an enum drop_reason. */
static __always_inline __u32 read_tagged(struct __sk_buff *skb, struct tagged *t)
{
	struct eth_header *eth = need_bytes(skb, ETH_LEN);
	struct tag_header *tag;

	if (!eth)
		return DROP_TRUNCATED;
	t->offset = ETH_LEN;
	t->type = eth->type;
	if (skb->vlan_present) {
		if (skb->vlan_proto != bpf_htons(ETH_P_8021Q))
			return DROP_SERVICE_TAG;
		t->vid = skb->vlan_tci & VID_MASK;
	} else {
		if (eth->type == bpf_htons(ETH_P_8021AD))
			return DROP_SERVICE_TAG;
		if (eth->type != bpf_htons(ETH_P_8021Q))
			return DROP_UNTAGGED;
		eth = need_bytes(skb, ETH_LEN + TAG_LEN);
		if (!eth)
			return DROP_TRUNCATED;
		tag = (void *)(eth + 1);
		t->offset += TAG_LEN;
		t->type = tag->type;
		t->vid = bpf_ntohs(tag->tci) & VID_MASK;
	}
	__builtin_memcpy(t->destination, eth->destination, 6);
	return is_tag_type(t->type) ? DROP_TWO_TAGS : 0;
}

/* A frame of no port: dropped under the trunk's slot, or left to another instance that shares the device. */
static __noinline int no_port_has(struct __sk_buff *skb, __u32 reason)
{
	const struct trunk_row *trunk = trunk_of_device(skb->ifindex);

	if (trunk && (trunk->flags & TRUNK_SHARED) && (reason == DROP_UNKNOWN_VLAN || reason == DROP_UNTAGGED))
		return TC_ACT_UNSPEC;
	return drop(trunk ? trunk->slot : ROOM_SLOT, reason);
}

SEC("tc")
int trunk_ingress(struct __sk_buff *skb)
{
	struct tagged t = {};
	const struct tag_row *to;
	struct verdict verdict = {};
	struct traffic *traffic;
	__u32 reason = read_tagged(skb, &t);

	if (reason)
		return no_port_has(skb, reason);
	to = port_of_tag(skb->ifindex, t.vid);
	if (!to)
		return no_port_has(skb, DROP_UNKNOWN_VLAN);
	traffic = traffic_of(to->slot);
	if (!traffic || is_flood(to->slot, FLOOD_RX, traffic->rx_packets))
		return drop(to->slot, DROP_FLOOD_RX);
	if (!(t.destination[0] & 1) && !same_mac(t.destination, to->mac))
		return drop(to->slot, DROP_DESTINATION_MAC);
	reason = check_packet(skb, t.offset, t.type);
	if (!reason)
		reason = check_length(skb, t.offset, to->mtu);
	if (!reason && (t.type == bpf_htons(ETH_P_ARP) || t.type == bpf_htons(ETH_P_IPV6)))
		reason = police_to_port(skb, to, t.offset, t.type == bpf_htons(ETH_P_ARP));
	if (!reason && bpf_skb_vlan_pop(skb))
		reason = DROP_KERNEL_REFUSED;
	if (reason)
		return drop(to->slot, reason);

	/* Marks and priorities of one side mean nothing, or something else, on the other. */
	skb->mark = 0;
	skb->priority = 0;
	count_rx(traffic, skb->len);
	verdict.device = to->port;
	verdict.slot = to->slot;
	record(&verdict);
	/* The last hop is plain: redirect_peer would pass by the port's queue, captures and counters. */
	return bpf_redirect(to->port, 0);
}

static __always_inline int send_to_trunk(struct __sk_buff *skb, const struct port_row *port, struct traffic *traffic)
{
	struct verdict verdict = { .device = port->trunk, .slot = port->slot };

	skb->mark = 0;
	skb->priority = port->flags & PORT_CLASSED ? class_of(port->slot) : 0;
	count_tx(traffic, skb->len);
	if (bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), port->vid))
		return drop(port->slot, DROP_KERNEL_REFUSED);
	/* redirect_peer passes by the trunk's queueing discipline, where the classes are. */
	verdict.peer = (port->flags & (PORT_TRUNK_PEER | PORT_CLASSED)) == PORT_TRUNK_PEER;
	record(&verdict);
	if (verdict.peer)
		return bpf_redirect_peer(port->trunk, 0);
	return bpf_redirect(port->trunk, 0);
}

SEC("tc")
int port_ingress(struct __sk_buff *skb)
{
	const struct port_row *port = port_of_device(skb->ifindex);
	struct traffic *traffic;
	struct eth_header *eth;
	__u32 reason;
	__be16 type;
	int action = GO_ON;

	if (!port)
		return drop(ROOM_SLOT, DROP_NO_PORT);
	traffic = traffic_of(port->slot);
	if (!traffic || is_flood(port->slot, FLOOD_TX, traffic->tx_packets))
		return drop(port->slot, DROP_FLOOD_TX);
	eth = need_bytes(skb, ETH_LEN);
	if (!eth)
		return drop(port->slot, DROP_TRUNCATED);
	type = eth->type;
	if (skb->vlan_present || is_tag_type(type))
		return drop(port->slot, DROP_TAGGED_FROM_PORT);
	if (!same_mac(eth->source, port->mac))
		return drop(port->slot, DROP_SOURCE_MAC);
	if (type != bpf_htons(ETH_P_IP) && type != bpf_htons(ETH_P_IPV6) && type != bpf_htons(ETH_P_ARP))
		return drop(port->slot, DROP_ETHERTYPE);
	reason = check_packet(skb, ETH_LEN, type);
	if (!reason)
		reason = check_length(skb, ETH_LEN, port->mtu);
	if (reason)
		return drop(port->slot, reason);
	if (type == bpf_htons(ETH_P_ARP))
		action = arp_from_port(skb, port);
	else if (type == bpf_htons(ETH_P_IPV6))
		action = ipv6_from_port(skb, port);
	return action == GO_ON ? send_to_trunk(skb, port, traffic) : action;
}
