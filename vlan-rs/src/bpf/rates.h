/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Token buckets for ARP and ND, four a slot. The rate itself is in the port's rows.
 */
#pragma once

#include "headers.h"

enum rate_bucket { RATE_ARP_TX, RATE_ND_TX, RATE_ARP_RX, RATE_ND_RX, RATE_BUCKETS };

/* A bucket is one number: the time at which it will be full again (GCRA), so that one compare-and-swap takes a token. */
struct rate_row {
	__u64 full_at_ns[RATE_BUCKETS];
};
_Static_assert(sizeof(struct rate_row) == 32, "the loader writes 32 bytes");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rate_row);
} rates_by_slot SEC(".maps");

/* Takes a token; false when there is none. interval: ns a token takes to come back, burst: ns to fill the bucket. */
static __noinline bool take_token(__u32 slot, __u32 bucket, __u32 interval, __u64 burst)
{
	struct rate_row *row = bpf_map_lookup_elem(&rates_by_slot, &slot);
	__u64 now = bpf_ktime_get_ns(), seen, full_at;

	if (!row || bucket >= RATE_BUCKETS)
		return false;
	/* Three tries: who loses against other processors that often is above the rate anyway. */
	for (int i = 0; i < 3; i++) {
		seen = *(volatile __u64 *)&row->full_at_ns[bucket];
		full_at = (seen > now ? seen : now) + interval;
		if (full_at - now > burst)
			return false;
		if (__sync_val_compare_and_swap(&row->full_at_ns[bucket], seen, full_at) == seen)
			return true;
	}
	return false;
}
