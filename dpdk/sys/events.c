/*
 * What happens to a port from outside: its device must be reset before it carries anything again, or is gone. DPDK tells it on its interrupt
 * thread. The first fault of a port stays until the port is watched anew.
 */
/* rte_dev_event_callback_register, which has been the same since 18.11 and has no stable alternative. */
#define ALLOW_EXPERIMENTAL_API
#include <stdint.h>

#include <rte_dev.h>
#include <rte_ethdev.h>

#define STOQ_FAULT_RESET 1
#define STOQ_FAULT_REMOVED 2

static uint8_t faults[RTE_MAX_ETHPORTS];

static void note(uint16_t port, uint8_t fault)
{
	uint8_t none = 0;

	(void)__atomic_compare_exchange_n(&faults[port], &none, fault, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

static int on_reset(uint16_t port, enum rte_eth_event_type event, void *arg, void *ret)
{
	note(port, STOQ_FAULT_RESET);
	return 0;
}

static int on_removal(uint16_t port, enum rte_eth_event_type event, void *arg, void *ret)
{
	note(port, STOQ_FAULT_REMOVED);
	return 0;
}

/* vfio reports the removal of a PCI device here, to no port. */
static void on_device(const char *name, enum rte_dev_event_type event, void *port)
{
	if (event == RTE_DEV_EVENT_REMOVE)
		note((uint16_t)(uintptr_t)port, STOQ_FAULT_REMOVED);
}

void stoq_port_unwatch(uint16_t port, const char *device)
{
	(void)rte_dev_event_callback_unregister(device, on_device, (void *)(uintptr_t)port);
	(void)rte_eth_dev_callback_unregister(port, RTE_ETH_EVENT_INTR_RMV, on_removal, NULL);
	(void)rte_eth_dev_callback_unregister(port, RTE_ETH_EVENT_INTR_RESET, on_reset, NULL);
}

int stoq_port_watch(uint16_t port, const char *device)
{
	int ret;

	__atomic_store_n(&faults[port], 0, __ATOMIC_RELAXED);
	ret = rte_eth_dev_callback_register(port, RTE_ETH_EVENT_INTR_RESET, on_reset, NULL);
	if (ret == 0)
		ret = rte_eth_dev_callback_register(port, RTE_ETH_EVENT_INTR_RMV, on_removal, NULL);
	if (ret == 0)
		ret = rte_dev_event_callback_register(device, on_device, (void *)(uintptr_t)port);
	return ret;
}

/* One of STOQ_FAULT_*, or 0. */
int stoq_port_fault(uint16_t port)
{
	return __atomic_load_n(&faults[port], __ATOMIC_RELAXED);
}
