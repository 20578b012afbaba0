/* Packets that user space must cut: tc programs cannot make two packets of one. They come back by the egress side of the
 * inside device, marked, and take the ordinary way. */
#ifndef SLOW_PATH_H
#define SLOW_PATH_H

#include "counters.h"
#include "headers.h"
#include "inner.h"
#include "rates.h"

struct slow_packet {
	__u32 vlan;
	__u32 mtu; /* longest piece */
	__u32 len; /* of the frame, which follows: Ethernet, untagged */
	__u32 zero;
};
_Static_assert(sizeof(struct slow_packet) == 16, "no padding: Rust has the same bytes");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} slow_path SEC(".maps");

/* An IPv4 packet that is too long and may be fragmented. */
always_inline int to_slow_path(struct __sk_buff *skb, const struct inner *n, __u32 vlan, __u32 mtu)
{
	struct slow_packet packet = { .vlan = vlan, .mtu = mtu, .len = ETH_HLEN + n->total };

	if (skb->gso_size)
		return drop(vlan, DROP_FRAG_GSO);
	if (!rate_allows(vlan, RATE_FRAGMENT))
		return drop(vlan, DROP_FRAG_RATE);
	if (bpf_perf_event_output(skb, &slow_path, BPF_F_CURRENT_CPU | (__u64)packet.len << 32, &packet, sizeof(packet)))
		return drop(vlan, DROP_FRAG_LOST);
	return drop(vlan, DROP_FRAG_SLOW_PATH);
}

#endif
