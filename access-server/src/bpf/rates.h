/* How much of our own work a VLAN may cause each second: a token bucket each, so that one tenant starves no other. */
#ifndef RATES_H
#define RATES_H

#include "headers.h"

#define RATE_NEIGHBOUR 0 /* answers to ARP and neighbour questions */
#define RATE_TOO_LONG 1 /* packet-too-big and time-exceeded messages */
#define RATE_FRAGMENT 2 /* packets for user space to fragment */
#define RATE_KINDS 3

#define RATE_PER_SECOND 1000
#define RATE_BURST 200
#define TOKEN_NS (1000000000ULL / RATE_PER_SECOND)

struct bucket {
	__u64 paid_until; /* CLOCK_MONOTONIC, ns */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096 * RATE_KINDS);
	__type(key, __u32);
	__type(value, struct bucket);
} buckets SEC(".maps");

/* Whether one more is allowed. Two CPUs at once may both take the last token: a limit, not an account. */
static __noinline int rate_allows(__u32 vlan, __u32 kind)
{
	__u32 place = (vlan & 4095) * RATE_KINDS + kind;
	struct bucket *b = bpf_map_lookup_elem(&buckets, &place);
	__u64 now, least;

	if (!b)
		return 0;
	now = bpf_ktime_get_ns();
	least = now - RATE_BURST * TOKEN_NS;
	if (b->paid_until < least)
		b->paid_until = least;
	if (b->paid_until > now)
		return 0;
	b->paid_until += TOKEN_NS;
	return 1;
}

#endif
