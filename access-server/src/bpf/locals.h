/* Our own outer addresses: a packet that looks like a tunnel's but goes to another address is not ours. */
#ifndef LOCALS_H
#define LOCALS_H

#include "headers.h"

struct address {
	__be32 addr[4];
	__u32 family; /* 4 or 6 */
};
_Static_assert(sizeof(struct address) == 20, "no padding: Rust has the same bytes");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 256);
	__type(key, struct address);
	__type(value, __u8);
} locals SEC(".maps");

/* A site's servers: what the LAN device answers and takes packets for. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 256);
	__type(key, struct address);
	__type(value, __u8);
} servers SEC(".maps");

/* Devices that carry our programs: only user space reads it, to take them off devices it no longer uses. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} devices SEC(".maps");

always_inline bool is_local(__u32 family, const __be32 *addr)
{
	struct address key = { .addr = { addr[0], addr[1], addr[2], addr[3] }, .family = family };

	return bpf_map_lookup_elem(&locals, &key) != NULL;
}

always_inline bool is_server4(__be32 addr)
{
	struct address key = { .addr = { addr }, .family = 4 };

	return bpf_map_lookup_elem(&servers, &key) != NULL;
}

always_inline bool is_server6(const __be32 *addr)
{
	struct address key = { .addr = { addr[0], addr[1], addr[2], addr[3] }, .family = 6 };

	return bpf_map_lookup_elem(&servers, &key) != NULL;
}

#endif
