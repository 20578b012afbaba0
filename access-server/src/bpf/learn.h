/* ICMP errors from the WAN that say that our outer packets are too long. They are read in passing: the host's own stack
 * gets them too. Anybody may send one, so it is taken only when it quotes a packet we could have sent that is longer than
 * the MTU it claims, and it never raises anything. */
#ifndef LEARN_H
#define LEARN_H

#include "headers.h"
#include "icmp.h"
#include "paths.h"

always_inline bool tunnel_protocol(__u8 protocol, const struct udp_header *udp)
{
	return protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6 || protocol == IPPROTO_GRE ||
	       protocol == IPPROTO_DSTOPTS || (protocol == IPPROTO_UDP && udp->dest == bpf_htons(VXLAN_PORT));
}

always_inline void learn4(struct __sk_buff *skb)
{
	const __u32 off = ETH_HLEN + sizeof(struct iphdr);
	struct icmp_header *icmp = skb_at(skb, off, sizeof(*icmp) + sizeof(struct iphdr) + sizeof(struct udp_header));
	struct iphdr *outer = skb_at(skb, ETH_HLEN, sizeof(*outer));
	struct path_key key = { .family = 4 };
	struct iphdr *quoted;
	__u32 mtu;

	if (!icmp || !outer || outer->ihl != 5 || icmp->type != ICMP4_UNREACHABLE || icmp->code != ICMP4_FRAGMENTATION_NEEDED)
		return;
	quoted = (void *)(icmp + 1);
	mtu = bpf_ntohl(icmp->rest) & 0xffff;
	if (quoted->version != 4 || quoted->ihl != 5 || mtu >= bpf_ntohs(quoted->tot_len) ||
	    !tunnel_protocol(quoted->protocol, (void *)(quoted + 1)))
		return;
	key.remote[0] = quoted->daddr;
	key.local[0] = quoted->saddr;
	path_learn(&key, mtu);
}

always_inline void learn6(struct __sk_buff *skb)
{
	const __u32 off = ETH_HLEN + sizeof(struct ipv6hdr);
	struct icmp_header *icmp = skb_at(skb, off, sizeof(*icmp) + sizeof(struct ipv6hdr) + sizeof(struct udp_header));
	struct path_key key = { .family = 6 };
	struct ipv6hdr *quoted;
	__u32 mtu;

	if (!icmp || icmp->type != ICMP6_TOO_BIG || icmp->code != 0)
		return;
	quoted = (void *)(icmp + 1);
	mtu = bpf_ntohl(icmp->rest);
	if (quoted->version != 6 || mtu >= sizeof(*quoted) + bpf_ntohs(quoted->payload_len) ||
	    !tunnel_protocol(quoted->nexthdr, (void *)(quoted + 1)))
		return;
	copy_ip6(key.remote, &quoted->daddr);
	copy_ip6(key.local, &quoted->saddr);
	path_learn(&key, mtu);
}

#endif
