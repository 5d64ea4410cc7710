/* Receive-side scaling by a key and a table of ours, so that software can compute the queue of a frame. */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include <rte_ethdev.h>

#include "rss.h"

#define TABLE_LEN_MAX 512

static bool has_key(uint16_t port, struct stoq_rss *rss)
{
	uint8_t key[STOQ_RSS_KEY_BYTES];
	struct rte_eth_rss_conf conf = { .rss_key = key, .rss_key_len = rss->key_len };

	memset(key, 0, sizeof(key));
	if (rte_eth_dev_rss_hash_conf_get(port, &conf) != 0)
		return false;
	rss->ports = (conf.rss_hf & (RTE_ETH_RSS_NONFRAG_IPV4_UDP | RTE_ETH_RSS_NONFRAG_IPV6_UDP)) != 0;
	return rss->key_len != 0 && memcmp(key, rss->key, rss->key_len) == 0;
}

/* Entry i of the table is queue i modulo `queues`. */
static bool set_table(uint16_t port, uint16_t queues, uint16_t len)
{
	struct rte_eth_rss_reta_entry64 table[TABLE_LEN_MAX / RTE_ETH_RETA_GROUP_SIZE];
	bool ours = true;

	if (len == 0 || len > TABLE_LEN_MAX || len % RTE_ETH_RETA_GROUP_SIZE != 0)
		return false;
	for (uint16_t i = 0; i < len; i++) {
		table[i / RTE_ETH_RETA_GROUP_SIZE].mask = UINT64_MAX;
		table[i / RTE_ETH_RETA_GROUP_SIZE].reta[i % RTE_ETH_RETA_GROUP_SIZE] = i % queues;
	}
	/* A driver that sets no table may have this one from its start. */
	(void)rte_eth_dev_rss_reta_update(port, table, len);
	for (uint16_t i = 0; i < len / RTE_ETH_RETA_GROUP_SIZE; i++)
		memset(table[i].reta, 0xff, sizeof(table[i].reta));
	if (rte_eth_dev_rss_reta_query(port, table, len) != 0)
		return false;
	for (uint16_t i = 0; i < len; i++)
		ours &= table[i / RTE_ETH_RETA_GROUP_SIZE].reta[i % RTE_ETH_RETA_GROUP_SIZE] == i % queues;
	return ours;
}

/* Sets the table of a started port that was configured with RSS, and reads back what the device uses. */
void stoq_port_rss(uint16_t port, uint16_t queues, struct stoq_rss *rss)
{
	struct rte_eth_dev_info info;

	rss->own_key = has_key(port, rss);
	if (rte_eth_dev_info_get(port, &info) == 0 && set_table(port, queues, info.reta_size))
		rss->table_len = info.reta_size;
}
