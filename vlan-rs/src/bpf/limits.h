/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What a port may carry at most: packets a second in each direction, checked here, and the class of the trunk's queueing
 * discipline that holds its bits a second.
 *
 * Softirq work is charged to nobody's cgroup, so a flood is dropped before anything is read of its frames. A look at the
 * clock is good for FLOOD_BATCH packets of one processor: to others the limit costs one comparison.
 */
#pragma once

#include "headers.h"

#define FLOOD_BATCH 64 /* a power of two */

enum flood_direction { FLOOD_TX, FLOOD_RX, FLOOD_DIRECTIONS };

/* Not in the port's rows: those are of rooms that an older version pinned. A row of zeros is no limit. */
struct limit_row {
	__u64 packet_burst_ns;
	__u32 packet_interval_ns; /* 0: no limit */
	__u32 class; /* handle of a class on the trunk; said by PORT_CLASSED, to spare each other frame this lookup */
};
_Static_assert(sizeof(struct limit_row) == 16, "the loader writes 16 bytes");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct limit_row);
} limits_by_slot SEC(".maps");

/* As a bucket of rates.h. Not pinned: a new program starts with full buckets. */
struct flood_row {
	__u64 full_at_ns[FLOOD_DIRECTIONS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flood_row);
} floods_by_slot SEC(".maps");

/*
 * What this processor took out of the bucket last: for the packets that pass after `taken_at` of them have, and for
 * `left` others that do not pass meanwhile; or when it may ask again. Not pinned.
 */
struct share_row {
	__u64 closed_until_ns[FLOOD_DIRECTIONS];
	__u64 taken_at[FLOOD_DIRECTIONS];
	__u32 left[FLOOD_DIRECTIONS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct share_row);
} shares_by_slot SEC(".maps");

static __always_inline __u32 class_of(__u32 slot)
{
	const struct limit_row *limit = bpf_map_lookup_elem(&limits_by_slot, &slot);

	return limit ? limit->class : 0;
}

/* Tokens for FLOOD_BATCH packets; false when the bucket does not have them. passed: packets, on this processor. */
static __noinline bool take_share(__u32 slot, __u32 direction, __u64 passed)
{
	const struct limit_row *limit = bpf_map_lookup_elem(&limits_by_slot, &slot);
	struct flood_row *flood = bpf_map_lookup_elem(&floods_by_slot, &slot);
	struct share_row *share = bpf_map_lookup_elem(&shares_by_slot, &slot);
	__u64 now, seen, full_at;

	if (!limit || !flood || !share || direction >= FLOOD_DIRECTIONS)
		return false;
	if (!limit->packet_interval_ns)
		return true;
	if (share->taken_at[direction] == passed && share->left[direction]) {
		share->left[direction]--;
		return true;
	}
	now = bpf_ktime_get_ns();
	if (now < share->closed_until_ns[direction])
		return false;
	/* Three tries: who loses against other processors that often is above the rate anyway. */
	for (int i = 0; i < 3; i++) {
		seen = *(volatile __u64 *)&flood->full_at_ns[direction];
		full_at = (seen > now ? seen : now) + (__u64)limit->packet_interval_ns * FLOOD_BATCH;
		if (full_at - now > limit->packet_burst_ns) {
			share->closed_until_ns[direction] = full_at - limit->packet_burst_ns;
			return false;
		}
		if (__sync_val_compare_and_swap(&flood->full_at_ns[direction], seen, full_at) == seen) {
			share->taken_at[direction] = passed;
			share->left[direction] = FLOOD_BATCH - 1;
			return true;
		}
	}
	return false;
}

/*
 * Is this packet more than the port may carry? A GSO super-packet is one packet, as it is one packet's work. `passed` is
 * the port's own counter, which is read and written for each packet anyway.
 */
static __always_inline bool is_flood(__u32 slot, enum flood_direction direction, __u64 passed)
{
	return !(passed & (FLOOD_BATCH - 1)) && !take_share(slot, direction, passed);
}
