/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What passed and what was dropped, by slot. Every port and every trunk has a slot; slot 0 is the room itself.
 * What passes is counted in an array (its lookup is inlined, a few ns); a drop row is made by the first drop, so
 * that a port without trouble costs no 512 bytes a processor.
 */
#pragma once

#include "drop_reasons.h"
#include "headers.h"

#define ROOM_SLOT 0

/* Seen from the tenant: rx = trunk to port, tx = port to trunk. A GSO super-packet is one packet. */
struct traffic {
	__u64 rx_packets;
	__u64 rx_bytes;
	__u64 tx_packets;
	__u64 tx_bytes;
};
_Static_assert(sizeof(struct traffic) == 32, "the loader reads 32 bytes");

struct drop_row {
	__u64 count[DROP_SLOTS];
};
_Static_assert(sizeof(struct drop_row) == 512, "the loader reads 512 bytes");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct traffic);
} traffic_by_slot SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct drop_row);
} drops_by_slot SEC(".maps");

/* For tests and diagnosis: what the last frame became. Off, the verifier removes the code. */
const volatile bool record_verdicts = false;

struct verdict {
	__u32 reason; /* enum drop_reason; 0: sent on */
	__u32 device; /* where it was sent */
	__u32 peer; /* 1: by redirect_peer */
	__u32 slot;
};
_Static_assert(sizeof(struct verdict) == 16, "tests read 16 bytes");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct verdict);
} last_verdict SEC(".maps");

static __always_inline void record(const struct verdict *verdict)
{
	__u32 key = 0;

	if (record_verdicts)
		bpf_map_update_elem(&last_verdict, &key, verdict, BPF_ANY);
}

static const struct drop_row no_drops = {};

static __noinline int drop(__u32 slot, __u32 reason)
{
	struct verdict verdict = { .reason = reason, .slot = slot };
	struct drop_row *row = bpf_map_lookup_elem(&drops_by_slot, &slot);

	record(&verdict);
	if (!row) {
		bpf_map_update_elem(&drops_by_slot, &slot, &no_drops, BPF_NOEXIST);
		row = bpf_map_lookup_elem(&drops_by_slot, &slot);
	}
	if (row && reason < DROP_SLOTS)
		row->count[reason]++;
	return TC_ACT_SHOT;
}

static __always_inline struct traffic *traffic_of(__u32 slot)
{
	return bpf_map_lookup_elem(&traffic_by_slot, &slot);
}

static __always_inline void count_rx(struct traffic *traffic, __u32 bytes)
{
	traffic->rx_packets++;
	traffic->rx_bytes += bytes;
}

static __always_inline void count_tx(struct traffic *traffic, __u32 bytes)
{
	traffic->tx_packets++;
	traffic->tx_bytes += bytes;
}
