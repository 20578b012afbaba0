/* The access table: a tunnel's identity to its VLAN (from the WAN), and a tunnel's number to its outer headers (to the
 * WAN). A changed tunnel gets a new number, so a reader never sees half a change. */
#ifndef TUNNELS_H
#define TUNNELS_H

#include "headers.h"

#define TUNNELS_MAX 16384

#define KIND_IPIP 1
#define KIND_GRE 2
#define KIND_VXLAN 3

struct tunnel_key {
	__be32 remote[4]; /* IPv4: the first word */
	__be32 local[4];
	__u32 key; /* GRE key or VNI, host order */
	__u8 kind;
	__u8 family; /* 4 or 6 */
	__u8 keyed;
	__u8 zero;
};
_Static_assert(sizeof(struct tunnel_key) == 40, "no padding: Rust has the same bytes");

#define TUNNEL_CHECK_SOURCE 1

struct tunnel_in {
	__u32 index;
	__u16 vlan;
	__u16 flags;
	__u8 server_mac[6]; /* Ethernet header of what leaves a layer 3 tunnel: to ... */
	__u8 gateway_mac[6]; /* ... and from */
};
_Static_assert(sizeof(struct tunnel_in) == 20, "no padding: Rust has the same bytes");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, TUNNELS_MAX);
	__type(key, struct tunnel_key);
	__type(value, struct tunnel_in);
} tunnels SEC(".maps");

struct tunnel_out {
	struct tunnel_key id;
	__be32 nh[4];
	__u32 ifindex; /* 0: no route */
	__u32 mtu; /* longest inner packet */
	__u32 path; /* place in path_states */
	__u32 next_l2; /* number of the next layer 2 tunnel of the VLAN, TUNNEL_NONE at the end */
	__u16 vlan; /* 0: the place is free */
	__u16 overhead; /* outer headers up to the inner IP header */
	__u8 nh_family; /* 4 or 6 */
	__u8 zero[3];
};
_Static_assert(sizeof(struct tunnel_out) == 80, "no padding: Rust has the same bytes");

#define TUNNEL_NONE 0xffffffffU

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TUNNELS_MAX);
	__type(key, __u32);
	__type(value, struct tunnel_out);
} tunnels_out SEC(".maps");

always_inline struct tunnel_out *tunnel_out_get(__u32 index)
{
	struct tunnel_out *t = bpf_map_lookup_elem(&tunnels_out, &index);

	return t && t->vlan ? t : NULL;
}

#endif
