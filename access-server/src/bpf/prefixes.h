/* Which tunnel leads to an address of a closed network: longest prefix wins. */
#ifndef PREFIXES_H
#define PREFIXES_H

#include "headers.h"
#include "tunnels.h"
#include "vlans.h"

#define PREFIXES_MAX 65536
#define PREFIX_FIXED_BITS 32 /* vlan, family, zero */

struct prefix_key {
	__u32 bits; /* PREFIX_FIXED_BITS + length of the prefix */
	__u16 vlan;
	__u8 family; /* 4 or 6 */
	__u8 zero;
	__be32 addr[4];
};
_Static_assert(sizeof(struct prefix_key) == 24, "no padding: Rust has the same bytes");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PREFIXES_MAX);
	__type(key, struct prefix_key);
	__type(value, __u32); /* number of the tunnel */
} prefixes SEC(".maps");

/* Number of the tunnel behind which an IPv4 address lies, or TUNNEL_NONE. */
always_inline __u32 prefix_find4(__u32 vlan, __be32 addr)
{
	struct prefix_key key = { .bits = PREFIX_FIXED_BITS + 32, .vlan = vlan, .family = 4, .addr = { addr } };
	__u32 *index = bpf_map_lookup_elem(&prefixes, &key);

	return index ? *index : TUNNEL_NONE;
}

always_inline __u32 prefix_find6(__u32 vlan, const __be32 *addr)
{
	struct prefix_key key = { .bits = PREFIX_FIXED_BITS + 128, .vlan = vlan, .family = 6 };

	key.addr[0] = addr[0];
	key.addr[1] = addr[1];
	key.addr[2] = addr[2];
	key.addr[3] = addr[3];

	__u32 *index = bpf_map_lookup_elem(&prefixes, &key);

	return index ? *index : TUNNEL_NONE;
}

/* The way out for an address of a VLAN. */
always_inline __u32 site_find4(const struct vlan_row *row, __u32 vlan, __be32 addr)
{
	return row->flags & VLAN_SINGLE ? row->single : prefix_find4(vlan, addr);
}

always_inline __u32 site_find6(const struct vlan_row *row, __u32 vlan, const __be32 *addr)
{
	return row->flags & VLAN_SINGLE ? row->single : prefix_find6(vlan, addr);
}

#endif
