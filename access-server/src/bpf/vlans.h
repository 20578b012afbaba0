/* The VLANs of the trunk: the two Ethernet ends, and the tunnel where there is only one. */
#ifndef VLANS_H
#define VLANS_H

#include "headers.h"
#include "tunnels.h"

#define VLAN_PRESENT 1
/* One tunnel with 0.0.0.0/0 and ::/0 behind it: no prefix to look up. */
#define VLAN_SINGLE 2
/* More than one layer 2 tunnel: frames to a group are copied. */
#define VLAN_FLOOD 4

struct vlan_row {
	__u32 flags;
	__u32 single; /* the tunnel where there is one, whatever lies behind it; else TUNNEL_NONE */
	__u32 first_l2; /* TUNNEL_NONE: no layer 2 tunnel */
	__u8 server_mac[6];
	__u8 gateway_mac[6];
};
_Static_assert(sizeof(struct vlan_row) == 24, "no padding: Rust has the same bytes");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct vlan_row);
} vlans SEC(".maps");

/* What only user space reads: it keeps no other record of a row. */
struct vlan_meta {
	__u64 generation;
	__u64 expires_at; /* seconds since the machine was started; 0: never */
	__u8 origin;
	__u8 owner_len;
	__u8 zero[6];
	__u8 owner[64];
};
_Static_assert(sizeof(struct vlan_meta) == 88, "no padding: Rust has the same bytes");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct vlan_meta);
} vlan_metas SEC(".maps");

always_inline struct vlan_row *vlan_get(__u32 vlan)
{
	struct vlan_row *row = bpf_map_lookup_elem(&vlans, &vlan);

	return row && row->flags & VLAN_PRESENT ? row : NULL;
}

#endif
