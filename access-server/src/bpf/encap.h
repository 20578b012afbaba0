/* Putting a packet into its tunnel and sending it to the next hop. */
#ifndef ENCAP_H
#define ENCAP_H

#include "config.h"
#include "counters.h"
#include "headers.h"
#include "inner.h"
#include "tunnels.h"

#define OUTER_TTL 64

always_inline __u64 encap_flags(const struct tunnel_key *id)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;

	flags |= id->family == 4 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;
	if (id->kind == KIND_GRE)
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_GRE;
	else if (id->kind == KIND_VXLAN)
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH;
	return flags;
}

/* Bytes between the outer IP header and the inner packet or frame. */
always_inline __u32 shim_len(const struct tunnel_key *id)
{
	if (id->kind == KIND_IPIP)
		return 0;
	if (id->kind == KIND_VXLAN)
		return sizeof(struct udp_header) + sizeof(struct vxlan_header);
	return id->keyed ? 8 : 4;
}

always_inline __u8 outer_protocol(const struct tunnel_key *id, __u8 inner_family)
{
	if (id->kind == KIND_GRE)
		return IPPROTO_GRE;
	if (id->kind == KIND_VXLAN)
		return IPPROTO_UDP;
	return inner_family == 4 ? IPPROTO_IPIP : IPPROTO_IPV6;
}

/* Outer DF is always set, so the identification has no meaning (RFC 6864 section 4.1). TOS is the inner one: DSCP for the
 * provider's queues, ECN in the normal mode of RFC 6040. */
always_inline void write_ip4(struct iphdr *ip, const struct tunnel_key *id, __u8 protocol, __u8 tos, __u32 len)
{
	ip->version = 4;
	ip->ihl = 5;
	ip->tos = tos;
	ip->tot_len = bpf_htons(len);
	ip->id = 0;
	ip->frag_off = bpf_htons(IP4_DF);
	ip->ttl = OUTER_TTL;
	ip->protocol = protocol;
	ip->check = 0;
	ip->saddr = id->local[0];
	ip->daddr = id->remote[0];
	ip->check = ~fold(ip4_sum(ip));
}

always_inline void write_ip6(struct ipv6hdr *ip, const struct tunnel_key *id, __u8 protocol, __u32 first, __u32 len)
{
	*(__be32 *)ip = bpf_htonl(first);
	ip->payload_len = bpf_htons(len);
	ip->nexthdr = protocol;
	ip->hop_limit = OUTER_TTL;
	__builtin_memcpy(&ip->saddr, id->local, 16);
	__builtin_memcpy(&ip->daddr, id->remote, 16);
}

always_inline void write_shim(void *shim, const struct tunnel_key *id, __u8 inner_family, __u32 hash, __u32 payload)
{
	if (id->kind == KIND_GRE) {
		struct gre_header *gre = shim;

		gre->flags = id->keyed ? bpf_htons(GRE_KEY) : 0;
		gre->protocol = inner_family == 4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
		if (id->keyed)
			gre->key = bpf_htonl(id->key);
	} else if (id->kind == KIND_VXLAN) {
		struct udp_header *udp = shim;
		struct vxlan_header *vxlan = (void *)(udp + 1);

		/* RFC 7348 section 5: a source port from the dynamic range that follows the flow, checksum zero; for IPv6
		 * outside RFC 6935 allows it. */
		udp->source = bpf_htons(49152 | (hash & 0x3fff));
		udp->dest = bpf_htons(VXLAN_PORT);
		udp->len = bpf_htons(sizeof(*udp) + sizeof(*vxlan) + payload);
		udp->check = 0;
		vxlan->flags = bpf_htonl(VXLAN_VNI_VALID);
		vxlan->vni = bpf_htonl(id->key << 8);
	}
}

always_inline void write_ethernet(struct ethhdr *eth, __u8 family)
{
	/* redirect_neigh writes the addresses, but wants no multicast in the place before. */
	__builtin_memset(eth, 0, 12);
	eth->h_proto = family == 4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
}

always_inline int send_outside(struct __sk_buff *skb, const struct tunnel_out *t)
{
	struct bpf_redir_neigh nh = {};

	skb->mark = 0; /* a tenant's mark is nothing to our firewall and routes */
	if (t->nh_family == 4) {
		nh.nh_family = AF_INET;
		nh.ipv4_nh = t->nh[0];
	} else {
		nh.nh_family = AF_INET6;
		__builtin_memcpy(nh.ipv6_nh, t->nh, 16);
	}
	return bpf_redirect_neigh(t->ifindex, &nh, sizeof(nh), 0);
}

/* Writes all outer headers over the first bytes of the frame. `payload`: bytes behind the shim. */
always_inline int write_outer(struct __sk_buff *skb, const struct tunnel_key *id, const struct inner *n, __u32 hash,
			      __u32 payload)
{
	__u32 shim = shim_len(id);
	void *p;

	if (id->family == 4) {
		p = skb_at(skb, 0, ETH_HLEN + sizeof(struct iphdr) + 16);
		if (!p)
			return -1;
		write_ethernet(p, 4);
		write_ip4(p + ETH_HLEN, id, outer_protocol(id, n->family), n->tos,
			  sizeof(struct iphdr) + shim + payload);
		write_shim(p + ETH_HLEN + sizeof(struct iphdr), id, n->family, hash, payload);
	} else {
		__u32 first = 6U << 28 | (__u32)n->tos << 20 | (hash & 0xfffff);

		p = skb_at(skb, 0, ETH_HLEN + sizeof(struct ipv6hdr) + 16);
		if (!p)
			return -1;
		write_ethernet(p, 6);
		write_ip6(p + ETH_HLEN, id, outer_protocol(id, n->family), first, shim + payload);
		write_shim(p + ETH_HLEN + sizeof(struct ipv6hdr), id, n->family, hash, payload);
	}
	return 0;
}

/* A packet that came out of a tunnel and goes into one again (a tenant that routes between its sites) still carries the
 * kernel's mark of the first, and is refused by name. Room without marks is allowed; the family around it changes by four
 * bytes too much, taken back with the flag that names the new one. What the kernel later cuts of a super-packet it cuts
 * by the first tunnel's kind: between tunnels of one kind and family that is right, otherwise only whole packets pass. */
always_inline int encap_again(struct __sk_buff *skb, const struct tunnel_key *id, __u32 grow)
{
	__u64 family = id->family == 4 ? ADJ_DECAP_L3_IPV4 : ADJ_DECAP_L3_IPV6;

	if (bpf_skb_adjust_room(skb, grow + 4, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return -1;
	return bpf_skb_adjust_room(skb, -4, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO | family);
}

/* An untagged frame with an IP packet to a tunnel. */
always_inline int encap_ip(struct __sk_buff *skb, const struct tunnel_out *t, const struct inner *n)
{
	const struct tunnel_key *id = &t->id;
	__u32 grow = (id->family == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)) + shim_len(id);
	__u32 segments = frames(skb);
	__u32 hash = 0, payload = n->total;
	struct ethhdr frame = {};
	int failed;

	if (!t->ifindex)
		return drop(t->vlan, DROP_NO_NEXT_HOP);
	if (id->kind == KIND_VXLAN) {
		struct ethhdr *eth = skb_at(skb, 0, ETH_HLEN);

		if (!eth)
			return drop(t->vlan, DROP_INNER_TRUNCATED);
		frame = *eth;
		grow += ETH_HLEN;
		payload += ETH_HLEN;
	}
	/* Only super-packets come near; a tenant may allow itself longer ones than we do. */
	if (n->total + grow > 65535)
		return drop(t->vlan, DROP_OUTER_OVERFLOW);
	if (id->kind == KIND_VXLAN || id->family == 6)
		hash = bpf_get_hash_recalc(skb);

	failed = bpf_skb_adjust_room(skb, grow, BPF_ADJ_ROOM_MAC, encap_flags(id));
	if (failed == -EALREADY && encap_again(skb, id, grow))
		return drop(t->vlan, DROP_REENCAPSULATION);
	if (failed && failed != -EALREADY)
		return drop(t->vlan, DROP_ENCAP_FAILED);
	if (id->kind == KIND_VXLAN) {
		struct ethhdr *eth = skb_at(skb, grow, ETH_HLEN); /* ETH_HLEN + grow - ETH_HLEN */

		if (!eth)
			return drop(t->vlan, DROP_ENCAP_FAILED);
		*eth = frame;
	}
	if (write_outer(skb, id, n, hash, payload))
		return drop(t->vlan, DROP_ENCAP_FAILED);
	count_tx(t->vlan, segments, n->total);
	return send_outside(skb, t);
}

/* A frame without an IP packet (ARP) to a layer 2 tunnel: adjust_room does not take it. */
always_inline int encap_frame(struct __sk_buff *skb, const struct tunnel_out *t)
{
	const struct tunnel_key *id = &t->id;
	__u32 grow = ETH_HLEN + (id->family == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)) + shim_len(id);
	struct inner none = { .family = 4 };
	__u32 payload = skb->len;
	__u32 hash;

	if (!t->ifindex)
		return drop(t->vlan, DROP_NO_NEXT_HOP);
	hash = bpf_get_hash_recalc(skb);
	if (bpf_skb_change_head(skb, grow, 0))
		return drop(t->vlan, DROP_ENCAP_FAILED);
	if (write_outer(skb, id, &none, hash, payload))
		return drop(t->vlan, DROP_ENCAP_FAILED);
	/* The kernel still believes that this is ARP, and redirect_neigh wants IP: of two tags pushed and popped the first
	 * lies in the frame, and taking it out makes the kernel read the Ethernet type behind it. */
	if (bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), 1) || bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), 1) ||
	    bpf_skb_vlan_pop(skb) || bpf_skb_vlan_pop(skb))
		return drop(t->vlan, DROP_ENCAP_FAILED);
	count_tx(t->vlan, 1, payload);
	return send_outside(skb, t);
}

#endif
