/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The upper table: stack <-> group. A stack is named by the cookie of its network namespace, which is never re-used
 * while the machine runs. Written by tables/stacks.rs; a row has one entry in `stacks`, one in `owners_by_gids` and one
 * a cgroup in `owners_by_cgroup`.
 */
#pragma once

#include "kernel.h"

#define UNLIMITED 0xffffffff

/* Cgroups of owners are at most this deep below the root of the hierarchy. */
#define MAX_LEVEL 16
#define ALL_LEVELS 0x1fffe

struct stack_row {
	__u64 id; /* of this row; another one when the stack is removed and put again */
	__u32 gids; /* first gid >> 16 */
	__u32 max_connections; /* or UNLIMITED */
};
_Static_assert(sizeof(struct stack_row) == 16, "the loader writes 16 bytes");

/* The loader sets max_entries of all tables. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u64); /* cookie */
	__type(value, struct stack_row);
} stacks SEC(".maps");

struct owner_row {
	__u64 stack; /* cookie */
	__u32 level; /* how deep below the root of the hierarchy; 0: not known */
	__u32 pad;
};
_Static_assert(sizeof(struct owner_row) == 16, "the loader writes 16 bytes");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u64); /* id of a cgroup2 directory */
	__type(value, struct owner_row);
} owners_by_cgroup SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32); /* gid >> 16 */
	__type(value, __u64); /* cookie */
} owners_by_gids SEC(".maps");

/* What the pins are. */
struct guard_row {
	__u64 cgroup; /* id of the directory the programs are attached to */
	__u32 layout;
	__u32 levels; /* bit N: there may be an owner's cgroup at level N */
};
_Static_assert(sizeof(struct guard_row) == 16, "the loader writes 16 bytes");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct guard_row);
} guard SEC(".maps");

static __always_inline const struct stack_row *stack_of(__u64 cookie)
{
	return bpf_map_lookup_elem(&stacks, &cookie);
}
