/* Wire formats and the few kernel constants that older kernel headers lack; reading packets safely. */
#ifndef HEADERS_H
#define HEADERS_H

#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2
#define AF_INET6 10
#define EALREADY 114
#define PACKET_HOST 0
#define PACKET_OTHERHOST 3

/* Linux 6.3; the headers of Debian 12 are those of 6.1. They name the inner version. */
#define ADJ_DECAP_L3_IPV4 (1ULL << 7)
#define ADJ_DECAP_L3_IPV6 (1ULL << 8)

#define VXLAN_PORT 4789 /* RFC 7348 section 8 */
#define VXLAN_VNI_VALID 0x08000000U

#define GRE_KEY 0x2000 /* RFC 2890: the only flag we take */

#define IP4_DF 0x4000
#define IP4_MORE_OR_OFFSET 0x3fff

#define ECN_MASK 3
#define ECN_ECT1 1
#define ECN_ECT0 2
#define ECN_CE 3

#define always_inline static __attribute__((always_inline)) inline

struct gre_header {
	__be16 flags;
	__be16 protocol;
	__be32 key; /* only with GRE_KEY */
};

struct udp_header {
	__be16 source;
	__be16 dest;
	__be16 len;
	__be16 check;
};

struct vxlan_header {
	__be32 flags;
	__be32 vni; /* upper 24 bits */
};

struct arp_packet {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender[4];
	__u8 target_mac[6];
	__u8 target[4];
} __attribute__((packed));

struct icmp_header {
	__u8 type;
	__u8 code;
	__be16 check;
	__be32 rest; /* next-hop MTU in the low 16 bits (RFC 1191), all 32 bits (RFC 4443) */
};

/* Neighbour solicitation or advertisement, RFC 4861 sections 4.3 and 4.4, with one link-layer address option. */
struct nd_message {
	__u8 type;
	__u8 code;
	__be16 check;
	__be32 flags;
	struct in6_addr target;
	__u8 option;
	__u8 option_len;
	__u8 mac[6];
};

/* clang merges two loads of skb->data into one of a changed context pointer, which the verifier refuses: assembly keeps
 * each load as it is. */
always_inline void *skb_start(struct __sk_buff *skb)
{
	void *p;

	asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(p) : "r"(skb), "i"(offsetof(struct __sk_buff, data)));
	return p;
}

always_inline void *skb_stop(struct __sk_buff *skb)
{
	void *p;

	asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(p) : "r"(skb), "i"(offsetof(struct __sk_buff, data_end)));
	return p;
}

/* The bytes off..off+len of the packet, or NULL where they are not in the linear part. off stays below 512. */
always_inline void *skb_at(struct __sk_buff *skb, __u32 off, __u32 len)
{
	asm volatile("" : "+r"(off)); /* or clang proves the mask away and the verifier loses the bound */
	void *p = skb_start(skb) + (off & 511);

	if (p + len > skb_stop(skb))
		return NULL;
	return p;
}

/* Longest pile of headers we read: Ethernet, IPv6, an option block, UDP, VXLAN, Ethernet, IPv6, TCP with options. */
#define HEADERS_MAX (14 + 40 + 8 + 8 + 8 + 14 + 40 + 60)

/* Ethernet, IPv4, TCP: the least that a super-packet has. */
#define GSO_HEADERS_MIN (14 + 20 + 20)

/* Makes the headers linear. NIC drivers leave little in the linear part; a veth has it all already. A super-packet has
 * just its headers there, whoever made it (a socket, or GRO, which reads all headers it joins by): pulling more would copy
 * payload, which cost 3 % of TCP (docs/bench.md). What is not there after all is a truncated packet by name. */
always_inline void pull_headers(struct __sk_buff *skb)
{
	__u32 need = skb->gso_size ? GSO_HEADERS_MIN : HEADERS_MAX;

	if (skb_start(skb) + need > skb_stop(skb)) {
		__u32 len = skb->len;

		if ((__u64)(skb_stop(skb) - skb_start(skb)) < len)
			bpf_skb_pull_data(skb, len < HEADERS_MAX ? len : HEADERS_MAX);
	}
}

always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* Sum of the five words of an IPv4 header without options: folds to 0xffff where the checksum is right. */
always_inline __u64 ip4_sum(const struct iphdr *ip)
{
	const __u32 *w = (const void *)ip;

	return (__u64)w[0] + w[1] + w[2] + w[3] + w[4];
}

always_inline void copy_ip6(__be32 *to, const struct in6_addr *from)
{
	to[0] = from->s6_addr32[0];
	to[1] = from->s6_addr32[1];
	to[2] = from->s6_addr32[2];
	to[3] = from->s6_addr32[3];
}

#endif
