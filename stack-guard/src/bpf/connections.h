/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * TCP connections of a stack, from the first SYN sent or the handshake completed until the socket is closed. Counted for
 * every stack, so that a limit set later finds the right number; connections made before the stack had a row are not.
 */
#pragma once

#include "stacks.h"

/* Key: stack_row.id, so that a socket of a stack that was removed and put again is not counted off the new one. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, __u64);
} connections SEC(".maps");

/* The row a socket is counted in; 0: none. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} counted_sockets SEC(".maps");

static __always_inline bool is_full(const struct stack_row *stack)
{
	__u64 id = stack->id, *count;

	if (stack->max_connections == UNLIMITED)
		return false;
	count = bpf_map_lookup_elem(&connections, &id);
	return count && *count >= stack->max_connections;
}

static __always_inline void begin_connection(struct bpf_sock_ops *ctx)
{
	const struct stack_row *stack = stack_of(bpf_get_netns_cookie(ctx));
	struct bpf_sock *sk = ctx->sk;
	__u64 id, *count, *counted;

	if (!stack || !sk)
		return;
	id = stack->id;
	count = bpf_map_lookup_elem(&connections, &id);
	counted = bpf_sk_storage_get(&counted_sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!count || !counted || *counted == id)
		return;
	/* Without the callback at its end it would be counted for ever. */
	if (bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG))
		return;
	*counted = id;
	__sync_fetch_and_add(count, 1);
}

static __always_inline void end_connection(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	__u64 *counted, *count, id;

	if (!sk)
		return;
	counted = bpf_sk_storage_get(&counted_sockets, sk, 0, 0);
	if (!counted || !*counted)
		return;
	id = *counted;
	*counted = 0;
	count = bpf_map_lookup_elem(&connections, &id);
	if (count)
		__sync_fetch_and_add(count, -1);
}
