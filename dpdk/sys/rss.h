/* What is asked of receive-side scaling, and what the device uses. */
#ifndef STOQ_RSS_H
#define STOQ_RSS_H

#include <stdint.h>

#define STOQ_RSS_KEY_BYTES 52

struct stoq_rss {
	/* The key to use, and how many of its bytes the device takes: 0 where it names no length that fits. */
	uint8_t key[STOQ_RSS_KEY_BYTES];
	uint8_t key_len;

	/* Granted: flows are told apart by UDP ports as well; the key is the one above. */
	uint8_t ports;
	uint8_t own_key;
	uint8_t reserved;
	/* Entries of the device's table, if it is the round of all queues; 0 otherwise. */
	uint16_t table_len;
};

#endif
