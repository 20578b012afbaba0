/* TCP's segment size, lowered in passing to what the tunnel takes: hosts that never see our packet-too-big still get
 * through. */
#ifndef MSS_H
#define MSS_H

#include "headers.h"
#include "inner.h"

#define TCP_SYN 0x02
#define TCP_HEADER 20
#define TCP_CHECK 16

struct mss_search {
	struct __sk_buff *skb;
	__u32 off; /* of the option to look at */
	__u32 stop;
	__u32 found; /* 0: not yet */
};

/* Looks at one option; 1 ends the search. A callback, because a loop in place costs the verifier every combination. */
static long mss_option(__u32 i, void *context)
{
	struct mss_search *s = context;
	__u8 *option = skb_at(s->skb, s->off, 4);

	(void)i;
	if (!option || s->off + 4 > s->stop || option[0] == 0)
		return 1;
	if (option[0] == 1) {
		s->off++;
		return 0;
	}
	if (option[0] == 2) {
		s->found = option[1] == 4 ? s->off : 0;
		return 1;
	}
	if (option[1] < 2)
		return 1;
	s->off += option[1];
	return 0;
}

/* Lowers the option in the SYN whose TCP header is at l4. Not inlined: once a connection. Static: a global function would
 * need the BTF of the running kernel, which not every kernel has. */
static __noinline int mss_lower(struct __sk_buff *skb, __u32 l4, __u32 mss)
{
	struct mss_search s = { .skb = skb, .off = l4 + TCP_HEADER };
	__u8 *tcp = skb_at(skb, l4, TCP_HEADER);
	__be16 before, after = bpf_htons(mss);
	__u8 *option;

	if (!tcp)
		return 0;
	s.stop = l4 + (tcp[12] >> 4) * 4;
	bpf_loop(40, mss_option, &s, 0);
	if (!s.found)
		return 0;
	option = skb_at(skb, s.found, 4);
	if (!option)
		return 0;
	before = *(__be16 *)(option + 2);
	if (bpf_ntohs(before) <= mss)
		return 0;
	bpf_skb_store_bytes(skb, (s.found & 511) + 2, &after, 2, 0);
	/* The sum runs over words; an option at an odd place has its bytes in two of them. */
	if ((s.found - l4) & 1) {
		before = before >> 8 | before << 8;
		after = after >> 8 | after << 8;
	}
	bpf_l4_csum_replace(skb, (l4 & 511) + TCP_CHECK, before, after, 2);
	return 0;
}

always_inline bool is_syn(struct __sk_buff *skb, const struct inner *n)
{
	__u8 *tcp;

	if (n->l4proto != IPPROTO_TCP || !n->l4)
		return false;
	tcp = skb_at(skb, n->l4, TCP_HEADER);
	return tcp && tcp[13] & TCP_SYN;
}

/* `mtu`: longest inner packet. Pointers into the packet are stale afterwards. */
always_inline void mss_clamp(struct __sk_buff *skb, const struct inner *n, __u32 mtu)
{
	__u32 headers = (n->family == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)) + TCP_HEADER;

	if (mtu > headers)
		mss_lower(skb, n->l4, mtu - headers);
}

#endif
