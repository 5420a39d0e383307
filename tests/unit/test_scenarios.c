/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Scenarios in virtual time: tests/scenarios/NAME.txt, each a test; which pain each is about is said in
 * memoc-policy(7). Lines, in order of time; '#' begins a comment; times are milliseconds from the start, sizes 512M or
 * 1.5G:
 *
 *   config KEY=VALUE…                  pool buffer auto-buffer reserve dead-band min-share dwell grace stall-timeout
 *                                      min-speed retry-min retry-max max-step keep-free swap balloon observe policy
 *   manual                             nothing happens by itself: no guests, no ticks, no answers
 *   swap SIZE                          the host's swap (1G where not said, 0 = none)
 *   at MS DO…                          DO is one of
 *     add VM max=SIZE [origin=start|incoming|adopt] [carried=SIZE] [min= weight= cap= swap=no balloon=no device=no
 * eligible=no overhead=] [demand= noise= touched= actual= limit= speed= driver=ok|stuck|trickle|none] [target= health=
 * pinned= trimmed-from= ours=yes distrusted=yes] set VM demand= noise= touched= actual= limit= speed= driver= lying=yes
 * begging=yes measured=yes silent=yes limit-fails=yes cold=SIZE (of its demand, used and not touched; "lacks" is in the
 * trace where its balloon takes of it) deflates=yes facts VM min= weight= cap= …       the domain's XML was read again
 *     running|paused|rebooted|migrating-out|migration-over|stopping|drain VM
 *     hold|release|quarantine|unquarantine|trim|untrim VM|all        pin VM SIZE        balloon VM SIZE
 *     host [available=SIZE] [used=SIZE]  what MemAvailable says, or what the host (2 pools and the reserve) itself uses
 *     results on|off                     answer effects or not
 *     stats VM actual= usable= total= unused= swapin= swapout= update=       (manual)
 *     sample VM resident= swapped= faults= limit= refaults= stall=MS oom=yes (manual)
 *     tick | timer                                                           (manual)
 *     result VM balloon|limit code=-5 bytes=SIZE                             (manual; of the last effect)
 *   expect MS[..MS] VM TEXT            a line of the trace in that time begins with the words of TEXT; a part of a word
 * ends in '*' ("steady->shrinking*"). E.g. ("steady->growing-limit", "balloon 300M", "limit open", "needy"; VM is '-'
 * for the host: "level high->soft") expect-order MS..MS VM TEXT | TEXT | …       in this order expect-state MS VM STATE
 * expect-size MS VM MIN..MAX        expect-health MS VM HEALTH expect-level MS LEVEL              expect-buffer MS
 * MIN..MAX         expect-resident MS MIN..MAX   (all VMs, host memory) expect-ratio MS VM VM RATIO TOLERANCE what both
 * gave since the start (max − size) never [MS..MS] VM|* TEXT           no line of the trace begins with TEXT
 *   never-reverse MS VM|* [FROM]       no target goes the other way within MS
 *   (with MEMOC_TRACE in the environment every trace is printed)
 *   trace MS..MS VM|*  …lines… end     the whole trace in that time is exactly these lines ("1000 web1 needy")
 */
#include "tests/unit/core_model.h"

#include <glob.h>

struct scenario {
	struct model m;
	const char *path;
	struct core_config config;
	bool opened;
	char (*lines)[256];
	size_t n;
};

static void print_trace(const struct scenario *s)
{
	for (size_t i = 0; i < s->m.lines; i++)
		print_message("%8llu %s %s\n", (unsigned long long)s->m.trace[i].at_ms, s->m.trace[i].vm,
			      s->m.trace[i].text);
}

static _Noreturn void die(struct scenario *s, size_t line, const char *fmt, ...) PRINTF_LIKE(3, 4);
static _Noreturn void die(struct scenario *s, size_t line, const char *fmt, ...)
{
	char text[256];
	va_list args;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	print_message("%s:%zu: %s\n    %s\nactual trace (seed %llu):\n", s->path, line + 1, text, s->lines[line],
		      (unsigned long long)s->m.seed);
	print_trace(s);
	fail_msg("%s:%zu: %s", s->path, line + 1, text);
	abort();
}

/* ---- words ---- */

static uint64_t to_bytes(struct scenario *s, size_t line, const char *text)
{
	if (strcmp(text, "none") == 0 || strcmp(text, "open") == 0)
		return LIMIT_NONE;
	char *end;
	double v = strtod(text, &end);
	if (end == text || v < 0)
		die(s, line, "no size: '%s'", text);
	uint64_t unit = *end == 'K' ? KIB : *end == 'M' ? MIB : *end == 'G' ? GIB : 1;
	return (uint64_t)(v * (double)unit);
}

/* The value of key=VALUE in the line, in a static buffer; NULL where it is not there. */
static const char *word(const char *line, const char *key)
{
	static char value[64];
	size_t len = strlen(key);
	for (const char *p = line; (p = strstr(p, key)); p += len) {
		if ((p == line || p[-1] == ' ') && p[len] == '=')
			return sscanf(p + len + 1, "%63s", value) == 1 ? value : NULL;
	}
	return NULL;
}

static bool has_size(struct scenario *s, size_t line, const char *key, uint64_t *ret)
{
	const char *w = word(s->lines[line], key);
	if (w)
		*ret = to_bytes(s, line, w);
	return w;
}

static void flag(struct scenario *s, size_t line, const char *key, bool *ret)
{
	const char *w = word(s->lines[line], key);
	if (w)
		*ret = strcmp(w, "yes") == 0;
}

static void share(struct scenario *s, size_t line, const char *key, double *ret)
{
	const char *w = word(s->lines[line], key);
	if (w)
		*ret = strtod(w, NULL);
}

/* ---- config and facts ---- */

static void read_config(struct scenario *s, size_t line)
{
	struct core_config *c = &s->config;
	has_size(s, line, "pool", &c->pool_bytes);
	has_size(s, line, "buffer", &c->buffer_bytes);
	has_size(s, line, "reserve", &c->reserve_bytes);
	has_size(s, line, "dwell", &c->dwell_ms);
	has_size(s, line, "grace", &c->grace_ms);
	has_size(s, line, "stall-timeout", &c->stall_timeout_ms);
	has_size(s, line, "min-speed", &c->min_speed_bytes_per_s);
	has_size(s, line, "retry-min", &c->retry_min_ms);
	has_size(s, line, "retry-max", &c->retry_max_ms);
	has_size(s, line, "max-step", &c->max_step_bytes);
	has_size(s, line, "keep-free", &c->keep_free_bytes);
	flag(s, line, "auto-buffer", &c->buffer_auto);
	flag(s, line, "swap", &c->swap_enabled);
	flag(s, line, "balloon", &c->balloon_enabled);
	flag(s, line, "observe", &c->observe);
	const char *name = word(s->lines[line], "policy");
	if (name && !(c->policy = policy_find(name)))
		die(s, line, "no policy '%s'", name);
	share(s, line, "dead-band", &c->dead_band);
	share(s, line, "min-share", &c->min_share);
	if (!s->opened)
		return;
	struct event ev = {.type = EVENT_CONFIG, .config = c};
	if (model_event(&s->m, &ev) < 0)
		die(s, line, "the core refuses this configuration");
}

static void read_facts(struct scenario *s, size_t line, struct vm_facts *f)
{
	uint64_t weight = f->policy.weight;
	has_size(s, line, "max", &f->max_bytes);
	has_size(s, line, "overhead", &f->overhead_guess_bytes);
	has_size(s, line, "min", &f->policy.min_bytes);
	has_size(s, line, "cap", &f->policy.max_bytes);
	has_size(s, line, "weight", &weight);
	f->policy.weight = (uint32_t)weight;
	flag(s, line, "swap", &f->policy.swap);
	flag(s, line, "balloon", &f->policy.balloon);
	flag(s, line, "device", &f->has_balloon);
	flag(s, line, "eligible", &f->eligible);
}

static void read_guest(struct scenario *s, size_t line, struct model_vm *v)
{
	has_size(s, line, "demand", &v->demand_bytes);
	has_size(s, line, "noise", &v->noise_bytes);
	has_size(s, line, "touched", &v->touched_bytes);
	has_size(s, line, "actual", &v->actual_bytes);
	has_size(s, line, "limit", &v->limit_bytes);
	has_size(s, line, "speed", &v->speed_bytes_per_s);
	flag(s, line, "lying", &v->lying);
	has_size(s, line, "cold", &v->cold_bytes);
	flag(s, line, "deflates", &v->deflates);
	flag(s, line, "begging", &v->begging);
	flag(s, line, "measured", &v->measured);
	flag(s, line, "silent", &v->silent);
	flag(s, line, "limit-fails", &v->limit_fails);
	const char *w = word(s->lines[line], "driver");
	static const char *const drivers[] = {
		[DRIVER_OK] = "ok", [DRIVER_STUCK] = "stuck", [DRIVER_TRICKLE] = "trickle", [DRIVER_NONE] = "none"};
	for (size_t i = 1; w && i < ARRAY_SIZE(drivers); i++)
		if (strcmp(w, drivers[i]) == 0)
			v->driver = i;
}

static void add_vm(struct scenario *s, size_t line, const char *name)
{
	struct vm_facts f = kit_facts(0);
	f.overhead_guess_bytes = 16 * MIB;
	read_facts(s, line, &f);
	struct vm_memory memory = {0};
	enum vm_origin origin = ORIGIN_START;
	const char *w = word(s->lines[line], "origin");
	if (w)
		origin = strcmp(w, "adopt") == 0      ? ORIGIN_ADOPT
			 : strcmp(w, "incoming") == 0 ? ORIGIN_INCOMING
						      : ORIGIN_START;
	memory.known |= has_size(s, line, "target", &memory.target_bytes);
	memory.known |= has_size(s, line, "pinned", &memory.pinned_bytes);
	has_size(s, line, "trimmed-from", &memory.trim_from_bytes);
	flag(s, line, "ours", &memory.limit_ours);
	flag(s, line, "distrusted", &memory.distrusted);
	w = word(s->lines[line], "health");
	for (int h = 1; w && h < BALLOON_HEALTH_END; h++)
		if (strcmp(w, balloon_health_name(h)) == 0)
			memory.health = h;
	uint64_t carried = 0;
	has_size(s, line, "carried", &carried);
	struct model_vm *v = model_add(&s->m, name, origin, carried, &f, &memory);
	read_guest(s, line, v);
}

/* ---- at ---- */

static void manual_stats(struct scenario *s, size_t line, struct model_vm *v)
{
	struct event ev = {.type = EVENT_VM_STATS, .vm = v->id};
	struct guest_stats *g = &ev.stats;
	g->has_actual = has_size(s, line, "actual", &g->actual_bytes);
	g->has_usable = has_size(s, line, "usable", &g->usable_bytes);
	g->has_unused = has_size(s, line, "unused", &g->unused_bytes);
	g->has_available = has_size(s, line, "total", &g->available_bytes);
	g->has_swap = has_size(s, line, "swapin", &g->swap_in_bytes);
	g->has_swap &= has_size(s, line, "swapout", &g->swap_out_bytes);
	has_size(s, line, "update", &g->last_update_s);
	model_event(&s->m, &ev);
}

static void manual_sample(struct scenario *s, size_t line, struct model_vm *v)
{
	struct event ev = {.type = EVENT_VM_SAMPLE, .vm = v->id};
	struct vm_host_sample *h = &ev.sample;
	h->limit_bytes = LIMIT_NONE;
	h->has_memory = has_size(s, line, "resident", &h->resident_bytes);
	has_size(s, line, "swapped", &h->swapped_bytes);
	has_size(s, line, "limit", &h->limit_bytes);
	flag(s, line, "oom", &h->under_oom);
	h->has_major_faults = has_size(s, line, "faults", &h->major_faults);
	h->has_refaults = has_size(s, line, "refaults", &h->refaults);
	h->has_psi = has_size(s, line, "stall", &h->psi_some_us);
	h->psi_some_us *= 1000;
	model_event(&s->m, &ev);
}

static void manual_result(struct scenario *s, size_t line, struct model_vm *v)
{
	const struct vm *vm = model_core_vm(&s->m, v);
	bool limit = strstr(s->lines[line], " limit");
	struct event ev = {.type = EVENT_VM_RESULT,
			   .vm = v->id,
			   .result = {.op = limit ? OP_LIMIT : OP_BALLOON,
				      .seq = limit ? vm->limit_seq : vm->balloon_seq,
				      .bytes = vm->limit_asked_bytes}};
	const char *w = word(s->lines[line], "code");
	ev.result.code = w ? (int)strtol(w, NULL, 10) : 0;
	has_size(s, line, "bytes", &ev.result.bytes);
	model_event(&s->m, &ev);
}

static void do_host(struct scenario *s, size_t line)
{
	s->m.available_set |= has_size(s, line, "available", &s->m.kit.host.mem_available_bytes);
	if (has_size(s, line, "used", &s->m.base_bytes))
		s->m.available_set = false;
	const char *w = word(s->lines[line], "swap");
	if (!w)
		return;
	char copy[64], *slash;
	snprintf(copy, sizeof(copy), "%s", w);
	slash = strchr(copy, '/');
	s->m.kit.host.swap_total_bytes = s->m.swap_total_bytes = slash ? to_bytes(s, line, slash + 1) : 0;
	if (slash)
		*slash = 0;
	s->m.kit.host.swap_free_bytes = slash ? to_bytes(s, line, copy) : 0;
}

static bool lifecycle(struct scenario *s, size_t line, const char *what, vm_id id, const char *arg)
{
	static const struct {
		const char *name;
		enum event_type type;
		bool flag;
	} simple[] = {
		{"running", EVENT_VM_RUNNING, false},
		{"paused", EVENT_VM_PAUSED, false},
		{"rebooted", EVENT_VM_REBOOTED, false},
		{"migrating-out", EVENT_VM_MIGRATING_OUT, false},
		{"migration-over", EVENT_VM_MIGRATION_OVER, false},
		{"stopping", EVENT_VM_STOPPING, false},
		{"drain", EVENT_VM_DRAIN, false},
		{"hold", EVENT_VM_HOLD, true},
		{"release", EVENT_VM_HOLD, false},
		{"trim", EVENT_VM_TRIM, true},
		{"untrim", EVENT_VM_TRIM, false},
		{"quarantine", EVENT_VM_QUARANTINE, true},
		{"unquarantine", EVENT_VM_QUARANTINE, false},
	};
	for (size_t i = 0; i < ARRAY_SIZE(simple); i++) {
		if (strcmp(what, simple[i].name) != 0)
			continue;
		struct event ev = {.type = simple[i].type, .vm = id};
		ev.flag = simple[i].flag;
		if (model_event(&s->m, &ev) < 0)
			die(s, line, "the core refuses it");
		return true;
	}
	if (strcmp(what, "pin") == 0 || strcmp(what, "balloon") == 0) {
		struct event ev = {.type = *what == 'p' ? EVENT_VM_PIN : EVENT_VM_BALLOON, .vm = id};
		ev.bytes = to_bytes(s, line, arg);
		model_event(&s->m, &ev);
		return true;
	}
	return false;
}

/* What the guest itself does at the same moment. */
static void guest_follows(struct model_vm *v, const char *what)
{
	if (strcmp(what, "paused") == 0)
		v->paused = true;
	if (strcmp(what, "running") == 0)
		v->paused = false;
	if (strcmp(what, "rebooted") == 0) {
		v->actual_bytes = v->max_bytes;
		v->host_swapped_bytes = v->touched_bytes = v->swap_in_bytes = v->swap_out_bytes = 0;
	}
}

static void do_at(struct scenario *s, size_t line, const char *rest)
{
	char what[32] = "", name[32] = "", arg[32] = "";
	sscanf(rest, "%31s %31s %31s", what, name, arg);
	struct model_vm *v = model_find(&s->m, name);
	vm_id id = v ? v->id : 0;
	if (strcmp(what, "add") == 0) {
		add_vm(s, line, name);
		return;
	}
	if (strcmp(what, "host") == 0) {
		do_host(s, line);
	} else if (strcmp(what, "config") == 0) {
		read_config(s, line);
	} else if (strcmp(what, "results") == 0) {
		s->m.silent_results = strcmp(name, "off") == 0;
	} else if (strcmp(what, "tick") == 0 || strcmp(what, "timer") == 0) {
		struct event ev = {.type = what[1] == 'i' && what[2] == 'c' ? EVENT_TICK : EVENT_TIMER,
				   .host = s->m.kit.host};
		model_event(&s->m, &ev);
	} else if (!v && strcmp(name, "all") != 0) {
		die(s, line, "no such VM: '%s'", name);
	} else if (strcmp(what, "set") == 0) {
		read_guest(s, line, v);
	} else if (strcmp(what, "facts") == 0) {
		read_facts(s, line, &v->facts);
		struct event ev = {.type = EVENT_VM_FACTS, .vm = id, .facts = v->facts};
		model_event(&s->m, &ev);
	} else if (strcmp(what, "stats") == 0) {
		manual_stats(s, line, v);
	} else if (strcmp(what, "sample") == 0) {
		manual_sample(s, line, v);
	} else if (strcmp(what, "result") == 0) {
		manual_result(s, line, v);
	} else if (lifecycle(s, line, what, id, arg)) {
		if (v)
			guest_follows(v, what);
	} else {
		die(s, line, "unknown: '%s'", what);
	}
}

/* ---- expectations about a moment ---- */

static void expect_range(struct scenario *s, size_t line, const char *range, int64_t is)
{
	char copy[64];
	snprintf(copy, sizeof(copy), "%s", range);
	char *dots = strstr(copy, "..");
	if (!dots)
		die(s, line, "not a range: '%s'", range);
	*dots = 0;
	int64_t lo = (int64_t)to_bytes(s, line, copy), hi = (int64_t)to_bytes(s, line, dots + 2);
	if (is < lo || is > hi)
		die(s, line, "expected %s, is %.1fM", range, (double)is / (double)MIB);
}

static void expect_word(struct scenario *s, size_t line, const char *want, const char *is)
{
	if (strcmp(want, is) != 0)
		die(s, line, "expected %s, is %s", want, is);
}

static void expect_ratio(struct scenario *s, size_t line, const struct vm *a, const char *rest)
{
	char name[32];
	double ratio, tolerance;
	if (sscanf(rest, "%31s %lf %lf", name, &ratio, &tolerance) != 3)
		die(s, line, "expect-ratio MS VM VM RATIO TOLERANCE");
	struct model_vm *v = model_find(&s->m, name);
	const struct vm *b = v ? model_core_vm(&s->m, v) : NULL;
	if (!b)
		die(s, line, "no such VM: '%s'", name);
	double ga = (double)(a->facts.max_bytes - vm_size_bytes(a)),
	       gb = (double)(b->facts.max_bytes - vm_size_bytes(b));
	if (gb <= 0 || ga / gb < ratio - tolerance || ga / gb > ratio + tolerance)
		die(s, line, "they gave %.1fM and %.1fM", ga / (double)MIB, gb / (double)MIB);
}

static int64_t resident_of_all(const struct model *m)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < m->n; i++)
		sum += m->vms[i].gone ? 0 : model_resident_bytes(&m->vms[i]) + m->vms[i].overhead_bytes;
	return (int64_t)sum;
}

/* Returns whether the line was an expectation about a moment. */
static bool expect_now(struct scenario *s, size_t line)
{
	char what[32] = "", name[32] = "", want[64] = "";
	unsigned long long at;
	int used = 0;
	if (sscanf(s->lines[line], "%31s %llu %31s %n%63s", what, &at, name, &used, want) < 3)
		return false;
	if (strncmp(what, "expect-", 7) != 0 || strcmp(what, "expect-order") == 0)
		return false;
	model_run_to(&s->m, at);
	const struct books *books = core_books(s->m.kit.core);
	if (strcmp(what, "expect-level") == 0) {
		expect_word(s, line, name, host_level_name(books->level));
		return true;
	}
	if (strcmp(what, "expect-buffer") == 0 || strcmp(what, "expect-resident") == 0) {
		expect_range(s, line, name, what[7] == 'b' ? books->buffer_bytes : resident_of_all(&s->m));
		return true;
	}
	struct model_vm *v = model_find(&s->m, name);
	const struct vm *vm = v ? model_core_vm(&s->m, v) : NULL;
	if (!vm)
		die(s, line, "no such VM: '%s'", name);
	if (strcmp(what, "expect-state") == 0)
		expect_word(s, line, want, vm_state_name(vm->state));
	else if (strcmp(what, "expect-size") == 0)
		expect_range(s, line, want, (int64_t)vm_size_bytes(vm));
	else if (strcmp(what, "expect-health") == 0)
		expect_word(s, line, want, balloon_health_name(vm->health));
	else if (strcmp(what, "expect-ratio") == 0)
		expect_ratio(s, line, vm, s->lines[line] + used);
	else
		die(s, line, "unknown: '%s'", what);
	return true;
}

/* ---- expectations about the trace ---- */

struct span {
	unsigned long long from_ms, to_ms;
	char vm[32];
	const char *text;
};

/* "MS[..MS] VM TEXT" after the first word; a missing time means always. */
static struct span span_of(struct scenario *s, size_t line)
{
	struct span p = {.to_ms = UINT64_MAX};
	char time[48] = "";
	int used = 0;
	const char *text = strchr(s->lines[line], ' ');
	if (!text || sscanf(text, " %47s%n", time, &used) != 1)
		die(s, line, "incomplete");
	int n = sscanf(time, "%llu..%llu", &p.from_ms, &p.to_ms);
	if (n == 1)
		p.to_ms = p.from_ms;
	text += n >= 1 ? used : 0;
	if (sscanf(text, " %31s%n", p.vm, &used) != 1)
		die(s, line, "no VM");
	p.text = text + used;
	p.text += strspn(p.text, " ");
	return p;
}

static bool matches(const struct span *p, const struct model_line *l, const char *text, size_t len)
{
	if (l->at_ms < p->from_ms || l->at_ms > p->to_ms || (strcmp(p->vm, "*") != 0 && strcmp(p->vm, l->vm) != 0))
		return false;
	if (len && text[len - 1] == '*')
		return strncmp(l->text, text, len - 1) == 0;
	return len == 0 || (strncmp(l->text, text, len) == 0 && (l->text[len] == 0 || l->text[len] == ' '));
}

static const struct model_line *find_line(struct scenario *s, const struct span *p, const char *text, size_t len,
					  size_t from)
{
	for (size_t i = from; i < s->m.lines; i++)
		if (matches(p, &s->m.trace[i], text, len))
			return &s->m.trace[i];
	return NULL;
}

static void expect_order(struct scenario *s, size_t line)
{
	struct span p = span_of(s, line);
	size_t from = 0;
	for (const char *text = p.text; *text;) {
		size_t len = strcspn(text, "|"), trimmed = len;
		while (trimmed && text[trimmed - 1] == ' ')
			trimmed--;
		const struct model_line *l = find_line(s, &p, text, trimmed, from);
		if (!l)
			die(s, line, "not found in this order: '%.*s'", (int)trimmed, text);
		from = (size_t)(l - s->m.trace) + 1;
		text += len;
		text += strspn(text, "| ");
	}
}

/* Direction of a "target 512M->300M" line: 1, −1, or 0 for another line. */
static int direction(const struct model_line *l)
{
	unsigned long long from, to;
	if (sscanf(l->text, "target %lluM->%lluM", &from, &to) != 2)
		return 0;
	return to > from ? 1 : to < from ? -1 : 0;
}

static void never_reverse(struct scenario *s, size_t line)
{
	struct span p = span_of(s, line);
	uint64_t within_ms = p.from_ms;
	p = (struct span){.to_ms = UINT64_MAX, .text = ""};
	sscanf(s->lines[line], "%*s %*s %31s %llu", p.vm, &p.from_ms);
	for (size_t i = 0; i < s->m.lines; i++) {
		int d = direction(&s->m.trace[i]);
		if (!d || s->m.trace[i].at_ms < p.from_ms ||
		    (strcmp(p.vm, "*") != 0 && strcmp(p.vm, s->m.trace[i].vm) != 0))
			continue;
		for (size_t j = i + 1; j < s->m.lines && s->m.trace[j].at_ms < s->m.trace[i].at_ms + within_ms; j++)
			if (strcmp(s->m.trace[i].vm, s->m.trace[j].vm) == 0 && direction(&s->m.trace[j]) == -d)
				die(s, line, "%s reversed at %llu ms", s->m.trace[i].vm,
				    (unsigned long long)s->m.trace[j].at_ms);
	}
}

/* The trace of a span, line by line, against the lines up to "end"; returns the line of "end". */
static size_t exact_trace(struct scenario *s, size_t line)
{
	struct span p = span_of(s, line);
	size_t at = line + 1, i = 0;
	for (;; i++) {
		while (i < s->m.lines && !matches(&p, &s->m.trace[i], "", 0))
			i++;
		bool last = at >= s->n || strcmp(s->lines[at], "end") == 0;
		if (last && i == s->m.lines)
			return at;
		char is[160] = "(nothing more)";
		if (i < s->m.lines)
			snprintf(is, sizeof(is), "%llu %s %s", (unsigned long long)s->m.trace[i].at_ms,
				 s->m.trace[i].vm, s->m.trace[i].text);
		if (last || strcmp(s->lines[at], is) != 0)
			die(s, at, "expected '%s', is '%s'", last ? "end" : s->lines[at], is);
		at++;
	}
}

static size_t judge(struct scenario *s, size_t line)
{
	const char *text = s->lines[line];
	if (strncmp(text, "expect-order ", 13) == 0) {
		expect_order(s, line);
	} else if (strncmp(text, "never-reverse ", 14) == 0) {
		never_reverse(s, line);
	} else if (strncmp(text, "trace ", 6) == 0) {
		return exact_trace(s, line);
	} else if (strncmp(text, "expect ", 7) == 0 || strncmp(text, "never ", 6) == 0) {
		struct span p = span_of(s, line);
		const struct model_line *l = find_line(s, &p, p.text, strlen(p.text), 0);
		if (!l && *text == 'e')
			die(s, line, "did not happen");
		if (l && *text == 'n')
			die(s, line, "happened at %llu ms to %s: %s", (unsigned long long)l->at_ms, l->vm, l->text);
	}
	return line;
}

/* ---- a file ---- */

static void read_lines(struct scenario *s)
{
	FILE *f = fopen(s->path, "re");
	if (!f)
		fail_msg("%s cannot be read", s->path);
	s->lines = calloc(1024, sizeof(s->lines[0]));
	assert_non_null(s->lines);
	while (s->n < 1024 && fgets(s->lines[s->n], sizeof(s->lines[0]), f)) {
		char *l = s->lines[s->n++];
		l[strcspn(l, "#\n")] = 0;
		for (size_t len = strlen(l); len && l[len - 1] == ' '; len--)
			l[len - 1] = 0;
	}
	fclose(f);
	assert_true(s->n < 1024);
}

static void before_start(struct scenario *s)
{
	for (size_t i = 0; i < s->n; i++)
		if (strncmp(s->lines[i], "config ", 7) == 0)
			read_config(s, i);
	model_open(&s->m, &s->config);
	s->opened = true;
	for (size_t i = 0; i < s->n; i++) {
		if (strcmp(s->lines[i], "manual") == 0)
			s->m.manual = true;
		if (strncmp(s->lines[i], "swap ", 5) == 0)
			s->m.swap_total_bytes = to_bytes(s, i, s->lines[i] + 5);
	}
}

static bool known(const char *l)
{
	static const char *const first[] = {"config ", "swap ", "manual", "at ", "expect", "never", "trace ", "end"};
	for (size_t i = 0; i < ARRAY_SIZE(first); i++)
		if (strncmp(l, first[i], strlen(first[i])) == 0)
			return true;
	return *l == 0 || (*l >= '0' && *l <= '9');
}

static void run_scenario(void **state)
{
	struct scenario s = {.path = *state, .config = kit_config()};
	s.config.grace_ms = 20000;
	read_lines(&s);
	before_start(&s);
	uint64_t before = 0;
	for (size_t i = 0; i < s.n; i++) {
		unsigned long long at;
		int used = 0;
		if (!known(s.lines[i]))
			die(&s, i, "unknown line");
		if (sscanf(s.lines[i], "at %llu %n", &at, &used) == 1 && used) {
			if (at < before)
				die(&s, i, "time goes backwards");
			before = at;
			model_run_to(&s.m, at);
			do_at(&s, i, s.lines[i] + used);
		} else {
			expect_now(&s, i);
		}
		if (s.m.broken[0])
			die(&s, i, "%s", s.m.broken);
	}
	for (size_t i = 0; i < s.n; i++)
		i = judge(&s, i);
	if (getenv("MEMOC_TRACE"))
		print_trace(&s);
	model_close(&s.m);
	free(s.lines);
}

int main(int argc, char **argv)
{
	static struct CMUnitTest tests[100];
	glob_t files;
	const char *pattern = argc > 1 ? argv[1] : "tests/scenarios/*.txt";
	if (glob(pattern, 0, NULL, &files) != 0 || files.gl_pathc > ARRAY_SIZE(tests)) {
		fprintf(stderr, "no scenarios at %s: run it at the top of the source tree\n", pattern);
		return 1;
	}
	for (size_t i = 0; i < files.gl_pathc; i++)
		tests[i] = (struct CMUnitTest){
			.name = files.gl_pathv[i], .test_func = run_scenario, .initial_state = files.gl_pathv[i]};
	/* What cmocka_run_group_tests() expands to, for an array whose length is known only now. */
	int failed = _cmocka_run_group_tests("scenarios", tests, files.gl_pathc, NULL, NULL);
	globfree(&files);
	return failed != 0;
}
