// The floors of hf-bench: the least that a program does for what the agent and
// PID 1 do, in C and linked statically. hf-bench builds it where it runs.
//
//	floor echo|cat|copy ADDRESS        serve one connection after the other
//	floor spawn ADDRESS PROGRAM
//	floor pid1 ADDRESS [SOURCE TARGET TYPE FLAGS DATA]...   as PID 1
//
// An ADDRESS is unix:PATH or vsock:PORT.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

extern char **environ;

static void die(const char *what) {
	perror(what);
	exit(1);
}

static int listen_on(const char *address) {
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct sockaddr_vm vm = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY};
	struct sockaddr *sa = (struct sockaddr *)&un;
	socklen_t len = sizeof un;
	if (!strncmp(address, "unix:", 5)) {
		strncpy(un.sun_path, address + 5, sizeof un.sun_path - 1);
		unlink(un.sun_path);
	} else if (!strncmp(address, "vsock:", 6)) {
		vm.svm_port = atoi(address + 6);
		sa = (struct sockaddr *)&vm;
		len = sizeof vm;
	} else {
		errno = EINVAL;
		die(address);
	}
	int fd = socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, sa, len) || listen(fd, 128))
		die(address);
	return fd;
}

static void put(int fd, const char *p, size_t n) {
	while (n > 0) {
		ssize_t m = write(fd, p, n);
		if (m <= 0)
			return;
		p += m, n -= m;
	}
}

static char buf[128 << 10]; // as cat has

static void echo(int c) {
	ssize_t n;
	while ((n = read(c, buf, sizeof buf)) > 0)
		put(c, buf, n);
}

// The head of a transfer is one line: what to do, how many bytes, a file.
static ssize_t head(int c, char *op, long long *size, char *path, size_t *used) {
	ssize_t n = read(c, buf, sizeof buf - 1);
	if (n <= 0)
		return -1;
	buf[n] = 0;
	char *end = strchr(buf, '\n');
	if (!end || sscanf(buf, "%c %lld %255s", op, size, path) != 3)
		return -1;
	*used = end + 1 - buf;
	return n;
}

// cat copies bytes through its memory, to a file or from it.
static void cat(int c) {
	char op, path[256];
	long long size;
	size_t used;
	ssize_t n = head(c, &op, &size, path, &used);
	if (n < 0)
		return;
	if (op == 'r') {
		int f = open(path, O_RDONLY);
		while ((n = read(f, buf, sizeof buf)) > 0)
			put(c, buf, n);
		close(f);
		return;
	}
	int f = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	put(f, buf + used, n - used);
	size -= n - used;
	while (size > 0 && (n = read(c, buf, sizeof buf)) > 0) {
		put(f, buf, n);
		size -= n;
	}
	close(f);
	put(c, "\n", 1);
}

// copy does not: the kernel moves them.
static void copy(int c) {
	char op, path[256];
	long long size;
	size_t used;
	if (head(c, &op, &size, path, &used) < 0)
		return;
	if (op == 'g') {
		int f = open(path, O_RDONLY);
		while (size > 0) {
			ssize_t n = sendfile(c, f, NULL, size);
			if (n <= 0)
				break;
			size -= n;
		}
		close(f);
		return;
	}
	int f = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644), p[2];
	if (pipe(p))
		die("pipe");
	fcntl(p[1], F_SETPIPE_SZ, 1 << 20);
	put(c, "\n", 1);
	while (size > 0) {
		ssize_t n = splice(c, NULL, p[1], NULL, size < 1 << 20 ? size : 1 << 20, SPLICE_F_MOVE);
		if (n <= 0)
			break;
		size -= n;
		while (n > 0) {
			ssize_t m = splice(p[0], NULL, f, NULL, n, SPLICE_F_MOVE);
			if (m <= 0)
				die("splice to a file");
			n -= m;
		}
	}
	close(p[0]), close(p[1]), close(f);
	put(c, "\n", 1);
}

static int64_t now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

// spawn runs a program for each byte and says how many nanoseconds that took.
static void spawn(int c, char *program) {
	char *argv[] = {program, NULL}, byte;
	while (read(c, &byte, 1) == 1) {
		int64_t began = now();
		int status;
		pid_t pid;
		if (posix_spawn(&pid, program, NULL, NULL, argv, environ) || waitpid(pid, &status, 0) != pid || status)
			die(program);
		began = now() - began;
		put(c, (char *)&began, sizeof began);
	}
}

// pid1 mounts and listens, and answers each request as a ping.
static void pid1(int argc, char **argv) {
	static const char pong[] = "{\"success\":true,\"data\":{\"pong\":true}}\n";
	for (int i = 3; i + 4 < argc; i += 5) {
		mkdir(argv[i + 1], 0755);
		if (mount(argv[i], argv[i + 1], argv[i + 2], strtoul(argv[i + 3], NULL, 0), argv[i + 4]))
			perror(argv[i + 1]);
	}
	int l = listen_on(argv[2]), c;
	while ((c = accept4(l, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		if (read(c, buf, sizeof buf) > 0)
			put(c, pong, sizeof pong - 1);
		close(c);
	}
	die("accept");
}

int main(int argc, char **argv) {
	if (argc < 3)
		return 2;
	if (!strcmp(argv[1], "pid1"))
		pid1(argc, argv);
	int l = listen_on(argv[2]), c;
	while ((c = accept4(l, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		switch (argv[1][0] + argv[1][1]) {
		case 'e' + 'c': echo(c); break;
		case 'c' + 'a': cat(c); break;
		case 'c' + 'o': copy(c); break;
		case 's' + 'p': spawn(c, argv[3]); break;
		}
		close(c);
	}
	die("accept");
}
