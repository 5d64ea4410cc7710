/*
 * What happens to a port from outside: its device must be reset before it carries anything again, or is gone. DPDK tells it on its interrupt
 * thread. The first fault of a port stays until the port is watched anew.
 */
/* rte_dev_event_callback_register, which has been the same since 18.11 and has no stable alternative. */
#define ALLOW_EXPERIMENTAL_API
#include <stdint.h>

#include <rte_dev.h>
#include <rte_ethdev.h>

/* More registers than net_e1000_igb_vf shows. */
#define REGISTERS_MAX 512

#define STOQ_FAULT_RESET 1
#define STOQ_FAULT_REMOVED 2

static uint8_t faults[RTE_MAX_ETHPORTS];

/*
 * A driver may miss the interrupt by which a physical function announces its reset: QEMU's igb raises none for the vector that
 * net_e1000_igb_vf asks for. The device has then forgotten its rings, and their lengths are gone from its registers.
 */
static struct ring_registers {
	uint32_t ring_bytes;
	/* Registers that had this value when the port was started. */
	uint32_t count;
} ring_registers[RTE_MAX_ETHPORTS];

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

/* The number of the port's registers with this value; 0 where the driver shows none. */
static uint32_t registers_with(uint16_t port, uint32_t value)
{
	uint32_t registers[REGISTERS_MAX], count = 0;
	struct rte_dev_reg_info info = { 0 };

	if (rte_eth_dev_get_reg_info(port, &info) != 0 || info.width != sizeof(registers[0]) || info.length > REGISTERS_MAX)
		return 0;
	info.data = registers;
	if (rte_eth_dev_get_reg_info(port, &info) != 0)
		return 0;
	for (uint32_t at = 0; at < info.length; at++)
		count += registers[at] == value;
	return count;
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
	ring_registers[port].count = 0;
	ret = rte_eth_dev_callback_register(port, RTE_ETH_EVENT_INTR_RESET, on_reset, NULL);
	if (ret == 0)
		ret = rte_eth_dev_callback_register(port, RTE_ETH_EVENT_INTR_RMV, on_removal, NULL);
	if (ret == 0)
		ret = rte_dev_event_callback_register(device, on_device, (void *)(uintptr_t)port);
	return ret;
}

/* Has stoq_port_fault look for the lengths of the rings of a started port. Not while another thread calls that. */
void stoq_port_watch_rings(uint16_t port, uint32_t ring_bytes)
{
	ring_registers[port] = (struct ring_registers){ .ring_bytes = ring_bytes, .count = registers_with(port, ring_bytes) };
}

/* One of STOQ_FAULT_*, or 0. */
int stoq_port_fault(uint16_t port)
{
	const struct ring_registers *rings = &ring_registers[port];

	if (rings->count != 0 && registers_with(port, rings->ring_bytes) < rings->count)
		note(port, STOQ_FAULT_RESET);
	return __atomic_load_n(&faults[port], __ATOMIC_RELAXED);
}
