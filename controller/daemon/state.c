/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/daemon/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/json.h"

#define STATE_FILE "state.json"
#define STATE_VERSION 1
/* About 500 bytes a VM: enough for tens of thousands, too little to hurt. */
static const struct json_limits state_limits = {.bytes = 16 * MIB, .depth = 8, .nodes = 1 << 20};

static int path_of(char *buf, size_t size, const char *dir, const char *name, struct memoc_err *err)
{
	if ((size_t)snprintf(buf, size, "%s/%s", dir, name) >= size)
		return memoc_err_set(err, -ENAMETOOLONG, "state directory %.100s…: the path is too long", dir);
	return 0;
}

/* ---- writing ---- */

static void write_policy(struct json_writer *w, const struct vmpolicy *policy)
{
	char value[64];

	jw_object(w, "policy");
	for (size_t i = 0; vmpolicy_keys[i].name; i++)
		if (vmpolicy_get(policy, vmpolicy_keys[i].name, value, sizeof(value)) == 0)
			jw_str(w, vmpolicy_keys[i].name, value);
	jw_end(w);
}

static void write_vm(struct json_writer *w, const struct state_vm *vm)
{
	const struct vm_memory *m = &vm->memory;

	jw_object(w, NULL);
	jw_str(w, "uuid", vm->uuid);
	jw_str(w, "name", vm->name);
	jw_u64(w, "pid", (uint64_t)vm->pid);
	jw_u64(w, "pid_start_ticks", vm->pid_start_ticks);
	jw_bool(w, "known", m->known);
	jw_u64(w, "target_bytes", m->target_bytes);
	if (m->health)
		jw_str(w, "balloon_health", balloon_health_name(m->health));
	jw_u64(w, "balloon_bytes_per_s", m->speed_bytes_per_s);
	jw_u64(w, "floor_bytes", m->floor_bytes);
	jw_u64(w, "retry_delay_ms", m->retry_delay_ms);
	jw_u64(w, "pinned_bytes", m->pinned_bytes);
	jw_bool(w, "held", m->held);
	jw_bool(w, "drained", m->drained);
	jw_bool(w, "limit_ours", m->limit_ours);
	jw_bool(w, "silent", m->silent);
	jw_bool(w, "distrusted", m->distrusted);
	jw_bool(w, "by_limit", m->by_limit);
	jw_u64(w, "advice_limit_bytes", m->advice_limit_bytes);
	jw_u64(w, "trim_from_bytes", m->trim_from_bytes);
	jw_u64(w, "overhead_bytes", m->overhead_bytes);
	jw_bool(w, "limit_open", vm->limit_open);
	write_policy(w, &vm->policy);
	jw_end(w);
}

static int to_text(const struct state *s, char **ret_text, size_t *ret_len)
{
	struct json_writer *w = jw_new(true);

	jw_object(w, NULL);
	jw_u64(w, "memoc_state", STATE_VERSION);
	jw_bool(w, "hold_all", s->hold_all);
	jw_bool(w, "whole", s->whole);
	jw_array(w, "vms");
	for (size_t i = 0; i < s->n; i++)
		write_vm(w, &s->vms[i]);
	jw_end(w);
	jw_end(w);
	return jw_finish(w, ret_text, ret_len);
}

static int write_whole(int fd, const char *text, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, text, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		text += n;
		len -= (size_t)n;
	}
	return fsync(fd) < 0 ? -errno : 0;
}

/* The rename itself must last too: without this a power cut may bring the old file back, or none. */
static int sync_dir(const char *dir)
{
	int fd AUTO_CLOSE = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || fsync(fd) < 0)
		return -errno;
	return 0;
}

static int replace_file(const char *dir, const char *tmp, const char *path, const char *text, size_t len)
{
	int fd AUTO_CLOSE = -1, r;

	/* A link that lies in the way is not followed: it is taken away. */
	if (unlink(tmp) < 0 && errno != ENOENT)
		return -errno;
	fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	r = write_whole(fd, text, len);
	if (r == 0 && rename(tmp, path) < 0)
		r = -errno;
	if (r < 0) {
		unlink(tmp);
		return r;
	}
	return sync_dir(dir);
}

int state_save(const char *state_dir, const struct state *s, struct memoc_err *err)
{
	char path[4096], tmp[4096];
	char *text AUTO_FREE = NULL;
	size_t len = 0;
	int r = path_of(path, sizeof(path), state_dir, STATE_FILE, err);

	if (r == 0)
		r = path_of(tmp, sizeof(tmp), state_dir, STATE_FILE ".tmp", err);
	if (r < 0)
		return r;
	r = to_text(s, &text, &len);
	if (r < 0)
		return memoc_err_set(err, r, "%s: cannot be written: %s", path, strerror(-r));
	if (mkdir(state_dir, 0700) < 0 && errno != EEXIST)
		return memoc_err_set(err, -errno, "state directory %s: cannot be made: %s", state_dir, strerror(errno));
	r = replace_file(state_dir, tmp, path, text, len);
	if (r < 0)
		return memoc_err_set(err, r, "%s: cannot be written: %s; what was learned would be lost on a restart",
				     path, strerror(-r));
	return 0;
}

/* ---- reading ---- */

/* A size or time that may be missing: 0 then. False where it is something else than a number. */
static bool read_u64(const struct json *vm, const char *key, uint64_t *ret)
{
	int r = json_get_u64(vm, key, ret);

	return r == 0 || r == -ENOENT;
}

static bool read_bool(const struct json *vm, const char *key, bool *ret)
{
	int r = json_get_bool(vm, key, ret);

	return r == 0 || r == -ENOENT;
}

static bool read_health(const struct json *vm, enum balloon_health *ret)
{
	const char *name = NULL;
	int r = json_get_str(vm, "balloon_health", &name);

	if (r == -ENOENT)
		return true;
	for (int h = BALLOON_UNKNOWN; r == 0 && h < BALLOON_HEALTH_END; h++) {
		if (strcmp(balloon_health_name((enum balloon_health)h), name) == 0) {
			*ret = (enum balloon_health)h;
			return true;
		}
	}
	return false;
}

static bool read_identity(const struct json *j, struct state_vm *vm)
{
	const char *uuid = NULL, *name = NULL;
	uint64_t pid = 0;

	if (json_get_str(j, "uuid", &uuid) < 0 || parse_uuid(uuid, vm->uuid, NULL) < 0)
		return false;
	if (json_get_str(j, "name", &name) < 0 || !*name || strlen(name) >= sizeof(vm->name))
		return false;
	strcpy(vm->name, name);
	if (!read_u64(j, "pid", &pid) || pid > INT32_MAX)
		return false;
	vm->pid = (pid_t)pid;
	return read_u64(j, "pid_start_ticks", &vm->pid_start_ticks);
}

/* What is not said there is as by default: also all of it, in a file of an older memocd. */
static bool read_policy(const struct json *vm, struct vmpolicy *ret)
{
	const struct json *policy = json_get(vm, "policy");

	*ret = vmpolicy_default();
	if (policy && json_type(policy) != JSON_OBJECT)
		return false;
	for (size_t i = 0; vmpolicy_keys[i].name; i++) {
		const char *value = NULL;
		int r = json_get_str(policy, vmpolicy_keys[i].name, &value);

		if (r == 0)
			r = vmpolicy_set(ret, vmpolicy_keys[i].name, value, NULL);
		if (r < 0 && r != -ENOENT)
			return false;
	}
	return true;
}

static bool read_vm(const struct json *j, struct state_vm *vm)
{
	struct vm_memory *m = &vm->memory;

	return read_identity(j, vm) && read_bool(j, "known", &m->known) &&
	       read_u64(j, "target_bytes", &m->target_bytes) && read_health(j, &m->health) &&
	       read_u64(j, "balloon_bytes_per_s", &m->speed_bytes_per_s) &&
	       read_u64(j, "floor_bytes", &m->floor_bytes) && read_u64(j, "retry_delay_ms", &m->retry_delay_ms) &&
	       read_u64(j, "pinned_bytes", &m->pinned_bytes) && read_bool(j, "held", &m->held) &&
	       read_bool(j, "drained", &m->drained) && read_bool(j, "limit_ours", &m->limit_ours) &&
	       read_bool(j, "silent", &m->silent) && read_bool(j, "distrusted", &m->distrusted) &&
	       read_bool(j, "by_limit", &m->by_limit) && read_u64(j, "advice_limit_bytes", &m->advice_limit_bytes) &&
	       read_u64(j, "trim_from_bytes", &m->trim_from_bytes) &&
	       read_u64(j, "overhead_bytes", &m->overhead_bytes) && read_bool(j, "limit_open", &vm->limit_open) &&
	       read_policy(j, &vm->policy);
}

/* 0; −EINVAL with why; −ENOMEM. */
static int from_json(const struct json *root, struct state *ret, struct memoc_err *err)
{
	const struct json *vms = json_get(root, "vms");
	struct state s = {0};
	uint64_t version = 0;
	int r = 0;

	if (json_get_u64(root, "memoc_state", &version) < 0 || version != STATE_VERSION)
		return memoc_err_set(err, -EINVAL, "it is not a state file of this version of memocd");
	if (json_type(vms) != JSON_ARRAY || !read_bool(root, "hold_all", &s.hold_all) ||
	    !read_bool(root, "whole", &s.whole))
		return memoc_err_set(err, -EINVAL, "a part of it is missing or of a wrong type");
	s.vms = calloc(json_len(vms) + 1, sizeof(*s.vms));
	if (!s.vms)
		return memoc_err_set(err, -ENOMEM, "no memory to read it");
	for (size_t i = 0; i < json_len(vms) && r == 0; i++) {
		struct state_vm *vm = &s.vms[s.n];

		if (!read_vm(json_at(vms, i), vm))
			r = memoc_err_set(err, -EINVAL, "entry %zu of its VMs is not good", i);
		else if (state_find(&s, vm->uuid))
			r = memoc_err_set(err, -EINVAL, "it holds the VM %s twice", vm->uuid);
		else
			s.n++;
	}
	if (r < 0)
		state_clear(&s);
	else
		*ret = s;
	return r;
}

/* Reads at most the limit and one byte more, which json_parse then refuses. */
static int read_whole(const char *path, char **ret_text, size_t *ret_len)
{
	int fd AUTO_CLOSE = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char *text AUTO_FREE = NULL;
	struct stat st;
	size_t size, len = 0;
	ssize_t n = 1;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	size = (size_t)min_u64((uint64_t)st.st_size, state_limits.bytes) + 1;
	text = malloc(size);
	if (!text)
		return -ENOMEM;
	while (len < size && n > 0) {
		n = read(fd, text + len, size - len);
		if (n < 0)
			return -errno;
		len += (size_t)n;
	}
	*ret_text = TAKE(text);
	*ret_len = len;
	return 0;
}

/* Always 1: what cannot even be put aside is left where it is, and the next save replaces it. */
static int put_aside(const char *path, const struct memoc_err *why, struct memoc_err *err)
{
	char bad[4096 + 8];

	snprintf(bad, sizeof(bad), "%s.bad", path);
	if (rename(path, bad) < 0)
		return memoc_err_set(err, 1, "%s is damaged (%.120s), cannot be put aside (%s) and will be replaced",
				     path, why->text, strerror(errno));
	return memoc_err_set(err, 1, "%s was damaged (%.120s): it is now %s, and what it remembered is learned again",
			     path, why->text, bad);
}

int state_load(const char *state_dir, struct state *ret, struct memoc_err *err)
{
	struct json *root AUTO_JSON = NULL;
	char *text AUTO_FREE = NULL;
	struct memoc_err why = {0};
	struct state s = {0};
	char path[4096];
	size_t len = 0;
	int r = path_of(path, sizeof(path), state_dir, STATE_FILE, err);

	if (r < 0)
		return r;
	r = read_whole(path, &text, &len);
	if (r == -ENOENT) {
		*ret = s;
		return 0;
	}
	if (r == 0) {
		r = json_parse(text, len, &state_limits, &root, &why);
		if (r == 0)
			r = from_json(root, &s, &why);
	} else {
		memoc_err_set(&why, r, "%s", r == -EINVAL ? "it is no regular file" : strerror(-r));
	}
	if (r == -ENOMEM)
		memoc_err_set(err, r, "%s: cannot be read: %s", path, strerror(ENOMEM));
	else if (r < 0)
		r = put_aside(path, &why, err);
	if (r >= 0)
		*ret = s;
	return r;
}

void state_clear(struct state *s)
{
	free(s->vms);
	*s = (struct state){0};
}

const struct state_vm *state_find(const struct state *s, const char *uuid)
{
	for (size_t i = 0; i < s->n; i++)
		if (strcmp(s->vms[i].uuid, uuid) == 0)
			return &s->vms[i];
	return NULL;
}
