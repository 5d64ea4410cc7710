/*
 * DPDK's data path is made of inline functions over structs whose layout changes between releases. This file gives
 * them stable names and plain arrays, so that Rust never sees a DPDK struct.
 *
 * Only public API that is the same in 22.11, 23.11 and 24.11.
 */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <rte_alarm.h>
#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_memzone.h>

#include "gate.h"
#include "rss.h"

/* One frame of a received burst. */
struct stoq_rx_frame {
	const uint8_t *data;
	uint32_t len;
	uint32_t flags;
};
#define STOQ_RX_CHECKSUM_GOOD 1u
#define STOQ_RX_CHECKSUM_BAD 2u
#define STOQ_RX_CHAINED 4u

/* One frame to transmit. */
struct stoq_tx_frame {
	uint16_t len;
	uint8_t kind;
	uint8_t l2_len;
};
#define STOQ_TX_PLAIN 0
#define STOQ_TX_UDP_V4 1
#define STOQ_TX_UDP_V6 2

/* The capabilities of a port, before it is configured. */
struct stoq_port_caps {
	char driver[32];
	uint8_t mac[6];
	uint16_t queues_max;
	uint32_t mtu_max;
	int32_t numa_node;
};

/* The requested settings of a port; the second part holds the granted ones. */
struct stoq_port_setup {
	uint16_t port;
	uint16_t queues;
	uint16_t mtu;
	uint16_t rx_descriptors;
	uint16_t tx_descriptors;
	uint8_t want_checksum;
	uint8_t want_rss;

	uint8_t rx_checksum;
	uint8_t tx_checksum;
	uint8_t rss;
	uint8_t reserved;
};

struct stoq_port_stats {
	uint64_t ipackets, opackets, ibytes, obytes, imissed, ierrors, oerrors, rx_nombuf;
};

_Static_assert(sizeof(struct stoq_rx_frame) == 16 && offsetof(struct stoq_rx_frame, flags) == 12, "rx_frame");
_Static_assert(sizeof(struct stoq_tx_frame) == 4 && offsetof(struct stoq_tx_frame, l2_len) == 3, "tx_frame");
_Static_assert(sizeof(struct stoq_port_caps) == 48 && offsetof(struct stoq_port_caps, numa_node) == 44, "port_caps");
_Static_assert(sizeof(struct stoq_port_setup) == 16 && offsetof(struct stoq_port_setup, rss) == 14, "port_setup");
_Static_assert(sizeof(struct stoq_port_stats) == 64, "port_stats");
_Static_assert(sizeof(struct stoq_rss) == 58 && offsetof(struct stoq_rss, table_len) == 56, "rss");

static uint64_t log_writes_lost;

/*
 * Any thread may log, also a worker's, and standard error may be a pipe that is not read. A line that would have to wait is therefore
 * lost, and counted. A pipe that is writable takes PIPE_BUF bytes at once.
 */
static ssize_t write_log(void *cookie, const char *text, size_t len)
{
	struct pollfd to = { .fd = STDERR_FILENO, .events = POLLOUT };
	size_t first = len < PIPE_BUF ? len : PIPE_BUF;

	if (poll(&to, 1, 0) != 1 || !(to.revents & POLLOUT) || write(STDERR_FILENO, text, first) != (ssize_t)len)
		__atomic_fetch_add(&log_writes_lost, 1, __ATOMIC_RELAXED);
	return (ssize_t)len;
}

uint64_t stoq_log_writes_lost(void)
{
	return __atomic_load_n(&log_writes_lost, __ATOMIC_RELAXED);
}

int stoq_eal_init(int argc, char **argv)
{
	const cookie_io_functions_t log = { .write = write_log };
	FILE *stream;
	cpu_set_t before;
	bool known = pthread_getaffinity_np(pthread_self(), sizeof(before), &before) == 0;
	int ret;

	/* Several releases log to stdout, where a program's own results belong. */
	stream = fopencookie(NULL, "w", log);
	rte_openlog_stream(stream ? stream : stderr);
	ret = rte_eal_init(argc, argv);
	if (ret < 0)
		ret = rte_errno ? -rte_errno : -EIO;

	/* EAL binds the calling thread to the main lcore; every thread that it starts later would inherit that. */
	if (known)
		pthread_setaffinity_np(pthread_self(), sizeof(before), &before);
	return ret;
}

const char *stoq_eal_runtime_dir(void)
{
	return rte_eal_get_runtime_dir();
}

const char *stoq_strerror(int error)
{
	return rte_strerror(error);
}

/* 1: registered by this call. 0: DPDK knew this thread already. Negative: an errno. */
int stoq_thread_register(void)
{
	if (rte_lcore_id() != LCORE_ID_ANY)
		return 0;
	if (rte_thread_register() == 0)
		return 1;
	return rte_errno ? -rte_errno : -EIO;
}

void stoq_thread_unregister(void)
{
	rte_thread_unregister();
}

uint64_t stoq_tsc_hz(void)
{
	return rte_get_tsc_hz();
}

int stoq_device_add(const char *bus, const char *name, const char *args)
{
	return rte_eal_hotplug_add(bus, name, args);
}

int stoq_device_remove(const char *bus, const char *name)
{
	return rte_eal_hotplug_remove(bus, name);
}

int stoq_port_find(const char *name, uint16_t *port)
{
	return rte_eth_dev_get_port_by_name(name, port);
}

int stoq_port_caps(uint16_t port, struct stoq_port_caps *caps)
{
	struct rte_eth_dev_info info;
	struct rte_ether_addr mac;
	uint32_t overhead = RTE_ETHER_HDR_LEN + RTE_ETHER_CRC_LEN;
	int ret = rte_eth_dev_info_get(port, &info);

	if (ret != 0)
		return ret;
	memset(caps, 0, sizeof(*caps));
	if (info.driver_name != NULL)
		snprintf(caps->driver, sizeof(caps->driver), "%s", info.driver_name);
	if (rte_eth_macaddr_get(port, &mac) == 0)
		memcpy(caps->mac, mac.addr_bytes, sizeof(caps->mac));
	caps->queues_max = RTE_MIN(info.max_rx_queues, info.max_tx_queues);
	caps->numa_node = rte_eth_dev_socket_id(port);

	/* The same arithmetic as rte_eth_dev_configure, which refuses an MTU past it. */
	if (info.max_mtu != UINT16_MAX && info.max_rx_pktlen > info.max_mtu)
		overhead = info.max_rx_pktlen - info.max_mtu;
	caps->mtu_max = info.max_mtu ? info.max_mtu : UINT16_MAX;
	if (info.max_rx_pktlen > overhead)
		caps->mtu_max = RTE_MIN(caps->mtu_max, info.max_rx_pktlen - overhead);
	return 0;
}

/* `rss` has the key, and gets its length. */
int stoq_port_configure(struct stoq_port_setup *setup, struct stoq_rss *rss)
{
	const uint64_t rx_checksum = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
	const uint64_t tx_checksum = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
	struct rte_eth_conf conf;
	struct rte_eth_dev_info info;
	int ret = rte_eth_dev_info_get(setup->port, &info);

	if (ret != 0)
		return ret;
	memset(&conf, 0, sizeof(conf));
	conf.rxmode.mtu = setup->mtu;

	if (setup->want_checksum && (info.rx_offload_capa & rx_checksum) == rx_checksum) {
		conf.rxmode.offloads |= rx_checksum;
		setup->rx_checksum = 1;
	}
	if (setup->want_checksum && (info.tx_offload_capa & tx_checksum) == tx_checksum) {
		conf.txmode.offloads |= tx_checksum;
		setup->tx_checksum = 1;
	}
	/* True of every frame sent from here: one pool a queue, one owner a frame. */
	if (info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE)
		conf.txmode.offloads |= RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;

	if (setup->want_rss && setup->queues > 1) {
		uint64_t udp = RTE_ETH_RSS_NONFRAG_IPV4_UDP | RTE_ETH_RSS_NONFRAG_IPV6_UDP;

		conf.rx_adv_conf.rss_conf.rss_hf = info.flow_type_rss_offloads & udp;
		/* A device that cannot hash ports spreads flows by addresses: worse than by ports, and better than one queue. */
		if (conf.rx_adv_conf.rss_conf.rss_hf == 0)
			conf.rx_adv_conf.rss_conf.rss_hf =
				info.flow_type_rss_offloads & (RTE_ETH_RSS_IPV4 | RTE_ETH_RSS_IPV6);
		if (conf.rx_adv_conf.rss_conf.rss_hf != 0) {
			conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
			setup->rss = 1;
			rss->ports = (conf.rx_adv_conf.rss_conf.rss_hf & udp) != 0;
			if (info.hash_key_size <= STOQ_RSS_KEY_BYTES)
				rss->key_len = info.hash_key_size;
		}
		if (rss->key_len != 0) {
			conf.rx_adv_conf.rss_conf.rss_key = rss->key;
			conf.rx_adv_conf.rss_conf.rss_key_len = rss->key_len;
		}
	}

	ret = rte_eth_dev_configure(setup->port, setup->queues, setup->queues, &conf);
	if (ret != 0 && rss->key_len != 0) {
		/* A device may hash by its own key alone. */
		conf.rx_adv_conf.rss_conf.rss_key = NULL;
		conf.rx_adv_conf.rss_conf.rss_key_len = 0;
		rss->key_len = 0;
		ret = rte_eth_dev_configure(setup->port, setup->queues, setup->queues, &conf);
	}
	if (ret != 0)
		return ret;
	return rte_eth_dev_adjust_nb_rx_tx_desc(setup->port, &setup->rx_descriptors, &setup->tx_descriptors);
}

int stoq_queue_setup(const struct stoq_port_setup *setup, uint16_t queue, int numa_node, void *rx_pool)
{
	unsigned int socket = numa_node < 0 ? (unsigned int)SOCKET_ID_ANY : (unsigned int)numa_node;
	int ret;

	stoq_memif_begin_queue(setup->port, queue, false);
	ret = rte_eth_rx_queue_setup(setup->port, queue, setup->rx_descriptors, socket, NULL, rx_pool);
	if (ret == 0) {
		stoq_memif_begin_queue(setup->port, queue, true);
		ret = rte_eth_tx_queue_setup(setup->port, queue, setup->tx_descriptors, socket, NULL);
	}
	stoq_memif_end_queue();
	return ret;
}

int stoq_port_start(uint16_t port, bool promiscuous)
{
	int ret;

	stoq_starting_port = port;
	ret = rte_eth_dev_start(port);
	stoq_starting_port = -1;
	if (ret != 0)
		return ret;
	if (promiscuous) {
		ret = rte_eth_promiscuous_enable(port);
		if (ret == -ENOTSUP)
			ret = 0;
	}
	return ret;
}

static void close_port(uint16_t port)
{
	(void)rte_eth_dev_stop(port);
	(void)rte_eth_dev_close(port);
}

struct interrupt_job {
	void (*run)(struct interrupt_job *job);
	uint16_t port;
	pthread_key_t at_thread_end;
	sem_t done;
};

static void interrupt_job_run(void *arg)
{
	struct interrupt_job *job = arg;

	job->run(job);
}

/* Alarms run on EAL's interrupt thread. False if none could be set. */
static bool on_interrupt_thread(struct interrupt_job *job)
{
	bool set;

	if (sem_init(&job->done, 0, 0) != 0)
		return false;
	set = rte_eal_alarm_set(1, interrupt_job_run, job) == 0;
	while (set && sem_wait(&job->done) != 0 && errno == EINTR)
		;
	sem_destroy(&job->done);
	return set;
}

static void close_port_job(struct interrupt_job *job)
{
	close_port(job->port);
	sem_post(&job->done);
}

/*
 * memif tears a connection down on EAL's interrupt thread when its peer leaves, and takes no lock against a close from
 * elsewhere: `by_interrupts` closes it on that same thread.
 */
void stoq_port_close(uint16_t port, bool by_interrupts)
{
	struct interrupt_job job = { .run = close_port_job, .port = port };

	if (!by_interrupts || !on_interrupt_thread(&job))
		close_port(port);
}

bool stoq_port_link_up(uint16_t port)
{
	struct rte_eth_link link;

	memset(&link, 0, sizeof(link));
	return rte_eth_link_get_nowait(port, &link) == 0 && link.link_status == RTE_ETH_LINK_UP;
}

int stoq_port_stats(uint16_t port, struct stoq_port_stats *stats)
{
	struct rte_eth_stats s;
	int ret = rte_eth_stats_get(port, &s);

	if (ret != 0)
		return ret;
	*stats = (struct stoq_port_stats){
		.ipackets = s.ipackets, .opackets = s.opackets, .ibytes = s.ibytes, .obytes = s.obytes,
		.imissed = s.imissed, .ierrors = s.ierrors, .oerrors = s.oerrors, .rx_nombuf = s.rx_nombuf,
	};
	return 0;
}

void *stoq_pool_create(const char *name, uint32_t mbufs, uint32_t cache, uint16_t room, int numa_node)
{
	uint16_t data_room = room + RTE_PKTMBUF_HEADROOM;
	struct rte_mempool *pool = rte_pktmbuf_pool_create(name, mbufs, cache, 0, data_room, numa_node);

	/* Memory of another node is slower; none is worse. */
	if (pool == NULL && numa_node >= 0)
		pool = rte_pktmbuf_pool_create(name, mbufs, cache, 0, data_room, SOCKET_ID_ANY);
	return pool;
}

static void free_zone(struct rte_mempool_memhdr *chunk, void *zone)
{
	(void)chunk;
	rte_memzone_free(zone);
}

static struct rte_mempool *paged_pool(const char *name, uint32_t mbufs, uint32_t cache, int socket)
{
	const unsigned int flags = RTE_MEMPOOL_F_NO_SPREAD | RTE_MEMPOOL_F_NO_IOVA_CONTIG;
	const uint32_t page = (uint32_t)sysconf(_SC_PAGESIZE);
	struct rte_mempool_objsz size;
	struct rte_pktmbuf_pool_private private = { 0 };
	const struct rte_memzone *zone;
	struct rte_mempool *pool;
	uint32_t object;

	rte_mempool_calc_obj_size(sizeof(struct rte_mbuf), flags, &size);
	object = page - size.header_size - size.trailer_size;
	private.mbuf_data_room_size = object - sizeof(struct rte_mbuf);
	if (rte_mempool_calc_obj_size(object, flags, NULL) != page)
		return NULL;
	pool = rte_mempool_create_empty(name, mbufs, object, cache, sizeof(private), socket, flags);
	if (pool == NULL)
		return NULL;
	zone = rte_memzone_reserve_aligned(name, (size_t)mbufs * page, socket, 0, page);
	if (zone == NULL)
		goto failed;
	rte_pktmbuf_pool_init(pool, &private);
	if (rte_mempool_populate_iova(pool, zone->addr, RTE_BAD_IOVA, zone->len, free_zone, (void *)(uintptr_t)zone) <= 0) {
		rte_memzone_free(zone);
		goto failed;
	}
	if (pool->populated_size != mbufs || pool->nb_mem_chunks != 1)
		goto failed;
	rte_mempool_obj_iter(pool, rte_pktmbuf_init, NULL);
	return pool;
failed:
	rte_mempool_free(pool);
	return NULL;
}

/*
 * net_af_xdp hands the kernel one run of memory: from the pool's first object on, as many bytes as it has objects times
 * their size. A pool as DPDK lays it out has gaps, because no object may cross a page, and lies in several pieces on
 * normal pages: its last objects are outside that run. The kernel drops frames that are sent from these objects, never
 * returns them, and counts neither. Here each object is a page of its own, so there are no gaps and no object crosses a
 * page, which zero copy needs too; and all objects lie in one piece.
 */
void *stoq_pool_create_paged(const char *name, uint32_t mbufs, uint32_t cache, int numa_node)
{
	struct rte_mempool *pool = paged_pool(name, mbufs, cache, numa_node);

	if (pool == NULL && numa_node >= 0)
		pool = paged_pool(name, mbufs, cache, SOCKET_ID_ANY);
	return pool;
}

void stoq_pool_free(void *pool)
{
	rte_mempool_free(pool);
}

uint32_t stoq_pool_available(void *pool)
{
	return rte_mempool_avail_count(pool);
}

static void interrupt_thread_ended(void *job)
{
	sem_post(&((struct interrupt_job *)job)->done);
}

static void end_thread_job(struct interrupt_job *job)
{
	pthread_setspecific(job->at_thread_end, job);
	/* Takes effect where the thread waits next, which it does without a lock. */
	pthread_cancel(pthread_self());
}

int stoq_eal_cleanup(void)
{
	/*
	 * EAL never ends its interrupt thread, yet unmaps the memory that memif's listeners leave in the thread's list,
	 * which it walks after every change: cleaning up crashes now and then. EAL starts once a process, so nothing
	 * needs that thread again.
	 */
	struct interrupt_job job = { .run = end_thread_job };

	if (pthread_key_create(&job.at_thread_end, interrupt_thread_ended) == 0) {
		(void)on_interrupt_thread(&job);
		pthread_key_delete(job.at_thread_end);
	}
	return rte_eal_cleanup();
}

static uint32_t rx_checksum_flags(const struct rte_mbuf *m)
{
	uint64_t l4 = m->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK;
	uint64_t ip = m->ol_flags & RTE_MBUF_F_RX_IP_CKSUM_MASK;

	if (likely(l4 == RTE_MBUF_F_RX_L4_CKSUM_UNKNOWN && ip == RTE_MBUF_F_RX_IP_CKSUM_UNKNOWN))
		return 0;
	if (l4 == RTE_MBUF_F_RX_L4_CKSUM_BAD || ip == RTE_MBUF_F_RX_IP_CKSUM_BAD)
		return STOQ_RX_CHECKSUM_BAD;
	if (l4 == RTE_MBUF_F_RX_L4_CKSUM_UNKNOWN)
		return 0;
	if (ip == RTE_MBUF_F_RX_IP_CKSUM_UNKNOWN) {
		/* IPv6 has no header checksum, so some devices set no flag for it. */
		const uint8_t *eth = rte_pktmbuf_mtod(m, const uint8_t *);

		if (m->data_len < RTE_ETHER_HDR_LEN || eth[12] != 0x86 || eth[13] != 0xdd)
			return 0;
	}
	return STOQ_RX_CHECKSUM_GOOD;
}

/* `gate` is that of a memif queue, and NULL for other drivers. */
uint16_t stoq_rx_burst(uint16_t port, uint16_t queue, void **mbufs, struct stoq_rx_frame *frames, uint16_t max,
		       struct stoq_gate *gate)
{
	struct rte_mbuf **m = (struct rte_mbuf **)mbufs;
	uint16_t len;

	if (gate != NULL && stoq_gate_enter(gate) < 0)
		return 0;
	len = rte_eth_rx_burst(port, queue, m, max);
	if (gate != NULL)
		stoq_gate_leave(gate);

	for (uint16_t i = 0; i < len; i++) {
		frames[i].data = rte_pktmbuf_mtod(m[i], const uint8_t *);
		rte_prefetch0(frames[i].data);
		frames[i].len = m[i]->pkt_len;
		frames[i].flags = rx_checksum_flags(m[i]);
		if (unlikely(m[i]->nb_segs != 1))
			frames[i].flags |= STOQ_RX_CHAINED;
		else
			frames[i].len = m[i]->data_len;
	}
	return len;
}

/* Copies a chained frame into one piece. Returns how many bytes were written: at most `capacity`. */
uint32_t stoq_rx_copy(const void *mbuf, uint8_t *to, uint32_t capacity)
{
	uint32_t len = 0;

	for (const struct rte_mbuf *m = mbuf; m != NULL; m = m->next) {
		if (m->data_len > capacity - len)
			break;
		memcpy(to + len, rte_pktmbuf_mtod(m, const uint8_t *), m->data_len);
		len += m->data_len;
	}
	return len;
}

void stoq_free(void **mbufs, uint32_t len)
{
	rte_pktmbuf_free_bulk((struct rte_mbuf **)mbufs, len);
}

/* All or nothing: 0, or a negative errno. */
int stoq_tx_alloc(void *pool, void **mbufs, uint8_t **data, uint32_t len)
{
	struct rte_mbuf **m = (struct rte_mbuf **)mbufs;
	int ret = rte_pktmbuf_alloc_bulk(pool, m, len);

	if (ret != 0)
		return ret;
	for (uint32_t i = 0; i < len; i++)
		data[i] = rte_pktmbuf_mtod(m[i], uint8_t *);
	return 0;
}

static void tx_describe(struct rte_mbuf *m, const struct stoq_tx_frame *frame)
{
	m->data_len = frame->len;
	m->pkt_len = frame->len;
	if (frame->kind == STOQ_TX_PLAIN)
		return;
	m->l2_len = frame->l2_len;
	if (frame->kind == STOQ_TX_UDP_V4) {
		m->l3_len = 20;
		m->ol_flags |= RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_IP_CKSUM | RTE_MBUF_F_TX_UDP_CKSUM;
	} else {
		m->l3_len = 40;
		m->ol_flags |= RTE_MBUF_F_TX_IPV6 | RTE_MBUF_F_TX_UDP_CKSUM;
	}
}

/*
 * Sends from the front of `mbufs`, through a gate where there is one; returns how many the device took. The first `*ready`
 * were described and prepared by an earlier call; on return `*ready` counts those that are now, the taken ones included. If
 * it is less than `len`, the driver refuses the frame at `*ready`.
 */
uint16_t stoq_tx_burst(uint16_t port, uint16_t queue, void **mbufs, const struct stoq_tx_frame *frames, uint16_t len,
		       uint16_t *ready, struct stoq_gate *gate)
{
	struct rte_mbuf **m = (struct rte_mbuf **)mbufs;
	uint16_t sent = 0;
	uint8_t kinds = STOQ_TX_PLAIN;

	for (uint16_t i = *ready; i < len; i++) {
		tx_describe(m[i], &frames[i]);
		kinds |= frames[i].kind;
	}
	if (kinds == STOQ_TX_PLAIN)
		*ready = len;
	else
		*ready += rte_eth_tx_prepare(port, queue, m + *ready, len - *ready);

	if (gate != NULL) {
		int by = stoq_gate_enter(gate);

		if (by < 0)
			return 0;
		queue = (uint16_t)by;
	}
	while (sent < *ready) {
		uint16_t want = RTE_MIN(*ready - sent, 64);
		uint16_t took = rte_eth_tx_burst(port, queue, m + sent, want);

		sent += took;
		if (took < want)
			break;
	}
	if (gate != NULL)
		stoq_gate_leave(gate);
	return sent;
}
