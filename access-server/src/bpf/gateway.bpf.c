/* The access server's data path, tc ingress (clsact). What is not ours goes on untouched: TC_ACT_UNSPEC.
 *
 *   wan_ingress    outer packet -> tunnel -> strip -> tag -> trunk (server) or LAN (site)
 *   trunk_ingress  tag -> VLAN -> site by longest prefix -> encapsulate -> WAN
 *   lan_ingress    packet for a server -> encapsulate -> WAN; ARP and ND in the servers' name
 *   *_inject       (egress) the pieces of a packet that user space cut, on the way of the whole one
 */
#include "config.h"
#include "counters.h"
#include "decap.h"
#include "drop_reasons.h"
#include "headers.h"
#include "lan.h"
#include "learn.h"
#include "outer.h"
#include "paths.h"
#include "trunk.h"
#include "tunnels.h"
#include "vlans.h"

/* MIT is compatible with the GPL; the kernel asks in these words. */
char _license[] SEC("license") = "Dual MIT/GPL";

/* Not a tunnel's packet; a drop only where it was for us. */
always_inline int wan_refuse(const struct outer *o, __u32 reason)
{
	return is_local(o->id.family, o->id.local) ? drop(0, reason) : TC_ACT_UNSPEC;
}

SEC("tc")
int wan_ingress(struct __sk_buff *skb)
{
	struct outer o = {};
	struct inner n = {};
	struct tunnel_in *t;
	int result;

	pull_headers(skb);
	result = outer_parse(skb, &o);
	if (result < 0) {
		if (result == OUTER_ICMP4)
			learn4(skb);
		else if (result == OUTER_ICMP6)
			learn6(skb);
		return TC_ACT_UNSPEC;
	}
	if (result > 0)
		return wan_refuse(&o, result);
	t = bpf_map_lookup_elem(&tunnels, &o.id);
	if (!t)
		return wan_refuse(&o, path_known(&o.id) ? DROP_UNKNOWN_KEY : DROP_UNKNOWN_TUNNEL);
	result = o.id.kind == KIND_VXLAN ? bridge_inner(skb, t, &n, &o) : route_inner(skb, t, &n, &o);
	if (result == DROP_TTL_EXPIRED)
		return expired_outside(skb, t, &n, o.id.family);
	if (result)
		return drop(t->vlan, result);
	return deliver(skb, t, &n, &o);
}

SEC("tc")
int trunk_ingress(struct __sk_buff *skb)
{
	return trunk_frame(skb);
}

SEC("tc")
int lan_ingress(struct __sk_buff *skb)
{
	pull_headers(skb);
	if (skb->vlan_present)
		return TC_ACT_UNSPEC;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return lan_ip4(skb);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return lan_ip6(skb);
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return lan_arp(skb);
	return TC_ACT_UNSPEC;
}

/* Egress: what user space cut comes back. */
SEC("tc")
int trunk_inject(struct __sk_buff *skb)
{
	if (skb->mark != INJECT_MARK)
		return TC_ACT_UNSPEC;
	skb->mark = 0;
	return trunk_frame(skb);
}

SEC("tc")
int lan_inject(struct __sk_buff *skb)
{
	struct vlan_row *row;

	if (skb->mark != INJECT_MARK)
		return TC_ACT_UNSPEC;
	skb->mark = 0;
	pull_headers(skb);
	row = vlan_get(SITE_VLAN);
	return row ? forward_ip4(skb, row, SITE_VLAN, NULL) : drop(SITE_VLAN, DROP_NO_SITE);
}
