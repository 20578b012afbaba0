/* Reading the outer headers of a packet from the WAN: whose tunnel, and where the inner packet is. */
#ifndef OUTER_H
#define OUTER_H

#include "config.h"
#include "drop_reasons.h"
#include "headers.h"
#include "tunnels.h"

/* Not of a kind we end; otherwise 0 for good or the drop_reason, should the packet be to one of our addresses. */
#define OUTER_OTHER (-1)
/* An ICMP error about the size of packets. */
#define OUTER_ICMP4 (-2)
#define OUTER_ICMP6 (-3)

struct outer {
	struct tunnel_key id;
	__u32 off; /* while reading: the header after IP; then: the inner packet or frame */
	__u32 stop; /* end of the packet by the outer length field */
	__be16 proto; /* of the inner packet; ETH_P_TEB for a frame */
	__u8 ecn;
	__u8 next; /* protocol number after IP */
};

always_inline int outer_ip4(struct __sk_buff *skb, struct outer *o)
{
	struct iphdr *ip = skb_at(skb, ETH_HLEN, sizeof(*ip));

	if (!ip)
		return OUTER_OTHER;
	o->next = ip->protocol;
	if (ip->protocol == IPPROTO_ICMP)
		return OUTER_ICMP4;
	if (ip->protocol != IPPROTO_IPIP && ip->protocol != IPPROTO_IPV6 && ip->protocol != IPPROTO_GRE &&
	    ip->protocol != IPPROTO_UDP)
		return OUTER_OTHER;
	o->id.family = 4;
	o->id.remote[0] = ip->saddr;
	o->id.local[0] = ip->daddr;
	o->ecn = ip->tos & ECN_MASK;
	o->off = ETH_HLEN + sizeof(*ip);
	o->stop = ETH_HLEN + bpf_ntohs(ip->tot_len);
	if (ip->protocol == IPPROTO_UDP) {
		/* Only the start of a datagram shows its port; without it the rest is of no use to anybody. */
		struct udp_header *udp = skb_at(skb, ETH_HLEN + sizeof(*ip), sizeof(*udp));

		if (!udp || ip->ihl != 5 || ip->frag_off & bpf_htons(0x1fff) || udp->dest != bpf_htons(VXLAN_PORT))
			return OUTER_OTHER;
	}
	if (ip->version != 4 || ip->ihl < 5)
		return DROP_OUTER_HEADER;
	if (ip->ihl != 5)
		return DROP_OUTER_OPTIONS;
	if (fold(ip4_sum(ip)) != 0xffff)
		return DROP_OUTER_CHECKSUM;
	if (ip->frag_off & bpf_htons(IP4_MORE_OR_OFFSET))
		return DROP_OUTER_FRAGMENT;
	if (o->stop > skb->len || o->stop < o->off)
		return DROP_OUTER_LENGTH;
	return 0;
}

always_inline bool ip6_tunnel_protocol(__u8 next)
{
	return next == IPPROTO_IPIP || next == IPPROTO_IPV6 || next == IPPROTO_GRE;
}

always_inline int outer_ip6(struct __sk_buff *skb, struct outer *o)
{
	struct ipv6hdr *ip = skb_at(skb, ETH_HLEN, sizeof(*ip));
	const __u32 off = ETH_HLEN + sizeof(*ip);
	__u8 next;

	if (!ip)
		return OUTER_OTHER;
	next = ip->nexthdr;
	if (next == IPPROTO_ICMPV6)
		return OUTER_ICMP6;
	o->id.family = 6;
	copy_ip6(o->id.remote, &ip->saddr);
	copy_ip6(o->id.local, &ip->daddr);
	o->ecn = (bpf_ntohs(*(__be16 *)ip) >> 4) & ECN_MASK;
	o->off = off;
	o->stop = off + bpf_ntohs(ip->payload_len);
	if (next == IPPROTO_FRAGMENT || next == IPPROTO_DSTOPTS) {
		/* Both start with next header and length; ip6tnl's encapsulation limit (RFC 2473 section 4.1.1) fills
		 * one block of 8 bytes of options. */
		__u8 *ext = skb_at(skb, off, 8);

		if (!ext)
			return OUTER_OTHER;
		if (next == IPPROTO_FRAGMENT) {
			struct udp_header *udp = skb_at(skb, off + 8, sizeof(*udp));
			bool first = !(*(__be16 *)(ext + 2) & bpf_htons(0xfff8));

			if (ip6_tunnel_protocol(ext[0]))
				return DROP_OUTER_FRAGMENT;
			if (ext[0] == IPPROTO_UDP && first && udp && udp->dest == bpf_htons(VXLAN_PORT))
				return DROP_OUTER_FRAGMENT;
			return OUTER_OTHER;
		}
		next = ext[0];
		if (!ip6_tunnel_protocol(next))
			return OUTER_OTHER;
		if (ext[1] != 0)
			return DROP_OUTER_OPTIONS;
		o->off = off + 8;
	} else if (next == IPPROTO_UDP) {
		struct udp_header *udp = skb_at(skb, off, sizeof(*udp));

		if (!udp || udp->dest != bpf_htons(VXLAN_PORT))
			return OUTER_OTHER;
	} else if (!ip6_tunnel_protocol(next)) {
		return OUTER_OTHER;
	}
	o->next = next;
	if (ip->version != 6)
		return DROP_OUTER_HEADER;
	/* Length 0 is a jumbogram (RFC 2675), which no tunnel needs. */
	if (o->stop > skb->len || o->stop <= o->off)
		return DROP_OUTER_LENGTH;
	return 0;
}

always_inline int outer_gre(struct __sk_buff *skb, struct outer *o)
{
	struct gre_header *gre = skb_at(skb, o->off, 4);

	if (!gre || o->off + 4 > o->stop)
		return DROP_OUTER_TRUNCATED;
	if (gre->flags & bpf_htons((__u16)~GRE_KEY))
		return DROP_GRE_FLAGS;
	o->proto = gre->protocol;
	o->id.kind = KIND_GRE;
	if (gre->flags) {
		gre = skb_at(skb, o->off, sizeof(*gre));
		if (!gre || o->off + sizeof(*gre) > o->stop)
			return DROP_OUTER_TRUNCATED;
		o->id.key = bpf_ntohl(gre->key);
		o->id.keyed = 1;
		o->off += 8;
	} else {
		o->off += 4;
	}
	if (o->proto != bpf_htons(ETH_P_IP) && o->proto != bpf_htons(ETH_P_IPV6))
		return DROP_GRE_PROTOCOL;
	return 0;
}

always_inline int outer_vxlan(struct __sk_buff *skb, struct outer *o)
{
	struct udp_header *udp = skb_at(skb, o->off, sizeof(*udp) + sizeof(struct vxlan_header));
	struct vxlan_header *vxlan = (void *)(udp + 1);

	if (!udp || o->off + sizeof(*udp) + sizeof(*vxlan) > o->stop)
		return DROP_OUTER_TRUNCATED;
	/* A super-packet's UDP length may be of one segment or of all; for others both lengths must agree. */
	if (!skb->gso_size && o->off + bpf_ntohs(udp->len) != o->stop)
		return DROP_OUTER_LENGTH;
	/* RFC 7348 says to ignore reserved bits; what others put there (policy, extensions) we could not honour. */
	if (vxlan->flags != bpf_htonl(VXLAN_VNI_VALID) || vxlan->vni & bpf_htonl(0xff))
		return DROP_VXLAN_HEADER;
	o->id.kind = KIND_VXLAN;
	o->id.key = bpf_ntohl(vxlan->vni) >> 8;
	o->id.keyed = 1;
	o->proto = bpf_htons(ETH_P_TEB);
	o->off += sizeof(*udp) + sizeof(*vxlan);
	return 0;
}

always_inline int outer_parse(struct __sk_buff *skb, struct outer *o)
{
	int result;

	/* Frames to another machine (the device may listen to all), or of a VLAN on top of the device. */
	if (skb->pkt_type == PACKET_OTHERHOST || skb->vlan_present)
		return OUTER_OTHER;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		result = outer_ip4(skb, o);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		result = outer_ip6(skb, o);
	else
		return OUTER_OTHER;
	if (result)
		return result;
	if (o->next == IPPROTO_GRE)
		return outer_gre(skb, o);
	if (o->next == IPPROTO_UDP)
		return outer_vxlan(skb, o);
	o->id.kind = KIND_IPIP;
	o->proto = o->next == IPPROTO_IPIP ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	return 0;
}

#endif
