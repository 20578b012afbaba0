/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The trunks of this room. Looked at only for frames that belong to no port.
 */
#pragma once

#include "headers.h"

#define TRUNK_PEER 0x1 /* a veth whose peer is in another namespace */
#define TRUNK_SHARED 0x2 /* frames of unknown tag go on to the next filter instead of being dropped */

struct trunk_row {
	__u32 slot;
	__u32 flags;
};
_Static_assert(sizeof(struct trunk_row) == 8, "the loader writes 8 bytes");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct trunk_row);
} trunks SEC(".maps");

static __always_inline const struct trunk_row *trunk_of_device(__u32 ifindex)
{
	return bpf_map_lookup_elem(&trunks, &ifindex);
}
