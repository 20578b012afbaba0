/* What stands at the other end of the trunk in these tests: tag -> port and back, without any check. Written without
 * libbpf's headers so that the tests can compile it by themselves. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#define SEC(name) __attribute__((section(name), used))

static void *(*lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*redirect)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect;
static long (*redirect_peer)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect_peer;
static long (*vlan_push)(struct __sk_buff *skb, __be16 proto, __u16 tci) = (void *)BPF_FUNC_skb_vlan_push;
static long (*vlan_pop)(struct __sk_buff *skb) = (void *)BPF_FUNC_skb_vlan_pop;

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[4096];
	__u32 *key;
	__u32 *value;
} ports SEC(".maps"); /* VLAN -> port's ifindex */

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[4096];
	__u32 *key;
	__u32 *value;
} vlans SEC(".maps"); /* port's ifindex -> VLAN; place 0: the trunk's ifindex */

char _license[] SEC("license") = "GPL";

SEC("tc")
int far_trunk(struct __sk_buff *skb)
{
	__u32 vlan = skb->vlan_tci & 4095, *port;

	if (!skb->vlan_present)
		return TC_ACT_SHOT;
	port = lookup(&ports, &vlan);
	if (!port || !*port || vlan_pop(skb))
		return TC_ACT_SHOT;
	return redirect(*port, 0);
}

SEC("tc")
int far_port(struct __sk_buff *skb)
{
	__u32 zero = 0, port = skb->ifindex, *vlan, *trunk;

	vlan = lookup(&vlans, &port);
	trunk = lookup(&vlans, &zero);
	if (!vlan || !trunk || vlan_push(skb, 0x0081, *vlan))
		return TC_ACT_SHOT;
	skb->mark = 0;
	return redirect_peer(*trunk, 0);
}
