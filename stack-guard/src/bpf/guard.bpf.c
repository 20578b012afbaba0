// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Processes of a group use sockets of their own stack only, and nobody else does.
 *
 * T = stack the current process belongs to, S = the socket's namespace if it is a stack:
 *   T none, S none   not ours
 *   T some           S must be T
 *   T none, S some   root of the host only
 *   T is two stacks  refused
 */
#include "connections.h"
#include "events.h"
#include "kernel.h"
#include "owner.h"
#include "stacks.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* 0 or an enum refusal. */
static __always_inline __u32 judge(__u64 wanted, const struct owner *owner, bool stack)
{
	if (owner->other)
		return REFUSED_CONTRADICTION;
	if (owner->stack == wanted)
		return 0;
	if (owner->stack)
		return stack ? REFUSED_OTHER_STACK : REFUSED_NO_STACK;
	return stack && !is_host_root() ? REFUSED_STRANGER : 0;
}

/* The one decision. `incident` says what is wanted, and is told the owner. */
static __noinline int decide(struct incident *incident)
{
	struct owner owner = {};

	owner.stack = owner_by_cgroup();
	add_gids(&owner);
	incident->refusal = judge(incident->wanted, &owner, stack_of(incident->wanted) != NULL);
	incident->owner = owner.stack;
	if (!incident->refusal)
		return ALLOW;
	incident->other = owner.other;
	tell(incident);
	return REFUSE;
}

SEC("cgroup/sock_create")
int guard_create(struct bpf_sock *ctx)
{
	struct incident incident = {
		.wanted = bpf_get_netns_cookie(ctx),
		.hook = HOOK_SOCK_CREATE,
		.family = ctx->family,
		.protocol = ctx->protocol,
	};

	return decide(&incident);
}

/* The kernel gives the port as the sockaddr has it. */
static __always_inline struct incident of_address(struct bpf_sock_addr *ctx, __u32 hook)
{
	struct incident incident = {
		.wanted = bpf_get_netns_cookie(ctx),
		.hook = hook,
		.family = ctx->family,
		.protocol = ctx->protocol,
		.port = bpf_ntohs(ctx->user_port),
	};

	return incident;
}

SEC("cgroup/bind4")
int guard_bind4(struct bpf_sock_addr *ctx)
{
	struct incident incident = of_address(ctx, HOOK_BIND4);

	return decide(&incident);
}

SEC("cgroup/bind6")
int guard_bind6(struct bpf_sock_addr *ctx)
{
	struct incident incident = of_address(ctx, HOOK_BIND6);

	return decide(&incident);
}

static __always_inline int connecting(struct bpf_sock_addr *ctx, __u32 hook)
{
	struct incident incident = of_address(ctx, hook);
	const struct stack_row *stack;

	if (decide(&incident) == REFUSE)
		return REFUSE;
	/* Who may, and is nobody's, is root of the host or elsewhere. */
	if (ctx->type != SOCK_STREAM || !incident.owner)
		return ALLOW;
	stack = stack_of(incident.wanted);
	if (!stack || !is_full(stack))
		return ALLOW;
	incident.refusal = REFUSED_CONNECTIONS_OUT;
	tell(&incident);
	return REFUSE;
}

SEC("cgroup/connect4")
int guard_connect4(struct bpf_sock_addr *ctx)
{
	return connecting(ctx, HOOK_CONNECT4);
}

SEC("cgroup/connect6")
int guard_connect6(struct bpf_sock_addr *ctx)
{
	return connecting(ctx, HOOK_CONNECT6);
}

/* A packet each: a process in the cgroup of the stack is through at once. That its gids contradict its cgroup was asked
 * when it made, bound or connected a socket. */
static __always_inline int sending(struct bpf_sock_addr *ctx, __u32 hook)
{
	__u64 stack = owner_by_cgroup();
	struct incident incident;

	if (stack && stack == bpf_get_netns_cookie(ctx))
		return ALLOW;
	incident = of_address(ctx, hook);
	return decide(&incident);
}

SEC("cgroup/sendmsg4")
int guard_sendmsg4(struct bpf_sock_addr *ctx)
{
	return sending(ctx, HOOK_SENDMSG4);
}

SEC("cgroup/sendmsg6")
int guard_sendmsg6(struct bpf_sock_addr *ctx)
{
	return sending(ctx, HOOK_SENDMSG6);
}

static __always_inline void listening(struct bpf_sock_ops *ctx)
{
	struct owner owner = {};
	struct incident incident = {
		.wanted = bpf_get_netns_cookie(ctx),
		.hook = HOOK_LISTEN,
		.family = ctx->family,
		.protocol = IPPROTO_TCP,
		.port = ctx->local_port,
	};

	if (!task_readable)
		return;
	owner.stack = owner_by_task();
	add_gids(&owner);
	if (!judge(incident.wanted, &owner, stack_of(incident.wanted) != NULL))
		return;
	incident.refusal = REFUSED_LISTEN;
	incident.owner = owner.stack;
	incident.other = owner.other;
	tell_by_task(&incident);
}

/* Cannot refuse: counts connections, and tells of listeners that should not be. */
SEC("sockops")
int guard_watch(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		listening(ctx);
		break;
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		begin_connection(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] == BPF_TCP_CLOSE)
			end_connection(ctx);
		break;
	}
	return 1;
}

/* Attached to the namespace of a stack that has a limit; asked only when no connected socket has a packet, so what
 * passes on connections costs nothing. The context does not tell the namespace: the loader does. */
const volatile __u64 limited_stack = 0;

SEC("sk_lookup")
int guard_incoming(struct bpf_sk_lookup *ctx)
{
	const struct stack_row *stack;
	struct incident incident = {};

	if (ctx->protocol != IPPROTO_TCP)
		return SK_PASS;
	stack = stack_of(limited_stack);
	if (!stack || !is_full(stack))
		return SK_PASS;
	incident.wanted = limited_stack;
	incident.hook = HOOK_INCOMING;
	incident.refusal = REFUSED_CONNECTIONS_IN;
	incident.family = ctx->family;
	incident.protocol = IPPROTO_TCP;
	incident.port = ctx->local_port;
	tell_of_packet(&incident);
	return SK_DROP;
}
