/*
 * What memif's driver lacks. It answers its peers on EAL's interrupt thread, by callbacks that it registers there. An executable may provide
 * the functions by which it registers them, so that these callbacks run with no thread inside a burst. They also may find their peer gone
 * half-way, and a client whose server ended connects again.
 */
#define _GNU_SOURCE
/* rte_intr_fd_get, which has been the same since 21.11 and has no stable alternative. */
#define ALLOW_EXPERIMENTAL_API
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

/* Reasons to bar a gate: a callback runs; the port is stopped, because its client found no server. */
#define BARRED_BY_CALLBACK 1u
#define BARRED_BY_STOP 2u
/* Between two looks at a thread that is in a burst, microseconds. */
#define INSIDE_POLL_US 10

typedef int register_fn(const struct rte_intr_handle *, rte_intr_callback_fn, void *);
typedef int unregister_pending_fn(const struct rte_intr_handle *, rte_intr_callback_fn, void *, rte_intr_unregister_callback_fn);

_Thread_local int stoq_starting_port = -1;

/* The gates of all queues. The lock is held while they are barred, so that no queue is added or removed meanwhile. */
static pthread_mutex_t gates_lock = PTHREAD_MUTEX_INITIALIZER;
static struct stoq_gate *gates;

/* memif's two callbacks, each the same function for all of its sockets. */
static rte_intr_callback_fn on_control, on_listener;
/* The control channel of each client's port, while it has one. */
static void *client_channels[RTE_MAX_ETHPORTS];
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
	if (dlsym(RTLD_DEFAULT, "rte_intr_callback_register") != (void *)rte_intr_callback_register)
		return -ENOTSUP;
	return syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0 ? 0 : -errno;
}

struct stoq_gate *stoq_gate_new(uint16_t port)
{
	struct stoq_gate *gate = aligned_alloc(RTE_CACHE_LINE_SIZE, RTE_ALIGN_CEIL(sizeof(*gate), RTE_CACHE_LINE_SIZE));

	if (gate == NULL)
		return NULL;
	pthread_mutex_lock(&gates_lock);
	*gate = (struct stoq_gate){ .port = port, .next = gates };
	gates = gate;
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
	pthread_mutex_unlock(&gates_lock);
}

static void control(void *arg)
{
	bar();
	on_control(arg);
	unbar();
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

		(void)__atomic_compare_exchange_n(&client_channels[port], &channel, NULL, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
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
}
