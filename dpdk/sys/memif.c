/*
 * What memif's driver lacks. It answers its peers on EAL's interrupt thread, by callbacks that it registers there. An executable may provide
 * the functions by which it registers them, so that these callbacks run with no thread inside a burst. They also may find their peer gone
 * half-way, and a client whose server ended connects again. A peer may have fewer rings than this side has queues: the driver would use the
 * first ring for the others too, from several threads.
 */
#define _GNU_SOURCE
/* rte_intr_fd_get, which has been the same since 21.11 and has no stable alternative. */
#define ALLOW_EXPERIMENTAL_API
/* rte_intr_fd_set, which this file stands in for. */
#define ALLOW_INTERNAL_API
#include <dlfcn.h>
#include <errno.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <rte_alarm.h>
#include <rte_ethdev.h>
#include <rte_interrupts.h>

#include "gate.h"

/*
 * Reasons to bar a gate: a callback runs; the port is stopped, because its client found no server; the peer has no ring for the queue; the
 * queue's bursts go into the first ring, as those of other queues do.
 */
#define BARRED_BY_CALLBACK 1u
#define BARRED_BY_STOP 2u
#define BARRED_FOR_NO_RING 4u
#define BARRED_FOR_SHARING 8u
/* Between two looks at a thread that is in a burst, microseconds. */
#define INSIDE_POLL_US 10

typedef int register_fn(const struct rte_intr_handle *, rte_intr_callback_fn, void *);
typedef int fd_set_fn(struct rte_intr_handle *, int);
typedef int unregister_pending_fn(const struct rte_intr_handle *, rte_intr_callback_fn, void *, rte_intr_unregister_callback_fn);

_Thread_local int stoq_starting_port = -1;

/* The gates of all queues. The lock is held while they are barred, so that no queue is added or removed meanwhile. */
static pthread_mutex_t gates_lock = PTHREAD_MUTEX_INITIALIZER;
static struct stoq_gate *gates;
static _Thread_local bool holds_gates;

/* The ring of each queue, under the same lock. The driver gives it a descriptor when a peer brings it, and takes it away again. */
struct ring {
	const struct rte_intr_handle *handle;
	uint16_t port;
	uint16_t queue;
	bool sends;
	bool exists;
	struct ring *next;
};
static struct ring *rings;
/* The queue that this thread sets up. */
static _Thread_local struct ring setting_up;
static _Thread_local bool sets_up;

/* Whether a thread is in a burst into the first ring to send by, of each port whose queues share it. */
static struct {
	uint32_t taken;
} __rte_cache_aligned first_rings[RTE_MAX_ETHPORTS];

/* memif's two callbacks, each the same function for all of its sockets. */
static rte_intr_callback_fn on_control, on_listener;
/* The control channel of each client's port, while it has one. */
static void *client_channels[RTE_MAX_ETHPORTS];
/* Whether its link has come up, and how many channels in a row were closed before theirs did. */
static bool client_met[RTE_MAX_ETHPORTS];
static uint32_t client_refusals[RTE_MAX_ETHPORTS];
/* The control channel that the running callback of a listener has accepted. */
struct accepted {
	const struct rte_intr_handle *handle;
	void *arg;
	int fd;
	ino_t socket;
};
static _Thread_local struct accepted *accepting;

static void *next_of(const char *name)
{
	void *function = dlsym(RTLD_NEXT, name);

	if (function == NULL)
		abort();
	return function;
}

#define NEXT(type, name)                                                       \
	({                                                                     \
		static type *next;                                             \
		type *known = __atomic_load_n(&next, __ATOMIC_RELAXED);        \
		if (known == NULL)                                             \
			__atomic_store_n(&next, known = next_of(name), __ATOMIC_RELAXED); \
		known;                                                         \
	})

/* 0, or a negative errno: -ENOTSUP where memif's driver would not call the functions of this file. */
int stoq_memif_ready(void)
{
	if (dlsym(RTLD_DEFAULT, "rte_intr_callback_register") != (void *)rte_intr_callback_register ||
	    dlsym(RTLD_DEFAULT, "rte_intr_fd_set") != (void *)rte_intr_fd_set)
		return -ENOTSUP;
	return syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0 ? 0 : -errno;
}

/* A ring of which the driver has said nothing is there. */
static bool has_ring(uint16_t port, uint16_t queue, bool sends)
{
	for (struct ring *ring = rings; ring != NULL; ring = ring->next)
		if (ring->port == port && ring->queue == queue && ring->sends == sends)
			return ring->exists;
	return true;
}

/* Queues of the port without a ring of their own receive nothing, and send by the first ring. No thread is inside, or this is its first gate. */
static void set_rings(uint16_t port)
{
	bool first = has_ring(port, 0, true), shared = false;

	for (struct stoq_gate *gate = gates; gate != NULL; gate = gate->next)
		shared |= gate->port == port && gate->sends && first && !has_ring(port, gate->queue, true);
	for (struct stoq_gate *gate = gates; gate != NULL; gate = gate->next) {
		bool shares = gate->sends && first && shared;
		uint32_t reason = 0;

		if (gate->port != port)
			continue;
		if (!has_ring(port, gate->queue, gate->sends))
			reason = shares ? BARRED_FOR_SHARING : BARRED_FOR_NO_RING;
		else if (gate->queue == 0 && shares)
			reason = BARRED_FOR_SHARING;
		__atomic_fetch_and(&gate->barred, ~(BARRED_FOR_NO_RING | BARRED_FOR_SHARING), __ATOMIC_RELAXED);
		__atomic_fetch_or(&gate->barred, reason, __ATOMIC_RELAXED);
	}
}

/* No thread waits for another: where the first ring is taken, nothing is sent this time. */
int stoq_gate_enter_barred(struct stoq_gate *gate)
{
	if (__atomic_load_n(&gate->barred, __ATOMIC_ACQUIRE) == BARRED_FOR_SHARING &&
	    __atomic_exchange_n(&first_rings[gate->port].taken, 1, __ATOMIC_ACQUIRE) == 0) {
		gate->shares = true;
		return 0;
	}
	__atomic_store_n(&gate->inside, 0, __ATOMIC_RELAXED);
	return -1;
}

void stoq_gate_unshare(struct stoq_gate *gate)
{
	gate->shares = false;
	__atomic_store_n(&first_rings[gate->port].taken, 0, __ATOMIC_RELEASE);
}

struct stoq_gate *stoq_gate_new(uint16_t port, uint16_t queue, bool sends)
{
	struct stoq_gate *gate = aligned_alloc(RTE_CACHE_LINE_SIZE, RTE_ALIGN_CEIL(sizeof(*gate), RTE_CACHE_LINE_SIZE));

	if (gate == NULL)
		return NULL;
	pthread_mutex_lock(&gates_lock);
	*gate = (struct stoq_gate){ .port = port, .queue = queue, .sends = sends, .next = gates };
	gates = gate;
	set_rings(port);
	pthread_mutex_unlock(&gates_lock);
	return gate;
}

void stoq_gate_free(struct stoq_gate *gate)
{
	pthread_mutex_lock(&gates_lock);
	for (struct stoq_gate **at = &gates; *at != NULL; at = &(*at)->next) {
		if (*at == gate) {
			*at = gate->next;
			break;
		}
	}
	pthread_mutex_unlock(&gates_lock);
	free(gate);
}

/* Returns with no thread inside a burst of any memif port, and with all of them kept out. */
static void bar(void)
{
	pthread_mutex_lock(&gates_lock);
	holds_gates = true;
	for (struct stoq_gate *gate = gates; gate != NULL; gate = gate->next)
		__atomic_fetch_or(&gate->barred, BARRED_BY_CALLBACK, __ATOMIC_RELAXED);
	/* It fails only for want of memory: stoq_memif_ready has registered it. */
	while (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) != 0)
		usleep(INSIDE_POLL_US);
	for (struct stoq_gate *gate = gates; gate != NULL; gate = gate->next)
		while (__atomic_load_n(&gate->inside, __ATOMIC_ACQUIRE) != 0)
			usleep(INSIDE_POLL_US);
}

static void unbar(void)
{
	for (struct stoq_gate *gate = gates; gate != NULL; gate = gate->next)
		__atomic_fetch_and(&gate->barred, ~BARRED_BY_CALLBACK, __ATOMIC_RELEASE);
	holds_gates = false;
	pthread_mutex_unlock(&gates_lock);
}

static void control(void *arg)
{
	bar();
	on_control(arg);
	unbar();
	for (uint16_t port = 0; port < RTE_MAX_ETHPORTS; port++) {
		struct rte_eth_link link = { 0 };

		if (__atomic_load_n(&client_channels[port], __ATOMIC_RELAXED) == arg && rte_eth_link_get_nowait(port, &link) == 0 &&
		    link.link_status == RTE_ETH_LINK_UP)
			client_met[port] = true;
	}
}

/* The number of an open socket, which no other has, as its descriptor may; 0 where it is closed. */
static ino_t socket_at(int fd)
{
	struct stat at;

	return fstat(fd, &at) == 0 ? at.st_ino : 0;
}

/*
 * The driver registers a control channel and then greets its peer. Where that peer has left, the driver closes the socket and frees the
 * channel, and leaves its callback registered: EAL panics as soon as it looks at its sockets again. The channel is therefore registered
 * when the greeting is sent.
 */
static void listener(void *arg)
{
	struct accepted one = { 0 };

	accepting = &one;
	on_listener(arg);
	accepting = NULL;
	if (one.socket == 0 || socket_at(one.fd) != one.socket)
		return;
	/* Without memory for a callback the peer at least hears of it. */
	if (NEXT(register_fn, "rte_intr_callback_register")(one.handle, control, one.arg) != 0)
		shutdown(one.fd, SHUT_RDWR);
}

static bool is_of_memif(rte_intr_callback_fn callback)
{
	Dl_info info;

	return dladdr((void *)callback, &info) != 0 && info.dli_fname != NULL && strstr(info.dli_fname, "librte_net_memif") != NULL;
}

int rte_intr_callback_register(const struct rte_intr_handle *handle, rte_intr_callback_fn callback, void *arg)
{
	int listens = 0;
	socklen_t len = sizeof(listens);

	if (callback != NULL && is_of_memif(callback)) {
		if (getsockopt(rte_intr_fd_get(handle), SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) != 0)
			return -errno;
		if (listens) {
			on_listener = callback;
			callback = listener;
		} else {
			on_control = callback;
			callback = control;
			if (accepting != NULL) {
				int fd = rte_intr_fd_get(handle);

				*accepting = (struct accepted){ .handle = handle, .arg = arg, .fd = fd, .socket = socket_at(fd) };
				return 0;
			}
			if (stoq_starting_port >= 0)
				__atomic_store_n(&client_channels[stoq_starting_port], arg, __ATOMIC_RELAXED);
		}
	}
	return NEXT(register_fn, "rte_intr_callback_register")(handle, callback, arg);
}

/* The registered callback in the place of the driver's. A channel whose callback is removed is closed. */
static rte_intr_callback_fn removed(rte_intr_callback_fn callback, void *arg)
{
	if (callback != NULL && callback == on_listener)
		return listener;
	if (callback == NULL || callback != on_control)
		return callback;
	for (int port = 0; port < RTE_MAX_ETHPORTS; port++) {
		void *channel = arg;

		if (!__atomic_compare_exchange_n(&client_channels[port], &channel, NULL, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
			continue;
		__atomic_store_n(&client_refusals[port], client_met[port] ? 0 : client_refusals[port] + 1, __ATOMIC_RELAXED);
		client_met[port] = false;
	}
	return control;
}

int rte_intr_callback_unregister(const struct rte_intr_handle *handle, rte_intr_callback_fn callback, void *arg)
{
	return NEXT(register_fn, "rte_intr_callback_unregister")(handle, removed(callback, arg), arg);
}

int rte_intr_callback_unregister_pending(const struct rte_intr_handle *handle, rte_intr_callback_fn callback, void *arg,
					 rte_intr_unregister_callback_fn after)
{
	return NEXT(unregister_pending_fn, "rte_intr_callback_unregister_pending")(handle, removed(callback, arg), arg, after);
}

void stoq_memif_begin_queue(uint16_t port, uint16_t queue, bool sends)
{
	setting_up = (struct ring){ .port = port, .queue = queue, .sends = sends };
	sets_up = true;
}

void stoq_memif_end_queue(void)
{
	sets_up = false;
}

static void note_ring(const struct rte_intr_handle *handle, bool exists)
{
	struct ring *ring = rings;

	while (ring != NULL && ring->handle != handle)
		ring = ring->next;
	if (ring == NULL && sets_up) {
		ring = malloc(sizeof(*ring));
		if (ring == NULL)
			return;
		*ring = setting_up;
		ring->handle = handle;
		ring->next = rings;
		rings = ring;
	}
	if (ring != NULL) {
		ring->exists = exists;
		set_rings(ring->port);
	}
}

/* The driver tells the descriptor of a ring when the ring is made or announced, and -1 when its peer has left. */
int rte_intr_fd_set(struct rte_intr_handle *handle, int fd)
{
	rte_intr_callback_fn caller = (rte_intr_callback_fn)(uintptr_t)__builtin_return_address(0);
	int ret = NEXT(fd_set_fn, "rte_intr_fd_set")(handle, fd);

	if (ret != 0 || !is_of_memif(caller))
		return ret;
	/* Callbacks and stops of a port with queues hold the gates. */
	if (holds_gates) {
		note_ring(handle, fd >= 0);
	} else {
		pthread_mutex_lock(&gates_lock);
		note_ring(handle, fd >= 0);
		pthread_mutex_unlock(&gates_lock);
	}
	return ret;
}

/* How many of the first `queues` queues of a port have rings both to receive and to send by. */
uint16_t stoq_memif_rings(uint16_t port, uint16_t queues)
{
	uint16_t both = 0;

	pthread_mutex_lock(&gates_lock);
	for (uint16_t queue = 0; queue < queues; queue++)
		both += has_ring(port, queue, false) && has_ring(port, queue, true);
	pthread_mutex_unlock(&gates_lock);
	return both;
}

/* How often in a row the server of a client's port has ended the connection before the link was up. */
uint32_t stoq_memif_refusals(uint16_t port)
{
	return __atomic_load_n(&client_refusals[port], __ATOMIC_RELAXED);
}

bool stoq_memif_has_server(uint16_t port)
{
	return __atomic_load_n(&client_channels[port], __ATOMIC_RELAXED) != NULL;
}

/* The driver connects a client when its port starts, and only then. */
static void reconnect(void *arg)
{
	uint16_t port = (uint16_t)(uintptr_t)arg;
	bool stopped;

	bar();
	stoq_starting_port = port;
	stopped = rte_eth_dev_stop(port) != 0 || rte_eth_dev_start(port) != 0;
	stoq_starting_port = -1;
	for (struct stoq_gate *gate = gates; gate != NULL; gate = gate->next) {
		if (gate->port != port)
			continue;
		if (stopped)
			__atomic_fetch_or(&gate->barred, BARRED_BY_STOP, __ATOMIC_RELAXED);
		else
			__atomic_fetch_and(&gate->barred, ~BARRED_BY_STOP, __ATOMIC_RELAXED);
	}
	unbar();
}

int stoq_memif_reconnect(uint16_t port)
{
	return rte_eal_alarm_set(1, reconnect, (void *)(uintptr_t)port);
}

/* Before the port closes: on any thread. */
void stoq_memif_forget(uint16_t port)
{
	(void)rte_eal_alarm_cancel(reconnect, (void *)(uintptr_t)port);
	pthread_mutex_lock(&gates_lock);
	for (struct ring **at = &rings; *at != NULL;) {
		struct ring *ring = *at;

		if (ring->port != port) {
			at = &ring->next;
			continue;
		}
		*at = ring->next;
		free(ring);
	}
	pthread_mutex_unlock(&gates_lock);
	client_met[port] = false;
	__atomic_store_n(&client_refusals[port], 0, __ATOMIC_RELAXED);
}
