/* The path to a remote and what was learned of its MTU (RFC 1191, RFC 8201). Kept by (remote, local), not by tunnel: an
 * ICMP error may quote too little to tell two VXLAN tunnels of one path apart, and they share the path anyway. */
#ifndef PATHS_H
#define PATHS_H

#include "headers.h"
#include "tunnels.h"

#define PATH_EXPIRY_NS (600ULL * 1000000000ULL) /* RFC 1981 section 4: ask for more after ten minutes */
#define PATH_MTU_MIN4 576
#define PATH_MTU_MIN6 1280

struct path_key {
	__be32 remote[4];
	__be32 local[4];
	__u32 family;
};
_Static_assert(sizeof(struct path_key) == 36, "no padding: Rust has the same bytes");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, TUNNELS_MAX);
	__type(key, struct path_key);
	__type(value, __u32);
} paths SEC(".maps");

struct path_state {
	__u64 learned_at; /* CLOCK_MONOTONIC, ns */
	__u32 mtu; /* of outer packets; 0: nothing learned */
	__u32 zero;
};
_Static_assert(sizeof(struct path_state) == 16, "no padding: Rust has the same bytes");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TUNNELS_MAX);
	__type(key, __u32);
	__type(value, struct path_state);
} path_states SEC(".maps");

always_inline bool path_known(const struct tunnel_key *t)
{
	struct path_key key = { .family = t->family };

	__builtin_memcpy(key.remote, t->remote, 32);
	return bpf_map_lookup_elem(&paths, &key) != NULL;
}

/* A router of the path says that our packets are too long. Never raises what is known. */
static __noinline int path_learn(struct path_key *key, __u32 mtu)
{
	__u32 *index, floor;
	struct path_state *state;

	if (!key)
		return 0;
	index = bpf_map_lookup_elem(&paths, key);
	if (!index)
		return 0;
	state = bpf_map_lookup_elem(&path_states, index);
	if (!state)
		return 0;
	floor = key->family == 4 ? PATH_MTU_MIN4 : PATH_MTU_MIN6;
	if (mtu < floor)
		mtu = floor;

	__u64 now = bpf_ktime_get_ns();

	if (state->mtu && state->mtu < mtu && now - state->learned_at < PATH_EXPIRY_NS)
		return 0;
	state->learned_at = now;
	state->mtu = mtu;
	return 0;
}

/* Longest inner packet that the tunnel takes now. */
always_inline __u32 tunnel_mtu(const struct tunnel_out *t)
{
	__u32 place = t->path, mtu = t->mtu;
	struct path_state *state = bpf_map_lookup_elem(&path_states, &place);

	if (state && state->mtu && bpf_ktime_get_ns() - state->learned_at < PATH_EXPIRY_NS) {
		__u32 learned = state->mtu - t->overhead;

		if (learned < mtu)
			mtu = learned;
	}
	return mtu;
}

#endif
