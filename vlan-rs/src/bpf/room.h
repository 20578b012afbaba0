/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Whose tables these are. For the loader only: it must not adopt rows whose device numbers belong to another
 * network namespace.
 */
#pragma once

#include "headers.h"

/* Raised when a row changes its meaning without changing its size. */
#define ROOM_LAYOUT 1

struct room_row {
	__u64 netns_cookie;
	__u32 layout;
	__u32 pad;
};
_Static_assert(sizeof(struct room_row) == 16, "the loader writes 16 bytes");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct room_row);
} room SEC(".maps");
