/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The port tables: (trunk, VLAN) -> port for frames from the trunk, port -> (trunk, VLAN) for frames from a tenant.
 * One port is one row in each, written together by ports.rs.
 */
#pragma once

#include "headers.h"

/* Flags of both rows. */
#define PORT_LAYER_2 0x1 /* carries ARP and ND; without it the port answers them itself */
#define PORT_TRUNK_PEER 0x2 /* the trunk is a veth whose peer is in another namespace */
#define PORT_CLASSED 0x4 /* leaves through a class of the trunk's queueing discipline: limits.h says which */

struct tag_key {
	__u32 trunk; /* ifindex in the patch room */
	__u16 vid;
	__u16 pad;
};
_Static_assert(sizeof(struct tag_key) == 8, "hash keys have no holes");

struct tag_row {
	__u64 rate_burst_ns;
	__u32 rate_interval_ns;
	__u32 port; /* ifindex */
	__u32 slot; /* row of the counter and rate tables */
	__u32 mtu;
	__u16 flags;
	__u8 mac[6];
};
_Static_assert(sizeof(struct tag_row) == 32, "the loader writes 32 bytes");

struct port_row {
	__u64 rate_burst_ns;
	__u32 rate_interval_ns;
	__u32 trunk; /* ifindex */
	__u32 slot;
	__u32 mtu;
	__u16 vid;
	__u16 flags;
	__u8 mac[6];
	__u8 gateway_mac[6];
};
_Static_assert(sizeof(struct port_row) == 40, "the loader writes 40 bytes");

/* The loader sets max_entries of all tables from OpenOptions::max_ports. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct tag_key);
	__type(value, struct tag_row);
} ports_by_tag SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct port_row);
} ports_by_ifindex SEC(".maps");

static __always_inline const struct tag_row *port_of_tag(__u32 trunk, __u16 vid)
{
	struct tag_key key = { .trunk = trunk, .vid = vid };

	return bpf_map_lookup_elem(&ports_by_tag, &key);
}

static __always_inline const struct port_row *port_of_device(__u32 ifindex)
{
	return bpf_map_lookup_elem(&ports_by_ifindex, &ifindex);
}
