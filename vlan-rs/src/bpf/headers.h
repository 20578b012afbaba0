/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Wire formats and the few kernel constants used, so that a build needs neither kernel headers of the running
 * kernel nor its BTF.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ETH_P_IP 0x0800
#define ETH_P_ARP 0x0806
#define ETH_P_8021Q 0x8100
#define ETH_P_IPV6 0x86DD
#define ETH_P_8021AD 0x88A8

#define TC_ACT_UNSPEC (-1)
#define TC_ACT_SHOT 2
#define TC_ACT_REDIRECT 7

#define ETH_LEN 14
#define TAG_LEN 4
#define VID_MASK 0x0fff

struct eth_header {
	__u8 destination[6];
	__u8 source[6];
	__be16 type;
} __attribute__((packed, aligned(2)));

/* Behind an Ethernet header of type 0x8100. */
struct tag_header {
	__be16 tci;
	__be16 type;
} __attribute__((packed, aligned(2)));

struct ipv4_header {
	__u8 version_ihl;
	__u8 tos;
	__be16 total_length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 checksum;
	__u8 source[4];
	__u8 destination[4];
} __attribute__((packed, aligned(2)));

struct ipv6_header {
	__u8 version_class;
	__u8 flow[3];
	__be16 payload_length;
	__u8 next_header;
	__u8 hop_limit;
	__u8 source[16];
	__u8 destination[16];
} __attribute__((packed, aligned(2)));

/* RFC 826 with Ethernet and IPv4 filled in. */
struct arp_packet {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender[4];
	__u8 target_mac[6];
	__u8 target[4];
} __attribute__((packed, aligned(2)));

#define ARP_REQUEST 1
#define ARP_REPLY 2

#define NEXT_HOP_BY_HOP 0
#define NEXT_ROUTING 43
#define NEXT_OPTIONS 60
#define NEXT_TCP 6
#define NEXT_UDP 17
#define NEXT_ICMPV6 58

#define MLD_QUERY 130
#define MLD_DONE 132
#define ND_ROUTER_SOLICITATION 133
#define ND_NEIGHBOUR_SOLICITATION 135
#define ND_NEIGHBOUR_ADVERTISEMENT 136
#define ND_REDIRECT 137
#define MLD2_REPORT 143

#define ND_OPTION_TARGET_MAC 2
/* RFC 4861 section 4.4: solicited, override. Not router: who is asked for is a host behind the port. */
#define ND_FLAGS_SOLICITED_OVERRIDE 0x60000000

/* RFC 4861 sections 4.3 and 4.4: solicitation and advertisement up to their options. */
struct nd_packet {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__be32 flags;
	__u8 target[16];
} __attribute__((packed, aligned(2)));

struct nd_mac_option {
	__u8 type;
	__u8 length; /* in units of 8 bytes */
	__u8 mac[6];
} __attribute__((packed, aligned(2)));

/* clang merges plain loads of data and data_end into a "dereference of modified ctx ptr": volatile keeps them apart. */
static __always_inline void *frame_start(struct __sk_buff *skb)
{
	return (void *)(long)*(volatile __u32 *)&skb->data;
}

static __always_inline void *frame_end(struct __sk_buff *skb)
{
	return (void *)(long)*(volatile __u32 *)&skb->data_end;
}

/*
 * The first `need` bytes for direct access, or NULL when the frame is shorter. Headers are in the linear part nearly
 * always; a packet socket can put them elsewhere. Pointers taken before are void afterwards.
 */
static __always_inline void *need_bytes(struct __sk_buff *skb, __u32 need)
{
	void *data = frame_start(skb);

	if (data + need <= frame_end(skb))
		return data;
	if (skb->len < need || bpf_skb_pull_data(skb, need))
		return NULL;
	data = frame_start(skb);
	if (data + need > frame_end(skb))
		return NULL;
	return data;
}

static __always_inline bool same_mac(const __u8 *a, const __u8 *b)
{
	const __u16 *x = (const void *)a, *y = (const void *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2];
}

static __always_inline bool is_tag_type(__be16 type)
{
	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}
