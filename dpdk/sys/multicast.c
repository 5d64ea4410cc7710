/* The multicast frames that a port receives. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <rte_ethdev.h>

_Static_assert(sizeof(struct rte_ether_addr) == 6, "rte_ether_addr");

static int set_list(uint16_t port, const uint8_t *groups, uint32_t len)
{
	struct rte_ether_addr *list = calloc(len + 1, sizeof(*list));
	int ret;

	if (list == NULL)
		return -ENOMEM;
	memcpy(list, groups, len * sizeof(*list));
	ret = rte_eth_dev_set_mc_addr_list(port, list, len);
	free(list);
	return ret;
}

/*
 * Has the device receive `len` groups of 6 bytes each. 0: it takes the groups; a virtual function takes them too, whose request for all multicast
 * frames its physical function may drop without a word. 1: it takes all multicast frames. -ENOTSUP: it knows neither, so that it filters nothing.
 * Another negative errno: it refuses all multicast frames, and knows no list.
 */
int stoq_port_hear(uint16_t port, const uint8_t *groups, uint32_t len)
{
	int ret = set_list(port, groups, len);

	if (ret == 0)
		return 0;
	ret = rte_eth_allmulticast_enable(port);
	return ret == 0 ? 1 : ret;
}
