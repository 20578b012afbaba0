/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * For which addresses a layer 3 port answers ARP and ND.
 */
#pragma once

#include "headers.h"

#define FAMILY_IPV4 4
#define FAMILY_IPV6 6

/* Bits of the key before the address: a row's prefix_length is these plus the prefix's own. */
#define ANSWER_FIXED_BITS 64

struct answer_key {
	__u32 prefix_length;
	__u32 port; /* ifindex */
	__u32 family;
	__u8 address[16]; /* IPv4: the first four bytes, the rest 0 */
};
_Static_assert(sizeof(struct answer_key) == 28, "the loader writes 28 bytes");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct answer_key);
	__type(value, __u32);
} answers SEC(".maps");

static __always_inline bool answers_ipv4(__u32 port, const __u8 *address)
{
	struct answer_key key = { .prefix_length = ANSWER_FIXED_BITS + 32, .port = port, .family = FAMILY_IPV4 };

	__builtin_memcpy(key.address, address, 4);
	return bpf_map_lookup_elem(&answers, &key);
}

static __always_inline bool answers_ipv6(__u32 port, const __u8 *address)
{
	struct answer_key key = { .prefix_length = ANSWER_FIXED_BITS + 128, .port = port, .family = FAMILY_IPV6 };

	__builtin_memcpy(key.address, address, 16);
	return bpf_map_lookup_elem(&answers, &key);
}
