/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/daemon/control.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

struct client {
	struct client *next;
	struct control *control;
	struct varlink_conn *conn;
	ev_io io;
};

/* ---- pending calls ---- */

static void pending_timeout_cb(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct pending *p = w->data;
	ev_timer_stop(loop, w);
	methods_waiting(p);
}

struct pending *pending_new(struct daemon *d, struct varlink_call *call, int kind)
{
	struct pending *p = calloc(1, sizeof(*p));
	if (!p) {
		varlink_fail(call, "org.memoc.Controller.Failed", "{\"why\":\"out of memory\"}");
		return NULL;
	}
	p->daemon = d;
	p->call = call;
	p->kind = kind;
	ev_timer_init(&p->timer, pending_timeout_cb, 0., 0.);
	p->timer.data = p;
	p->next = d->control->pending;
	d->control->pending = p;
	varlink_call_set_data(call, p);
	return p;
}

void pending_free(struct pending *p)
{
	struct daemon *d = p->daemon;
	ev_timer_stop(d->loop, &p->timer);
	for (struct pending **at = &d->control->pending; *at; at = &(*at)->next) {
		if (*at != p)
			continue;
		*at = p->next;
		break;
	}
	free(p);
}

/* Ctrl-C while a VM was prepared for its migration: it is not wanted any more. */
static void trim_unwanted(struct pending *p)
{
	const struct event ev = {.type = EVENT_VM_TRIM, .vm = p->vm};
	struct daemon *d = p->daemon;
	pending_free(p);
	daemon_post(d, ev);
}

/* The client left. What waits for a worker's answer stays until that comes; the rest is forgotten. */
static void call_gone(struct varlink_call *call, void *conn_user)
{
	struct pending *p = varlink_call_data(call);
	if (!p)
		return;
	p->call = NULL;
	if (p->kind == WAIT_TRIM)
		trim_unwanted(p);
	else if (p->kind != WAIT_JOB && p->kind != WAIT_MEMBER && p->kind != WAIT_LIST)
		pending_free(p);
}

void control_event(struct control *c, const struct ring_event *ev)
{
	struct pending *next;
	for (struct pending *p = c->pending; p; p = next) {
		next = p->next;
		if (p->kind != WAIT_EVENTS || !events_match(p, ev))
			continue;
		struct json_writer *w = jw_new(false);
		char *text AUTO_FREE = NULL;
		jw_object(w, NULL);
		jw_array(w, "events");
		show_event(w, NULL, ev);
		jw_end(w);
		jw_end(w);
		if (jw_finish(w, &text, NULL) == 0)
			varlink_answer(p->call, text, true);
	}
}

void control_after_step(struct control *c)
{
	struct pending *next;
	for (struct pending *p = c->pending; p; p = next) {
		next = p->next;
		if (p->kind == WAIT_SIZE || p->kind == WAIT_DRAIN || p->kind == WAIT_TRIM)
			methods_waiting(p);
	}
}

/* ---- connections ---- */

static void client_drop(struct client *k, const char *why)
{
	struct control *c = k->control;
	if (why) {
		struct log_fields fields = {.message_id = MSG_CLIENT_DROPPED, .reason = why};
		log_fields(LOG_LEVEL_NOTICE, &fields, "client with pid %d, uid %u dropped: %s",
			   (int)varlink_conn_pid(k->conn), (unsigned)varlink_conn_uid(k->conn), why);
	}
	ev_io_stop(c->daemon->loop, &k->io);
	for (struct client **at = &c->clients; *at; at = &(*at)->next) {
		if (*at != k)
			continue;
		*at = k->next;
		break;
	}
	c->n_clients--;
	varlink_conn_free(k->conn);
	free(k);
}

static void client_cb(struct ev_loop *loop, ev_io *w, int revents)
{
	struct client *k = w->data;
	struct memoc_err err = {""};
	int r = 0;
	k->control->daemon->wakeups[WAKEUP_CLIENT]++;
	if (revents & EV_WRITE)
		r = varlink_conn_writable(k->conn, &err);
	if (r >= 0 && (revents & EV_READ))
		r = varlink_conn_readable(k->conn, &err);
	if (r < 0)
		client_drop(k, r == -ECONNRESET ? NULL : err.text[0] ? err.text : strerror(-r));
}

static void client_wants(struct varlink_conn *conn, int mask, void *user)
{
	struct client *k = user;
	struct ev_loop *loop = k->control->daemon->loop;
	int events = (mask & 1 ? EV_READ : 0) | (mask & 2 ? EV_WRITE : 0);
	ev_io_stop(loop, &k->io);
	ev_io_set(&k->io, varlink_conn_fd(conn), events);
	if (events)
		ev_io_start(loop, &k->io);
}

static const struct varlink_conn_ops client_ops = {.wants = client_wants, .call_gone = call_gone};

static void client_new(struct control *c, int fd)
{
	struct client *k = calloc(1, sizeof(*k));
	if (!k) {
		close(fd);
		return;
	}
	k->control = c;
	ev_init(&k->io, client_cb);
	k->io.data = k;
	ev_io_set(&k->io, fd, EV_READ);
	if (varlink_conn_new(c->server, fd, &client_ops, k, &k->conn) < 0) {
		close(fd);
		free(k);
		return;
	}
	k->next = c->clients;
	c->clients = k;
	c->n_clients++;
	ev_io_stop(c->daemon->loop, &k->io);
	ev_io_set(&k->io, fd, EV_READ);
	ev_io_start(c->daemon->loop, &k->io);
}

/* Is there room for one more client of this user? The hook and the administrator always find a place. */
static bool room_for(const struct control *c, uid_t uid)
{
	size_t users = 0, same = 0;
	for (const struct client *k = c->clients; k; k = k->next) {
		users += varlink_conn_uid(k->conn) != 0;
		same += varlink_conn_uid(k->conn) == uid;
	}
	if (c->n_clients >= CLIENTS_MAX)
		return false;
	return uid == 0 || (users < CLIENTS_USERS_MAX && same < CLIENTS_USER_MAX);
}

static void refuse_client(struct control *c, const struct ucred *peer)
{
	if (!c->full_told)
		log_fields(LOG_LEVEL_WARNING, &(struct log_fields){.message_id = MSG_CLIENT_DROPPED},
			   "too many connections: the newest, of pid %d, uid %u, is dropped", (int)peer->pid,
			   (unsigned)peer->uid);
	c->full_told = true;
}

static void accept_again_cb(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct control *c = w->data;
	ev_io_start(loop, &c->listen_io);
}

/* Out of descriptors or memory: the socket stays readable, so look away for a second. */
static void accept_failed(struct control *c)
{
	log_warning("cannot take a connection: %s", strerror(errno));
	ev_io_stop(c->daemon->loop, &c->listen_io);
	ev_timer_set(&c->accept_timer, 1., 0.);
	ev_timer_start(c->daemon->loop, &c->accept_timer);
}

static void listen_cb(struct ev_loop *loop, ev_io *w, int revents)
{
	struct control *c = w->data;
	c->daemon->wakeups[WAKEUP_CLIENT]++;
	for (unsigned i = 0; i < 16; i++) { /* a flood of connects must not hold up the rest */
		int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0) {
			if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
				accept_failed(c);
			return;
		}
		struct ucred peer = {.uid = (uid_t)-1};
		socklen_t len = sizeof(peer);
		if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && room_for(c, peer.uid)) {
			c->full_told = false;
			client_new(c, fd);
		} else {
			close(fd);
			refuse_client(c, &peer);
		}
	}
}

/* ---- the listening socket ---- */

/* A socket that nobody answers on is a leftover of a killed memocd; one that answers is another memocd. */
static int remove_leftover(const char *path, const struct sockaddr_un *address, struct memoc_err *err)
{
	struct stat st;
	if (lstat(path, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return memoc_err_set(err, -EEXIST, "%s: is there and is no socket; remove it or name another", path);
	int fd AUTO_CLOSE = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 || errno == EAGAIN))
		return memoc_err_set(err, -EADDRINUSE, "%s: another memocd answers there; stop it first", path);
	if (unlink(path) < 0)
		return memoc_err_set(err, -errno, "%s: leftover socket cannot be removed: %m", path);
	return 0;
}

/* root and group libvirt, 0660; without that group (no libvirt package) only root. */
static int open_to_group(const char *path, struct memoc_err *err)
{
	struct group *g = geteuid() == 0 ? getgrnam("libvirt") : NULL;
	if (g && chown(path, 0, g->gr_gid) < 0)
		return memoc_err_set(err, -errno, "%s: cannot be given to group libvirt: %m", path);
	if (chmod(path, g ? 0660 : 0600) < 0)
		return memoc_err_set(err, -errno, "%s: mode cannot be set: %m", path);
	return 0;
}

static int listen_on(const char *path, struct memoc_err *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(address.sun_path))
		return memoc_err_set(err, -ENAMETOOLONG, "%s: longer than the %zu bytes of a socket's path", path,
				     sizeof(address.sun_path) - 1);
	memcpy(address.sun_path, path, strlen(path) + 1);
	int r = remove_leftover(path, &address, err);
	if (r < 0)
		return r;
	int fd AUTO_CLOSE = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return memoc_err_set(err, -errno, "cannot make a socket: %m");
	mode_t before = umask(0177);
	int bound = bind(fd, (struct sockaddr *)&address, sizeof(address));
	umask(before);
	if (bound < 0)
		return memoc_err_set(err, -errno, "%s: cannot listen there: %m; is the directory there and writable?",
				     path);
	r = open_to_group(path, err);
	if (r < 0)
		return r;
	if (listen(fd, 128) < 0)
		return memoc_err_set(err, -errno, "%s: cannot listen there: %m", path);
	return TAKE_FD(fd);
}

/* systemd's socket (it may come blocking), or our own. */
static int open_socket(struct control *c, struct memoc_err *err)
{
	int n = sd_listen_fds(1);
	c->activated = n > 0;
	c->listen_fd = c->activated ? SD_LISTEN_FDS_START : listen_on(c->daemon->options->socket_path, err);
	if (c->listen_fd < 0)
		return c->listen_fd;
	if (!c->activated)
		return 0;
	if (n != 1 || sd_is_socket_unix(c->listen_fd, SOCK_STREAM, 1, NULL, 0) <= 0)
		return memoc_err_set(err, -EINVAL,
				     "socket activation: one listening unix stream socket is wanted, %d came", n);
	int flags = fcntl(c->listen_fd, F_GETFL);
	if (flags < 0 || fcntl(c->listen_fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return memoc_err_set(err, -errno, "socket activation: the socket cannot be made non-blocking: %m");
	return 0;
}

/* What it asked is not read on: whatever it was, the answer is the same. */
static void refuse_waiting(int fd, const char *reply, size_t len)
{
	char asked[4096];
	if (recv(fd, asked, sizeof(asked), MSG_DONTWAIT) < 0 && errno != EAGAIN)
		return;
	(void)!send(fd, reply, len, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void control_refuse_waiting(const char *why)
{
	if (sd_listen_fds(1) != 1)
		return;
	struct json_writer *w = jw_new(false);
	char *reply AUTO_FREE = NULL;
	size_t len;
	jw_object(w, NULL);
	jw_str(w, "error", "org.memoc.Controller.Failed");
	jw_object(w, "parameters");
	jw_str(w, "why", why);
	jw_end(w);
	jw_end(w);
	int flags = fcntl(SD_LISTEN_FDS_START, F_GETFL);
	if (jw_finish(w, &reply, &len) < 0 || fcntl(SD_LISTEN_FDS_START, F_SETFL, flags | O_NONBLOCK) < 0)
		return;
	for (int n = 0; n < SOMAXCONN; n++) {
		int fd AUTO_CLOSE = accept4(SD_LISTEN_FDS_START, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0)
			break;
		refuse_waiting(fd, reply, len + 1); /* varlink ends a message with a 0 byte */
	}
	close(SD_LISTEN_FDS_START);
}

int control_new(struct daemon *d, struct control **ret, struct memoc_err *err)
{
	static const struct varlink_limits limits = {.message_bytes = VARLINK_MESSAGE_MAX,
						     .unread_bytes = VARLINK_REPLY_MAX};
	struct control *c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->daemon = d;
	int r = open_socket(c, err);
	if (r == 0)
		r = varlink_server_new("memoc", "memocd", MEMOC_VERSION, "https://memoc.org", memoc_interfaces, &limits,
				       d, &c->server);
	if (r < 0) {
		if (c->listen_fd >= 0)
			close(c->listen_fd);
		free(c);
		return r;
	}
	ev_timer_init(&c->accept_timer, accept_again_cb, 0., 0.);
	c->accept_timer.data = c;
	ev_io_init(&c->listen_io, listen_cb, c->listen_fd, EV_READ);
	c->listen_io.data = c;
	ev_io_start(d->loop, &c->listen_io);
	*ret = c;
	return 0;
}

/* After the pools: their last results still answer calls. */
struct control *control_free(struct control *c)
{
	if (!c)
		return NULL;
	ev_io_stop(c->daemon->loop, &c->listen_io);
	ev_timer_stop(c->daemon->loop, &c->accept_timer);
	close(c->listen_fd);
	if (!c->activated)
		unlink(c->daemon->options->socket_path);
	while (c->clients)
		client_drop(c->clients, NULL);
	while (c->pending) /* jobs of threads that hang and were abandoned */
		pending_free(c->pending);
	varlink_server_free(c->server);
	free(c);
	return NULL;
}
