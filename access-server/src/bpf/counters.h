/* What passed, per VLAN and CPU, and what was dropped, per VLAN and reason. */
#ifndef COUNTERS_H
#define COUNTERS_H

#include "drop_reasons.h"
#include "headers.h"

struct traffic {
	__u64 rx_packets; /* from the sites */
	__u64 rx_bytes;
	__u64 tx_packets; /* to the sites */
	__u64 tx_bytes;
};
_Static_assert(sizeof(struct traffic) == 32, "no padding: Rust has the same bytes");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct traffic);
} traffic SEC(".maps");

struct drop_key {
	__u16 vlan; /* 0: not attributable */
	__u16 reason;
};
_Static_assert(sizeof(struct drop_key) == 4, "no padding: Rust has the same bytes");

/* Shared by the CPUs and filled on demand: 4,094 VLANs times all reasons would be memory for nothing. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct drop_key);
	__type(value, __u64);
} drops SEC(".maps");

static __noinline void count_drop(__u32 vlan, __u32 reason)
{
	struct drop_key key = { .vlan = vlan, .reason = reason };
	__u64 *n = bpf_map_lookup_elem(&drops, &key);

	if (n) {
		__sync_fetch_and_add(n, 1);
		return;
	}
	__u64 one = 1;

	if (bpf_map_update_elem(&drops, &key, &one, BPF_NOEXIST) == 0)
		return;
	n = bpf_map_lookup_elem(&drops, &key); /* another CPU was faster */
	if (n)
		__sync_fetch_and_add(n, 1);
}

always_inline int drop(__u32 vlan, __u32 reason)
{
	count_drop(vlan, reason);
	return TC_ACT_SHOT;
}

always_inline void count_rx(__u32 vlan, __u32 packets, __u32 bytes)
{
	struct traffic *t = bpf_map_lookup_elem(&traffic, &vlan);

	if (t) {
		t->rx_packets += packets;
		t->rx_bytes += bytes;
	}
}

always_inline void count_tx(__u32 vlan, __u32 packets, __u32 bytes)
{
	struct traffic *t = bpf_map_lookup_elem(&traffic, &vlan);

	if (t) {
		t->tx_packets += packets;
		t->tx_bytes += bytes;
	}
}

/* Packets in a frame that the stack has not yet cut. */
always_inline __u32 frames(struct __sk_buff *skb)
{
	__u32 segments = skb->gso_segs;

	return segments ? segments : 1;
}

#endif
