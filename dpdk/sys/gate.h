/*
 * A gate between one memif queue's thread and EAL's interrupt thread, on which memif's driver unmaps the rings of a peer that leaves. The
 * driver takes no lock: a thread in the middle of a burst would go on reading what is unmapped.
 */
#ifndef STOQ_GATE_H
#define STOQ_GATE_H

#include <stdbool.h>
#include <stdint.h>

struct stoq_gate {
	/* Written by the queue's thread: it is in a burst. */
	uint32_t inside;
	/* Written by the interrupt thread: reasons for which no burst may begin. */
	uint32_t barred;
	uint16_t port;
	uint16_t queue;
	/* Of a transmit queue. */
	bool sends;
	/* Written by the queue's thread: it is in a burst into the first ring, which it shares with other queues. */
	bool shares;
	struct stoq_gate *next;
};

int stoq_gate_enter_barred(struct stoq_gate *gate);
void stoq_gate_unshare(struct stoq_gate *gate);

/*
 * Before a burst: the queue on which it is made, or -1 where it may not begin. The store must be seen before the load is done; instead of a fence here, the interrupt
 * thread has membarrier(2) put one into every thread.
 */
static inline int stoq_gate_enter(struct stoq_gate *gate)
{
	__atomic_store_n(&gate->inside, 1, __ATOMIC_RELAXED);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	if (__builtin_expect(__atomic_load_n(&gate->barred, __ATOMIC_ACQUIRE) == 0, 1))
		return gate->queue;
	return stoq_gate_enter_barred(gate);
}

/* After a burst that was let in. */
static inline void stoq_gate_leave(struct stoq_gate *gate)
{
	if (__builtin_expect(gate->shares, 0))
		stoq_gate_unshare(gate);
	__atomic_store_n(&gate->inside, 0, __ATOMIC_RELEASE);
}

/* The port that this thread starts: the control channel that memif's driver then opens belongs to it. -1 for none. */
extern _Thread_local int stoq_starting_port;

/* This thread sets up a queue of a port, whose ring memif's driver then announces; and it does so no longer. */
void stoq_memif_begin_queue(uint16_t port, uint16_t queue, bool sends);
void stoq_memif_end_queue(void);

#endif
