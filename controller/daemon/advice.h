/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory advice for VMs whose memory is being sent or saved: the core says when (EFFECT_ADVICE_…), libvirt says how far
 * the reading is, a worker advises (controller/advice), and the core hears of it. Loop thread only.
 */
#ifndef MEMOC_DAEMON_ADVICE_H
#define MEMOC_DAEMON_ADVICE_H

#include "controller/daemon/daemon.h"

int advising_new(struct daemon *d, struct advising **ret); /* −ENOMEM, −EAGAIN */
struct advising *advising_free(struct advising *a);	   /* takes NULL */
/* EVENT_VM_ADVICE follows, the last of them with .over: always, whatever happens, but after advising_drop(). */
void advising_begin(struct advising *a, struct entry *e, uint64_t zero_swap_bytes);
void advising_finish(struct advising *a, vm_id id);
void advising_stop(struct advising *a, vm_id id);
void advising_drop(struct advising *a, vm_id id); /* the VM is gone; a may be NULL */
void advising_count(struct advising *a, struct workpool_counts *counts);

#endif
